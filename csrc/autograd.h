// What the operators' autograd functions share. Each operator is differentiable once, in reverse mode; every other
// derivative raises instead of being silently zero.
#pragma once

#include <torch/csrc/autograd/custom_function.h>

#include <vector>

#include "ops.h"

namespace hyperloader {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Whether `predicate` holds for a tensor of an argument.
template <typename Predicate, typename T>
bool holds(const Predicate& predicate, const T& argument) {
  if constexpr (std::is_same_v<T, Tensor>) {
    return argument.defined() && predicate(argument);
  } else if constexpr (std::is_same_v<T, Optional>) {
    return argument.has_value() && holds(predicate, *argument);
  } else if constexpr (std::is_same_v<T, at::TensorList> || std::is_same_v<T, variable_list>) {
    return std::any_of(argument.begin(), argument.end(), [&](const Tensor& one) { return holds(predicate, one); });
  } else {
    return false;
  }
}

template <typename Predicate, typename Arguments>
bool any_holds(const Predicate& predicate, const Arguments& arguments) {
  return std::apply([&](const auto&... flat) { return (holds(predicate, flat) || ...); }, arguments.flat());
}

// There is one level of forward-mode derivatives; torch.func nests them by wrapping tensors.
inline bool has_tangent(const Tensor& tensor) { return tensor._fw_grad(0).defined(); }

void refuse_tangents(const char* name, bool found);

// A C++ autograd function cannot take part in torch.func.grad and its kind; PyTorch alone knows whether one is active.
void refuse_transforms(const char* name);

// Calls the kernel of the tensors' device.
template <typename Arguments>
typename Arguments::Result call_below_autograd(const Arguments& arguments) {
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  return call(arguments);
}

// Whether autograd must follow the operator.
template <typename Arguments>
bool needs_gradient(const Arguments& arguments) {
  refuse_tangents(Arguments::kName, any_holds(has_tangent, arguments));
  const auto requires_grad = [](const Tensor& tensor) { return tensor.requires_grad(); };
  if (!at::GradMode::is_enabled() || !any_holds(requires_grad, arguments)) return false;
  refuse_transforms(Arguments::kName);
  return true;
}

// torch::autograd::Function finds the tensors among its arguments only one by one.
template <typename Function, typename Arguments>
auto apply(const Arguments& arguments) {
  return std::apply([](const auto&... flat) { return Function::apply(flat...); }, arguments.flat());
}

// Calls a backward operator for the gradients `grads` of the results. Without a graph of the gradients wanted it goes
// straight to the device's kernel, past the boxed fallback that would refuse a second derivative.
template <typename Arguments>
variable_list call_backward(const variable_list& grads, const Arguments& arguments) {
  refuse_tangents(Arguments::kName, holds(has_tangent, grads));
  return at::GradMode::is_enabled() ? call(arguments) : call_below_autograd(arguments);
}

// The tensors among the arguments in their order, undefined where there is none.
template <typename Arguments>
variable_list tensors_of(const Arguments& arguments) {
  variable_list found;
  const auto add = [&](const auto& argument) {
    using T = std::decay_t<decltype(argument)>;
    if constexpr (std::is_same_v<T, Tensor>) found.push_back(argument);
    if constexpr (std::is_same_v<T, Optional>) found.push_back(or_undefined(argument));
  };
  std::apply([&](const auto&... flat) { (add(flat), ...); }, arguments.flat());
  return found;
}

// A gradient for every one of `count` arguments, which begin with `tensors`: the next of `grads` for each floating
// tensor that is there, none for indices, absent tensors and options.
variable_list one_each(const variable_list& tensors, const variable_list& grads, size_t count);

}  // namespace hyperloader
