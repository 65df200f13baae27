// The conditions of a hypernetwork on the CPU: few numbers, so that the library's products do, without autograd
// between. hyperloader/reference/condition.py writes the equations out.
#include <ATen/TensorOperators.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/native_layer_norm.h>
#include <ATen/ops/native_layer_norm_backward.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include "tokens.h"

namespace hyperloader::cpu {
namespace {

// What both directions compute, in the accumulation dtype.
struct Hidden {
  Tensor task, layer, position;  // the embeddings that are used
  Tensor first, second;          // the weights
  Tensor rows;                   // relu(...), (positions, layers, tasks, hidden)
  Tensor before_norm;            // (positions · layers · tasks, condition_dim)

  Hidden(const ConditionWeights& weights, at::ArrayRef<double> scales, at::ScalarType dtype)
      : task(wide(weights.task_embedding, dtype)),
        layer(wide(weights.layer_embedding.index_select(0, weights.layers), dtype)),
        position(wide(weights.position_embedding.index_select(0, weights.positions), dtype)),
        first(wide(weights.first_weight, dtype)),
        second(wide(weights.second_weight, dtype)) {
    const Tensor by_task = at::addmm(wide(weights.first_bias, dtype), task, columns(0).t(), 1, scales[0]);
    const Tensor by_layer = at::mm(layer, columns(1).t()).mul_(scales[0]);
    const Tensor by_position = at::mm(position, columns(2).t()).mul_(scales[0]);
    rows = (by_position.unsqueeze(1).unsqueeze(1) + by_layer.unsqueeze(1)).add(by_task).relu_();
    const int64_t count = position.size(0) * layer.size(0) * task.size(0);
    before_norm =
        at::addmm(wide(weights.second_bias, dtype), rows.view({count, first.size(0)}), second.t(), 1, scales[1]);
  }

  // The columns of the first weight that task (0), layer (1) or position (2) are multiplied with.
  Tensor columns(int64_t which) const { return first.narrow(1, which * task.size(1), task.size(1)); }
};

Tensor condition(
    const Tensor& task_embedding, const Tensor& layer_embedding, const Tensor& position_embedding, const Tensor& layers,
    const Tensor& positions, const Tensor& first_weight, const Tensor& first_bias, const Tensor& second_weight,
    const Tensor& second_bias, const Tensor& norm_weight, const Tensor& norm_bias, at::ArrayRef<double> scales,
    double eps) {
  const ConditionWeights weights{task_embedding, layer_embedding, position_embedding, layers,
                                 positions,      first_weight,    first_bias,         second_weight,
                                 second_bias,    norm_weight,     norm_bias};
  check_condition(weights, scales, eps);
  const WithoutAutocast dtypes_as_given;
  const at::ScalarType dtype = accumulate_dtype(task_embedding.scalar_type());
  const Hidden hidden(weights, scales, dtype);
  const auto [normed, mean, rstd] = at::native_layer_norm(
      hidden.before_norm, {norm_weight.size(0)}, wide(norm_weight, dtype), wide(norm_bias, dtype), eps);
  return normed.mul(scales[2])
      .to(task_embedding.scalar_type())
      .view({positions.size(0), layers.size(0), task_embedding.size(0), norm_weight.size(0)});
}

std::vector<Tensor> condition_backward(
    const Tensor& grad, const Tensor& task_embedding, const Tensor& layer_embedding, const Tensor& position_embedding,
    const Tensor& layers, const Tensor& positions, const Tensor& first_weight, const Tensor& first_bias,
    const Tensor& second_weight, const Tensor& second_bias, const Tensor& norm_weight, const Tensor& norm_bias,
    at::ArrayRef<double> scales, double eps) {
  const ConditionWeights weights{task_embedding, layer_embedding, position_embedding, layers,
                                 positions,      first_weight,    first_bias,         second_weight,
                                 second_bias,    norm_weight,     norm_bias};
  check_condition(weights, scales, eps);
  check_condition_backward(grad, weights);
  const WithoutAutocast dtypes_as_given;
  const at::ScalarType dtype = accumulate_dtype(task_embedding.scalar_type());
  const Hidden hidden(weights, scales, dtype);
  const int64_t condition_dim = norm_weight.size(0), count = hidden.before_norm.size(0);
  const Tensor normed_weight = wide(norm_weight, dtype), normed_bias = wide(norm_bias, dtype);
  const auto [normed, mean, rstd] =
      at::native_layer_norm(hidden.before_norm, {condition_dim}, normed_weight, normed_bias, eps);
  const Tensor grad_normed = grad.to(dtype).reshape({count, condition_dim}).mul(scales[2]);
  const auto [grad_before, grad_norm_weight, grad_norm_bias] = at::native_layer_norm_backward(
      grad_normed, hidden.before_norm, {condition_dim}, mean, rstd, normed_weight, normed_bias, {true, true, true});

  const Tensor rows = hidden.rows.view({count, hidden.first.size(0)});
  const Tensor grad_second = at::mm(grad_before.t(), rows).mul_(scales[1]);
  const Tensor grad_rows =
      at::mm(grad_before, hidden.second).mul_(scales[1]).mul_(rows.gt(0)).view(hidden.rows.sizes());
  const auto over = [&](at::IntArrayRef dimensions) { return grad_rows.sum(dimensions); };  // not names
  const Tensor by_task = over({0, 1}), by_layer = over({0, 2}), by_position = over({1, 2});
  const Tensor grad_first = at::empty(hidden.first.sizes(), hidden.first.options());
  const auto through = [&](int64_t which, const Tensor& by, const Tensor& embedding) {
    grad_first.narrow(1, which * embedding.size(1), embedding.size(1)).copy_(at::mm(by.t(), embedding).mul_(scales[0]));
    return at::mm(by, hidden.columns(which)).mul_(scales[0]);
  };
  const auto scatter = [](const Tensor& found, const Tensor& index, const Tensor& embedding) {
    return at::zeros(embedding.sizes(), found.options()).index_add_(0, index, found).to(embedding.scalar_type());
  };
  const Tensor of_task = through(0, by_task, hidden.task).to(task_embedding.scalar_type());
  const Tensor of_layer = scatter(through(1, by_layer, hidden.layer), layers, layer_embedding);
  const Tensor of_position = scatter(through(2, by_position, hidden.position), positions, position_embedding);
  return {
      of_task,
      of_layer,
      of_position,
      grad_first.to(first_weight.scalar_type()),
      by_task.sum(0).to(first_bias.scalar_type()),
      grad_second.to(second_weight.scalar_type()),
      grad_before.sum(0).to(second_bias.scalar_type()),
      grad_norm_weight.to(norm_weight.scalar_type()),
      grad_norm_bias.to(norm_bias.scalar_type()),
  };
}

}  // namespace

TORCH_LIBRARY_IMPL(hyperloader, CPU, m) {
  m.impl("condition", &condition);
  m.impl("condition_backward", &condition_backward);
}

}  // namespace hyperloader::cpu
