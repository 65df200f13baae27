// The derivatives that the operators do not have: each raises, where without a word it would be zero.
#pragma once

#include <ATen/FuncTorchTLS.h>

#include <algorithm>

#include "ops.h"

namespace hyperloader {

// There is one level of forward-mode derivatives; torch.func nests them by wrapping tensors.
inline bool has_tangent(const Tensor& tensor) { return tensor.defined() && tensor._fw_grad(0).defined(); }
inline bool has_tangent(const std::optional<Tensor>& tensor) { return tensor && has_tangent(*tensor); }
inline bool has_tangent(at::TensorList tensors) {
  return std::any_of(tensors.begin(), tensors.end(), [](const Tensor& tensor) { return has_tangent(tensor); });
}

template <typename... Arguments>
void refuse_tangents(const char* name, const Arguments&... arguments) {
  TORCH_CHECK_NOT_IMPLEMENTED(
      !(has_tangent(arguments) || ...), "hyperloader::", name,
      " has no forward-mode derivative (jvp, jacfwd, forward_ad); hyperloader.use_backend('reference') has, and ",
      "reverse mode works with every backend");
}

// A C++ autograd function cannot take part in torch.func.grad and its kind; PyTorch alone knows whether one is active.
inline void refuse_transforms(const char* name) {
  const auto& state = at::functorch::functorchTLSAccessor();
  if (!state) return;
  try {
    state->checkSupportsCppAutogradFunction();
  } catch (const c10::Error&) {
    TORCH_CHECK_NOT_IMPLEMENTED(
        false, "hyperloader::", name, " has no derivative inside torch.func's grad, vjp and jacrev; ",
        "hyperloader.use_backend('reference') has, and torch.autograd.grad works with every backend");
  }
}

}  // namespace hyperloader
