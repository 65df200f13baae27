// Checks and autograd of `generate`.
#include "generate.h"

#include <algorithm>

#include "autograd.h"
#include "check.h"

namespace hyperloader {
namespace {

void check_heads(const Tensor& condition, at::TensorList weights, const c10::List<bool>& has_bias) {
  TORCH_CHECK_VALUE(condition.dim() == 2, "condition must have 2 dimensions, got ", condition.dim());
  check_float("condition", condition);
  TORCH_CHECK_VALUE(
      has_bias.size() == weights.size(), "biases must have one entry per weight (", weights.size(), "), got ",
      has_bias.size());
  for (size_t i = 0; i < weights.size(); ++i) {
    check_columns({"weights", static_cast<int64_t>(i)}, weights[i], "n", condition.size(1), condition);
  }
}

}  // namespace

void check(const GenerateArguments& arguments) {
  const auto& [condition, weights, biases, has_bias, dtype] = arguments;
  check_heads(condition, weights, has_bias);
  TORCH_CHECK_TYPE(!dtype || is_float(*dtype), "dtype must be a floating dtype, got ", dtype_name(*dtype));
  const auto present = static_cast<size_t>(std::count(has_bias.begin(), has_bias.end(), true));
  TORCH_CHECK_VALUE(
      biases.size() == present, "biases must have one entry per true has_bias (", present, "), got ", biases.size());
  for (size_t i = 0, next = 0; i < weights.size(); ++i) {
    if (has_bias.get(i)) {
      check_tensor({"biases", static_cast<int64_t>(i)}, biases[next++], {weights[i].size(0)}, condition);
    }
  }
}

void check(const GenerateBackwardArguments& arguments) {
  const auto& [grads, condition, weights, has_bias] = arguments;
  check_heads(condition, weights, has_bias);
  check_one_each("grads", grads, weights);
  for (size_t i = 0; i < weights.size(); ++i) {
    const std::array<int64_t, 2> sizes{condition.size(0), weights[i].size(0)};
    check_shape({"grads", static_cast<int64_t>(i)}, grads[i], sizes);
  }
}

namespace {

struct GenerateFunction : torch::autograd::Function<GenerateFunction> {
  template <typename... Flat>
  static variable_list forward(AutogradContext* context, const Flat&... flat) {
    const GenerateArguments arguments{flat...};
    variable_list saved{arguments.condition};
    saved.insert(saved.end(), arguments.weights.begin(), arguments.weights.end());
    context->save_for_backward(std::move(saved));
    context->saved_data["has_bias"] = arguments.has_bias;
    return call_below_autograd(arguments);
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const variable_list saved = context->get_saved_variables();
    const c10::List<bool> has_bias = context->saved_data["has_bias"].toBoolList();
    const Tensor& condition = saved.front();
    const at::TensorList weights = at::TensorList(saved).slice(1);
    variable_list found = call_backward(grads, GenerateBackwardArguments{grads, condition, weights, has_bias});
    found.resize(found.size() + 2);  // has_bias and dtype have none
    return found;
  }
};

std::vector<Tensor> generate(const GenerateArguments& arguments) {
  return needs_gradient(arguments) ? apply<GenerateFunction>(arguments) : call_below_autograd(arguments);
}

}  // namespace

TORCH_LIBRARY_IMPL(hyperloader, Autograd, m) { implement<generate>(m); }

}  // namespace hyperloader
