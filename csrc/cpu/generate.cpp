// Weight generation on the CPU: one product for all rows of a head.
#include <ATen/ops/addmm.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros_like.h>
#include <torch/library.h>

#include "../ops.h"

namespace hyperloader::cpu {
namespace {

std::vector<Tensor> generate(
    const Tensor& condition, at::TensorList weights, at::TensorList biases, const c10::List<bool>& has_bias,
    std::optional<at::ScalarType> dtype) {
  check_generate(condition, weights, biases, has_bias, dtype);
  const WithoutAutocast dtypes_as_given;
  const at::ScalarType wide = accumulation_dtype(condition.scalar_type());
  const at::ScalarType wanted = dtype.value_or(condition.scalar_type());
  const Tensor rows = condition.to(wide);
  std::vector<Tensor> results;
  results.reserve(weights.size());
  for (size_t i = 0, next = 0; i < weights.size(); ++i) {
    const Tensor head = weights[i].to(wide).t();
    const Tensor result = has_bias.get(i) ? at::addmm(biases[next++].to(wide), rows, head) : at::mm(rows, head);
    results.push_back(result.to(wanted));
  }
  return results;
}

std::vector<Tensor> generate_backward(
    at::TensorList grads, const Tensor& condition, at::TensorList weights, const c10::List<bool>& has_bias) {
  check_generate_backward(grads, condition, weights, has_bias);
  const WithoutAutocast dtypes_as_given;
  const at::ScalarType wide = accumulation_dtype(condition.scalar_type());
  const Tensor rows = condition.to(wide);
  Tensor grad_condition = at::zeros_like(rows);
  std::vector<Tensor> grad_weights, grad_biases;
  for (size_t i = 0; i < weights.size(); ++i) {
    const Tensor grad = grads[i].to(wide);  // (rows, n)
    grad_condition.addmm_(grad, weights[i].to(wide));
    grad_weights.push_back(at::mm(grad.t(), rows).to(weights[i].scalar_type()));
    if (has_bias.get(i)) grad_biases.push_back(grad.sum(0).to(weights[i].scalar_type()));
  }
  std::vector<Tensor> results{grad_condition.to(condition.scalar_type())};
  results.insert(results.end(), grad_weights.begin(), grad_weights.end());
  results.insert(results.end(), grad_biases.begin(), grad_biases.end());
  return results;
}

}  // namespace

TORCH_LIBRARY_IMPL(hyperloader, CPU, m) {
  m.impl("generate", &generate);
  m.impl("generate_backward", &generate_backward);
}

}  // namespace hyperloader::cpu
