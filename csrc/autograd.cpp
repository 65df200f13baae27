#include "autograd.h"

#include <ATen/FuncTorchTLS.h>

namespace hyperloader {

void refuse_tangents(const char* name, bool found) {
  TORCH_CHECK_NOT_IMPLEMENTED(
      !found, "hyperloader::", name,
      " has no forward-mode derivative (jvp, jacfwd, forward_ad); hyperloader.use_backend('reference') has, and ",
      "reverse mode works with every backend");
}

void refuse_transforms(const char* name) {
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

variable_list one_each(const variable_list& tensors, const variable_list& grads, size_t count) {
  variable_list found;
  found.reserve(count);
  auto next = grads.begin();
  for (const Tensor& tensor : tensors) {
    const bool has_grad = tensor.defined() && at::isFloatingType(tensor.scalar_type());
    found.push_back(has_grad ? *next++ : Tensor());
  }
  found.resize(count);
  return found;
}

}  // namespace hyperloader
