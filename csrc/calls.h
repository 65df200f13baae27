// Calls of the operators through the dispatcher, to the kernel of the tensors' device.
#pragma once

#include <ATen/core/dispatch/Dispatcher.h>

#include <tuple>

#include "ops.h"

namespace hyperloader {

using Optional = std::optional<Tensor>;

template <typename Signature>
c10::TypedOperatorHandle<Signature> find(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

inline Tensor call_condition(
    const Tensor& task_embedding, const Tensor& layer_embedding, const Tensor& position_embedding, const Tensor& layers,
    const Tensor& positions, const Tensor& first_weight, const Tensor& first_bias, const Tensor& second_weight,
    const Tensor& second_bias, const Tensor& norm_weight, const Tensor& norm_bias, at::ArrayRef<double> scales,
    double eps) {
  static const auto op = find<decltype(call_condition)>("hyperloader::condition");
  return op.call(
      task_embedding, layer_embedding, position_embedding, layers, positions, first_weight, first_bias, second_weight,
      second_bias, norm_weight, norm_bias, scales, eps);
}

inline std::vector<Tensor> call_condition_backward(
    const Tensor& grad, const Tensor& task_embedding, const Tensor& layer_embedding, const Tensor& position_embedding,
    const Tensor& layers, const Tensor& positions, const Tensor& first_weight, const Tensor& first_bias,
    const Tensor& second_weight, const Tensor& second_bias, const Tensor& norm_weight, const Tensor& norm_bias,
    at::ArrayRef<double> scales, double eps) {
  static const auto op = find<decltype(call_condition_backward)>("hyperloader::condition_backward");
  return op.call(
      grad, task_embedding, layer_embedding, position_embedding, layers, positions, first_weight, first_bias,
      second_weight, second_bias, norm_weight, norm_bias, scales, eps);
}

inline std::vector<Tensor> call_generate(
    const Tensor& condition, at::TensorList weights, at::TensorList biases, const c10::List<bool>& has_bias,
    std::optional<at::ScalarType> dtype) {
  static const auto op = find<decltype(call_generate)>("hyperloader::generate");
  return op.call(condition, weights, biases, has_bias, dtype);
}

inline std::vector<Tensor> call_generate_backward(
    at::TensorList grads, const Tensor& condition, at::TensorList weights, const c10::List<bool>& has_bias) {
  static const auto op = find<decltype(call_generate_backward)>("hyperloader::generate_backward");
  return op.call(grads, condition, weights, has_bias);
}

inline std::tuple<Tensor, Tensor> call_adapter(
    const Tensor& x, const Tensor& down_weight, const Tensor& down_bias, const Tensor& up_weight, const Tensor& up_bias,
    const Optional& norm_weight, const Optional& norm_bias, const Optional& pre_norm_weight,
    const Optional& pre_norm_bias, const Optional& group, std::string_view norm, std::string_view activation,
    double eps) {
  static const auto op = find<decltype(call_adapter)>("hyperloader::adapter");
  return op.call(
      x, down_weight, down_bias, up_weight, up_bias, norm_weight, norm_bias, pre_norm_weight, pre_norm_bias, group,
      norm, activation, eps);
}

inline std::vector<Tensor> call_adapter_backward(
    const Tensor& grad, const Tensor& x, const Tensor& pre, const Tensor& down_weight, const Tensor& down_bias,
    const Tensor& up_weight, const Tensor& up_bias, const Optional& norm_weight, const Optional& norm_bias,
    const Optional& pre_norm_weight, const Optional& pre_norm_bias, const Optional& group, std::string_view norm,
    std::string_view activation, double eps) {
  static const auto op = find<decltype(call_adapter_backward)>("hyperloader::adapter_backward");
  return op.call(
      grad, x, pre, down_weight, down_bias, up_weight, up_bias, norm_weight, norm_bias, pre_norm_weight, pre_norm_bias,
      group, norm, activation, eps);
}

inline std::vector<Tensor> call_lora_linears(
    const Tensor& x, at::TensorList weights, at::TensorList biases, at::TensorList lora_A, at::TensorList lora_B,
    const Optional& group, double scaling) {
  static const auto op = find<decltype(call_lora_linears)>("hyperloader::lora_linears");
  return op.call(x, weights, biases, lora_A, lora_B, group, scaling);
}

inline std::vector<Tensor> call_lora_linears_backward(
    at::TensorList grads, const Tensor& x, at::TensorList weights, at::TensorList lora_A, at::TensorList lora_B,
    const Optional& group, double scaling, const c10::List<bool>& needed) {
  static const auto op = find<decltype(call_lora_linears_backward)>("hyperloader::lora_linears_backward");
  return op.call(grads, x, weights, lora_A, lora_B, group, scaling, needed);
}

}  // namespace hyperloader
