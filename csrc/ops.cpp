// The operators: schemas, and what runs before the kernels. Each device registers its kernels in csrc/<device>/<operator>.
#include "autograd.h"

#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/library.h>

#include <tuple>

namespace hyperloader {
namespace {

using torch::autograd::compute_requires_grad;
using torch::autograd::variable_list;

// The kernels of the key Autograd: straight on where no gradient is wanted.

Tensor condition(
    const Tensor& task_embedding, const Tensor& layer_embedding, const Tensor& position_embedding, const Tensor& layers,
    const Tensor& positions, const Tensor& first_weight, const Tensor& first_bias, const Tensor& second_weight,
    const Tensor& second_bias, const Tensor& norm_weight, const Tensor& norm_bias, at::ArrayRef<double> scales,
    double eps) {
  refuse_tangents(
      "condition", task_embedding, layer_embedding, position_embedding, first_weight, first_bias, second_weight,
      second_bias, norm_weight, norm_bias);
  if (compute_requires_grad(
          task_embedding, layer_embedding, position_embedding, first_weight, first_bias, second_weight, second_bias,
          norm_weight, norm_bias)) {
    refuse_transforms("condition");
    return Condition::apply(
        task_embedding, layer_embedding, position_embedding, layers, positions, first_weight, first_bias, second_weight,
        second_bias, norm_weight, norm_bias, scales, eps);
  }
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  return call_condition(
      task_embedding, layer_embedding, position_embedding, layers, positions, first_weight, first_bias, second_weight,
      second_bias, norm_weight, norm_bias, scales, eps);
}

std::vector<Tensor> generate(
    const Tensor& condition, at::TensorList weights, at::TensorList biases, const c10::List<bool>& has_bias,
    std::optional<at::ScalarType> dtype) {
  refuse_tangents("generate", condition, weights, biases);
  if (compute_requires_grad(condition, weights, biases)) {
    refuse_transforms("generate");
    return Generate::apply(condition, weights, biases, has_bias, dtype);
  }
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  return call_generate(condition, weights, biases, has_bias, dtype);
}

std::tuple<Tensor, Tensor> adapter(
    const Tensor& x, const Tensor& down_weight, const Tensor& down_bias, const Tensor& up_weight, const Tensor& up_bias,
    const Optional& norm_weight, const Optional& norm_bias, const Optional& pre_norm_weight,
    const Optional& pre_norm_bias, const Optional& group, std::string_view norm, std::string_view activation,
    double eps) {
  refuse_tangents(
      "adapter", x, down_weight, down_bias, up_weight, up_bias, norm_weight, norm_bias, pre_norm_weight, pre_norm_bias);
  if (compute_requires_grad(
          x, down_weight, down_bias, up_weight, up_bias, norm_weight, norm_bias, pre_norm_weight, pre_norm_bias)) {
    refuse_transforms("adapter");
    const variable_list results = Adapter::apply(
        x, down_weight, down_bias, up_weight, up_bias, norm_weight, norm_bias, pre_norm_weight, pre_norm_bias, group,
        norm, activation, eps);
    return {results[0], results[1]};
  }
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  return call_adapter(
      x, down_weight, down_bias, up_weight, up_bias, norm_weight, norm_bias, pre_norm_weight, pre_norm_bias, group,
      norm, activation, eps);
}

std::vector<Tensor> lora_linears(
    const Tensor& x, at::TensorList weights, at::TensorList biases, at::TensorList lora_A, at::TensorList lora_B,
    const Optional& group, double scaling) {
  refuse_tangents("lora_linears", x, weights, biases, lora_A, lora_B);
  if (compute_requires_grad(x, weights, biases, lora_A, lora_B)) {
    refuse_transforms("lora_linears");
    return LoraLinears::apply(x, weights, biases, lora_A, lora_B, group, scaling);
  }
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  return call_lora_linears(x, weights, biases, lora_A, lora_B, group, scaling);
}

// One layer alone; not a list, which costs Python as much to make as a small product to compute.
Tensor lora_linear(
    const Tensor& x, const Tensor& weight, const Optional& bias, const Tensor& lora_A, const Tensor& lora_B,
    const Optional& group, double scaling) {
  const at::TensorList biases = bias ? at::TensorList(*bias) : at::TensorList();
  return call_lora_linears(x, weight, biases, lora_A, lora_B, group, scaling)[0];
}

}  // namespace

TORCH_LIBRARY(hyperloader, m) {
  const std::vector<at::Tag> tags{at::Tag::pt2_compliant_tag};
  m.def(
      "condition("
      "Tensor task_embedding, Tensor layer_embedding, Tensor position_embedding, Tensor layers, Tensor positions, "
      "Tensor first_weight, Tensor first_bias, Tensor second_weight, Tensor second_bias, Tensor norm_weight, "
      "Tensor norm_bias, float[] scales, float eps) -> Tensor",
      tags);
  m.def(
      "condition_backward(Tensor grad, "
      "Tensor task_embedding, Tensor layer_embedding, Tensor position_embedding, Tensor layers, Tensor positions, "
      "Tensor first_weight, Tensor first_bias, Tensor second_weight, Tensor second_bias, Tensor norm_weight, "
      "Tensor norm_bias, float[] scales, float eps) -> Tensor[]",
      tags);
  m.def(
      "generate(Tensor condition, Tensor[] weights, Tensor[] biases, bool[] has_bias, ScalarType? dtype) "
      "-> Tensor[]",
      tags);
  m.def("generate_backward(Tensor[] grads, Tensor condition, Tensor[] weights, bool[] has_bias) -> Tensor[]", tags);
  m.def(
      "adapter(Tensor x, Tensor down_weight, Tensor down_bias, Tensor up_weight, Tensor up_bias, "
      "Tensor? norm_weight, Tensor? norm_bias, Tensor? pre_norm_weight, Tensor? pre_norm_bias, Tensor? group, "
      "str norm, str activation, float eps) -> (Tensor, Tensor)",
      tags);
  m.def(
      "adapter_backward(Tensor grad, Tensor x, Tensor pre, Tensor down_weight, Tensor down_bias, Tensor up_weight, "
      "Tensor up_bias, Tensor? norm_weight, Tensor? norm_bias, Tensor? pre_norm_weight, Tensor? pre_norm_bias, "
      "Tensor? group, str norm, str activation, float eps) -> Tensor[]",
      tags);
  m.def(
      "lora_linear(Tensor x, Tensor weight, Tensor? bias, Tensor lora_A, Tensor lora_B, Tensor? group, "
      "float scaling) -> Tensor",
      tags);
  m.def(
      "lora_linears(Tensor x, Tensor[] weights, Tensor[] biases, Tensor[] lora_A, Tensor[] lora_B, Tensor? group, "
      "float scaling) -> Tensor[]",
      tags);
  m.def(
      "lora_linears_backward(Tensor[] grads, Tensor x, Tensor[] weights, Tensor[] lora_A, Tensor[] lora_B, "
      "Tensor? group, float scaling, bool[] needed) -> Tensor[]",
      tags);
}

TORCH_LIBRARY_IMPL(hyperloader, CompositeImplicitAutograd, m) { m.impl("lora_linear", &lora_linear); }

TORCH_LIBRARY_IMPL(hyperloader, Autograd, m) {
  m.impl("condition", &condition);
  m.impl("generate", &generate);
  m.impl("adapter", &adapter);
  m.impl("lora_linears", &lora_linears);
  // Differentiable once: a second derivative raises instead of being silently zero.
  for (const char* name : {"condition_backward", "generate_backward", "adapter_backward", "lora_linears_backward"}) {
    m.impl(name, torch::autograd::autogradNotImplementedFallback());
  }
}

}  // namespace hyperloader
