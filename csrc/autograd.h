// Autograd of the operators: what each saves, and the gradients of its arguments.
#pragma once

#include "calls.h"

#include <torch/csrc/autograd/custom_function.h>

#include <string>

#include "derivatives.h"

namespace hyperloader {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Calls a backward operator for these gradients of the results. Without a graph of the gradients wanted it goes straight to the device's kernel, past the
// boxed fallback that would refuse a second derivative.
template <typename Call>
variable_list in_backward(const char* name, const variable_list& grads, const Call& call) {
  refuse_tangents(name, grads);
  if (at::GradMode::is_enabled()) return call();
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  return call();
}

// Autograd: a gradient for every argument of `forward`, undefined where it has none.

struct Condition : torch::autograd::Function<Condition> {
  static Tensor forward(
      AutogradContext* context, const Tensor& task_embedding, const Tensor& layer_embedding,
      const Tensor& position_embedding, const Tensor& layers, const Tensor& positions, const Tensor& first_weight,
      const Tensor& first_bias, const Tensor& second_weight, const Tensor& second_bias, const Tensor& norm_weight,
      const Tensor& norm_bias, at::ArrayRef<double> scales, double eps) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    context->save_for_backward(
        {task_embedding, layer_embedding, position_embedding, layers, positions, first_weight, first_bias,
         second_weight, second_bias, norm_weight, norm_bias});
    context->saved_data["scales"] = scales;
    context->saved_data["eps"] = eps;
    context->set_materialize_grads(false);
    return call_condition(
        task_embedding, layer_embedding, position_embedding, layers, positions, first_weight, first_bias, second_weight,
        second_bias, norm_weight, norm_bias, scales, eps);
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    constexpr size_t kArguments = 13, kIndices = 3;  // where `layers` and `positions` stand
    variable_list results(kArguments);
    if (!grads[0].defined()) return results;
    const variable_list s = context->get_saved_variables();
    const std::vector<double> scales = context->saved_data["scales"].toDoubleVector();
    const double eps = context->saved_data["eps"].toDouble();
    const variable_list found = in_backward("condition_backward", grads, [&] {
      return call_condition_backward(
          grads[0], s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7], s[8], s[9], s[10], scales, eps);
    });
    for (size_t i = 0; i < found.size(); ++i) results[i < kIndices ? i : i + 2] = found[i];
    return results;
  }
};

struct Generate : torch::autograd::Function<Generate> {
  static variable_list forward(
      AutogradContext* context, const Tensor& condition, at::TensorList weights, at::TensorList biases,
      const c10::List<bool>& has_bias, std::optional<at::ScalarType> dtype) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    variable_list saved{condition};
    saved.insert(saved.end(), weights.begin(), weights.end());
    context->save_for_backward(std::move(saved));
    context->saved_data["has_bias"] = has_bias;
    return call_generate(condition, weights, biases, has_bias, dtype);
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const variable_list saved = context->get_saved_variables();
    const c10::List<bool> has_bias = context->saved_data["has_bias"].toBoolList();
    variable_list results = in_backward("generate_backward", grads, [&] {
      return call_generate_backward(grads, saved[0], at::TensorList(saved).slice(1), has_bias);
    });
    results.resize(results.size() + 2);  // has_bias, dtype
    return results;
  }
};

struct Adapter : torch::autograd::Function<Adapter> {
  static variable_list forward(
      AutogradContext* context, const Tensor& x, const Tensor& down_weight, const Tensor& down_bias,
      const Tensor& up_weight, const Tensor& up_bias, const Optional& norm_weight, const Optional& norm_bias,
      const Optional& pre_norm_weight, const Optional& pre_norm_bias, const Optional& group, std::string_view norm,
      std::string_view activation, double eps) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    auto [y, pre] = call_adapter(
        x, down_weight, down_bias, up_weight, up_bias, norm_weight, norm_bias, pre_norm_weight, pre_norm_bias, group,
        norm, activation, eps);
    context->save_for_backward(
        {x, pre, down_weight, down_bias, up_weight, up_bias, or_undefined(norm_weight), or_undefined(norm_bias),
         or_undefined(pre_norm_weight), or_undefined(pre_norm_bias), or_undefined(group)});
    context->saved_data["norm"] = std::string(norm);
    context->saved_data["activation"] = std::string(activation);
    context->saved_data["eps"] = eps;
    context->mark_non_differentiable({pre});
    context->set_materialize_grads(false);
    return {y, pre};
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    constexpr size_t kArguments = 13, kFirstNorm = 6, kGroup = 10;  // positions in `saved`
    variable_list results(kArguments);
    if (!grads[0].defined()) return results;
    const variable_list s = context->get_saved_variables();
    const std::string& norm = context->saved_data["norm"].toStringRef();
    const std::string& activation = context->saved_data["activation"].toStringRef();
    const double eps = context->saved_data["eps"].toDouble();
    const variable_list present = in_backward("adapter_backward", grads, [&] {
      return call_adapter_backward(
          grads[0], s[0], s[1], s[2], s[3], s[4], s[5], or_none(s[6]), or_none(s[7]), or_none(s[8]), or_none(s[9]),
          or_none(s[kGroup]), norm, activation, eps);
    });
    size_t next = 0;
    for (size_t i = 0; i < 5; ++i) results[i] = present[next++];  // x, down, up
    for (size_t i = kFirstNorm; i < kGroup; ++i) {
      if (s[i].defined()) results[i - 1] = present[next++];
    }
    return results;
  }
};

struct LoraLinears : torch::autograd::Function<LoraLinears> {
  static variable_list forward(
      AutogradContext* context, const Tensor& x, at::TensorList weights, at::TensorList biases, at::TensorList lora_A,
      at::TensorList lora_B, const Optional& group, double scaling) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    variable_list saved{x, or_undefined(group)};
    for (const at::TensorList list : {weights, lora_A, lora_B}) saved.insert(saved.end(), list.begin(), list.end());
    context->save_for_backward(std::move(saved));
    context->saved_data["has_bias"] = !biases.empty();
    context->saved_data["scaling"] = scaling;
    return call_lora_linears(x, weights, biases, lora_A, lora_B, group, scaling);
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const size_t count = grads.size();
    const bool has_bias = context->saved_data["has_bias"].toBool();
    // The tensors stand one after the other: x, and `count` of each list that is there.
    size_t next = 0;
    const auto any = [&](size_t tensors) {
      bool found = false;
      for (size_t i = 0; i < tensors; ++i) found |= context->needs_input_grad(next + i);
      next += tensors;
      return found;
    };
    const bool needs_x = any(1), needs_weights = any(count), needs_biases = any(has_bias ? count : 0);
    const bool needs_A = any(count), needs_B = any(count);
    const c10::List<bool> needed({needs_x, needs_weights, needs_biases, needs_A, needs_B});

    const variable_list saved = context->get_saved_variables();
    const auto list = [&](size_t index) { return at::TensorList(saved).slice(2 + index * count, count); };
    const double scaling = context->saved_data["scaling"].toDouble();
    const variable_list present = in_backward("lora_linears_backward", grads, [&] {
      return call_lora_linears_backward(grads, saved[0], list(0), list(1), list(2), or_none(saved[1]), scaling, needed);
    });
    variable_list results;
    auto found = present.begin();
    const auto give = [&](bool wanted, size_t tensors) {
      for (size_t i = 0; i < tensors; ++i) results.push_back(wanted ? *found++ : Tensor());
    };
    give(needs_x, 1);
    give(needs_weights, count);
    give(needs_biases, has_bias ? count : 0);
    give(needs_A, count);
    give(needs_B, count);
    give(false, 2);  // group, scaling
    return results;
  }
};

}  // namespace hyperloader
