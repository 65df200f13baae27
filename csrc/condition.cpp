// Checks and autograd of `condition`.
#include "condition.h"

#include "autograd.h"
#include "check.h"

namespace hyperloader {

void check(const ConditionArguments& arguments) {
  const ConditionWeights& weights = arguments.weights;
  const Tensor& task = weights.task_embedding;
  TORCH_CHECK_VALUE(task.dim() == 2, "task_embedding must have 2 dimensions, got ", task.dim());
  check_float("task_embedding", task);
  const int64_t size = task.size(1);
  check_columns({"layer_embedding"}, weights.layer_embedding, "any", size, task);
  check_columns({"position_embedding"}, weights.position_embedding, "any", size, task);
  check_columns({"first_weight"}, weights.first_weight, "hidden", 3 * size, task);
  const int64_t hidden = weights.first_weight.size(0);
  check_tensor({"first_bias"}, weights.first_bias, {hidden}, task);
  check_columns({"second_weight"}, weights.second_weight, "condition_dim", hidden, task);
  const int64_t condition_dim = weights.second_weight.size(0);
  check_tensor({"second_bias"}, weights.second_bias, {condition_dim}, task);
  check_tensor({"norm_weight"}, weights.norm_weight, {condition_dim}, task);
  check_tensor({"norm_bias"}, weights.norm_bias, {condition_dim}, task);
  TORCH_CHECK_VALUE(arguments.scales.size() == 3, "scales must have 3 entries, got ", arguments.scales.size());
  check_eps(arguments.eps);
  check_index("layers", weights.layers, weights.layer_embedding);
  check_index("positions", weights.positions, weights.position_embedding);
}

void check(const ConditionBackwardArguments& arguments) {
  check(arguments.forward);
  const ConditionWeights& weights = arguments.forward.weights;
  const std::array<int64_t, 4> sizes{
      weights.positions.size(0), weights.layers.size(0), weights.task_embedding.size(0), weights.norm_bias.size(0)};
  check_shape({"grad"}, arguments.grad, sizes);
}

namespace {

struct ConditionFunction : torch::autograd::Function<ConditionFunction> {
  template <typename... Flat>
  static Tensor forward(AutogradContext* context, const Flat&... flat) {
    const ConditionArguments arguments{flat...};
    context->save_for_backward(tensors_of(arguments));
    context->saved_data["scales"] = arguments.scales;
    context->saved_data["eps"] = arguments.eps;
    context->set_materialize_grads(false);
    return call_below_autograd(arguments);
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    constexpr size_t count = kCount<ConditionArguments>;
    if (!grads[0].defined()) return variable_list(count);
    const variable_list saved = context->get_saved_variables();
    const std::vector<double> scales = context->saved_data["scales"].toDoubleVector();
    auto next = saved.begin();
    const auto take = [&]() -> const Tensor& { return *next++; };
    const ConditionWeights weights{take(), take(), take(), take(), take(), take(),
                                   take(), take(), take(), take(), take()};
    const ConditionBackwardArguments arguments{grads[0], {weights, scales, context->saved_data["eps"].toDouble()}};
    return one_each(saved, call_backward(grads, arguments), count);
  }
};

Tensor condition(const ConditionArguments& arguments) {
  return needs_gradient(arguments) ? apply<ConditionFunction>(arguments) : call_below_autograd(arguments);
}

}  // namespace

TORCH_LIBRARY_IMPL(hyperloader, Autograd, m) { implement<condition>(m); }

}  // namespace hyperloader
