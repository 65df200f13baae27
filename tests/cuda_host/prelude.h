// What every source includes first, compiled once: PyTorch's headers, CUDA's words, and the library's own namespace, so
// that it can be loaded beside the extension. What is registered for CUDA is registered for the CPU.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <algorithm>
#include <string>
#include <vector>

#include "device.h"

#define CUDA_HOST_LIBRARY(kind, key, init, m)                                         \
  static void init(torch::Library&);                                                  \
  static const torch::detail::TorchLibraryInit C10_CONCATENATE(init, _registered)(    \
      torch::Library::kind, &init, "hyperloader_cuda_host", key, __FILE__, __LINE__); \
  void init(torch::Library& m)
#define CUDA_HOST_KEY_CUDA c10::DispatchKey::CPU
#define CUDA_HOST_KEY_Autograd c10::DispatchKey::Autograd
#define CUDA_HOST_KEY_CompositeImplicitAutograd c10::DispatchKey::CompositeImplicitAutograd

#undef TORCH_LIBRARY
#undef TORCH_LIBRARY_IMPL
#define TORCH_LIBRARY(ns, m) CUDA_HOST_LIBRARY(DEF, std::nullopt, C10_CONCATENATE(define_, C10_UID), m)
#define TORCH_LIBRARY_IMPL(ns, key, m) \
  CUDA_HOST_LIBRARY(IMPL, CUDA_HOST_KEY_##key, C10_CONCATENATE(implement_, C10_UID), m)
