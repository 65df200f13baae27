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
#include "../condition.h"
#include "tokens.h"

namespace hyperloader::cpu {
namespace {

// Whose columns of the first weight.
enum Part : int64_t { kTask, kLayer, kPosition };

// What both directions compute, in the accumulation dtype.
struct Hidden {
  Tensor task, layer, position;  // the embeddings that are used
  Tensor first, second;          // the weights
  Tensor norm_weight, norm_bias;
  Tensor rows;         // relu(...), (positions, layers, tasks, hidden)
  Tensor before_norm;  // (positions · layers · tasks, condition_dim)

  Hidden(const ConditionArguments& arguments, at::ScalarType dtype) {
    const auto& [weights, scales, eps] = arguments;
    task = contiguous_as(weights.task_embedding, dtype);
    layer = contiguous_as(weights.layer_embedding.index_select(0, weights.layers), dtype);
    position = contiguous_as(weights.position_embedding.index_select(0, weights.positions), dtype);
    first = contiguous_as(weights.first_weight, dtype);
    second = contiguous_as(weights.second_weight, dtype);
    norm_weight = contiguous_as(weights.norm_weight, dtype);
    norm_bias = contiguous_as(weights.norm_bias, dtype);
    const Tensor first_bias = contiguous_as(weights.first_bias, dtype);
    const Tensor second_bias = contiguous_as(weights.second_bias, dtype);
    const Tensor by_task = at::addmm(first_bias, task, columns(kTask).t(), 1, scales[0]);
    const Tensor by_layer = at::mm(layer, columns(kLayer).t()).mul_(scales[0]);
    const Tensor by_position = at::mm(position, columns(kPosition).t()).mul_(scales[0]);
    rows = (by_position.unsqueeze(1).unsqueeze(1) + by_layer.unsqueeze(1)).add(by_task).relu_();
    const int64_t count = position.size(0) * layer.size(0) * task.size(0);
    before_norm = at::addmm(second_bias, rows.view({count, first.size(0)}), second.t(), 1, scales[1]);
  }

  // The columns of the first weight that an embedding is multiplied with.
  Tensor columns(Part part) const { return first.narrow(1, part * task.size(1), task.size(1)); }

  auto normalise(double eps) const {
    return at::native_layer_norm(before_norm, {norm_weight.size(0)}, norm_weight, norm_bias, eps);
  }
};

Tensor condition(const ConditionArguments& arguments) {
  check(arguments);
  const WithoutAutocast dtypes_as_given;
  const auto& [weights, scales, eps] = arguments;
  const at::ScalarType dtype = weights.task_embedding.scalar_type();
  const Hidden hidden(arguments, accumulate_dtype(dtype));
  const Tensor normed = std::get<0>(hidden.normalise(eps));
  return normed.mul(scales[2]).to(dtype).view(
      {hidden.position.size(0), hidden.layer.size(0), hidden.task.size(0), hidden.norm_weight.size(0)});
}

std::vector<Tensor> condition_backward(const ConditionBackwardArguments& arguments) {
  check(arguments);
  const WithoutAutocast dtypes_as_given;
  const ConditionWeights& weights = arguments.forward.weights;
  const at::ArrayRef<double> scales = arguments.forward.scales;
  const at::ScalarType dtype = accumulate_dtype(weights.task_embedding.scalar_type());
  const Hidden hidden(arguments.forward, dtype);
  const int64_t condition_dim = hidden.norm_weight.size(0), count = hidden.before_norm.size(0);
  const auto [normed, mean, rstd] = hidden.normalise(arguments.forward.eps);
  const Tensor grad_normed = arguments.grad.to(dtype).reshape({count, condition_dim}).mul(scales[2]);
  const auto [grad_before, grad_norm_weight, grad_norm_bias] = at::native_layer_norm_backward(
      grad_normed, hidden.before_norm, {condition_dim}, mean, rstd, hidden.norm_weight, hidden.norm_bias,
      {true, true, true});

  const Tensor rows = hidden.rows.view({count, hidden.first.size(0)});
  const Tensor grad_second = at::mm(grad_before.t(), rows).mul_(scales[1]);
  const Tensor grad_rows =
      at::mm(grad_before, hidden.second).mul_(scales[1]).mul_(rows.gt(0)).view(hidden.rows.sizes());
  const auto sum_over = [&](at::IntArrayRef dimensions) { return grad_rows.sum(dimensions); };
  const Tensor by_task = sum_over({0, 1}), by_layer = sum_over({0, 2}), by_position = sum_over({1, 2});
  const Tensor grad_first = at::empty(hidden.first.sizes(), hidden.first.options());
  // Writes the part's columns of grad_first, and returns the gradient of its embedding.
  const auto backward = [&](Part part, const Tensor& by, const Tensor& embedding) {
    const int64_t size = embedding.size(1);
    grad_first.narrow(1, part * size, size).copy_(at::mm(by.t(), embedding).mul_(scales[0]));
    return at::mm(by, hidden.columns(part)).mul_(scales[0]);
  };
  const auto scatter = [](const Tensor& found, const Tensor& index, const Tensor& embedding) {
    return at::zeros(embedding.sizes(), found.options()).index_add_(0, index, found).to(embedding.scalar_type());
  };
  const Tensor grad_task = backward(kTask, by_task, hidden.task).to(weights.task_embedding.scalar_type());
  const Tensor grad_layer = scatter(backward(kLayer, by_layer, hidden.layer), weights.layers, weights.layer_embedding);
  const Tensor grad_position =
      scatter(backward(kPosition, by_position, hidden.position), weights.positions, weights.position_embedding);
  return {
      grad_task,
      grad_layer,
      grad_position,
      grad_first.to(weights.first_weight.scalar_type()),
      by_task.sum(0).to(weights.first_bias.scalar_type()),
      grad_second.to(weights.second_weight.scalar_type()),
      grad_before.sum(0).to(weights.second_bias.scalar_type()),
      grad_norm_weight.to(weights.norm_weight.scalar_type()),
      grad_norm_bias.to(weights.norm_bias.scalar_type()),
  };
}

}  // namespace

TORCH_LIBRARY_IMPL(hyperloader, CPU, m) {
  implement<condition>(m);
  implement<condition_backward>(m);
}

}  // namespace hyperloader::cpu
