// The operators' kernels in this library, for the dispatcher.
#pragma once

#include <torch/library.h>

namespace cuda_host {

struct Kernels {
  explicit Kernels(void (*implement)(torch::Library&));
};

}  // namespace cuda_host
