// What every CUDA source includes first, compiled once: PyTorch's headers, CUDA's words, and a registration that can be
// taken back.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

#include <algorithm>
#include <string>
#include <vector>

#include "device.h"
#include "kernels.h"

// What is registered for CUDA here computes on the CPU while the tests ask for it.
#undef TORCH_LIBRARY_IMPL
#define TORCH_LIBRARY_IMPL(ns, key, m) CUDA_HOST_KERNELS(C10_CONCATENATE(implement_, C10_UID), m)
#define CUDA_HOST_KERNELS(implement, m)                                               \
  static void implement(torch::Library&);                                             \
  static const cuda_host::Kernels C10_CONCATENATE(implement, _registered)(implement); \
  void implement(torch::Library& m)
