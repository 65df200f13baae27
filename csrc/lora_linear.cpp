// Checks and autograd of `lora_linear` and `lora_linears`.
#include "lora_linear.h"

#include "autograd.h"
#include "check.h"

namespace hyperloader {

int64_t check(const LoraLinearsArguments& arguments) {
  const auto& [x, weights, biases, lora_A, lora_B, group, scaling] = arguments;
  check_x(x, group);
  TORCH_CHECK_VALUE(!weights.empty(), "weights must have at least one entry, got 0");
  if (!biases.empty()) check_one_each("biases", biases, weights);
  check_one_each("lora_A", lora_A, weights);
  check_one_each("lora_B", lora_B, weights);
  const int64_t in_features = x.size(-1);
  const bool one = weights.size() == 1;
  int64_t groups = -1;
  for (size_t i = 0; i < weights.size(); ++i) {
    const int64_t index = one ? -1 : static_cast<int64_t>(i);
    const Name weight{one ? "weight" : "weights", index}, down{"lora_A", index};
    check_columns(weight, weights[i], "out_features", in_features, x);
    TORCH_CHECK_TYPE(
        weights[i].scalar_type() == weights[0].scalar_type(), weight, " must be ", dtype_name(weights[0].scalar_type()),
        " like weights[0], got ", dtype_name(weights[i].scalar_type()));
    const int64_t out_features = weights[i].size(0);
    if (!biases.empty()) check_tensor({one ? "bias" : "biases", index}, biases[i], {out_features}, x);
    const int64_t found = check_groups(down, lora_A[i], group), rank = lora_A[i].size(-2);
    TORCH_CHECK_VALUE(rank >= 1, down, " must have at least rank 1, got rank 0");
    if (i == 0) groups = found;
    check_tensor(down, lora_A[i], {rank, in_features}, x, groups);
    check_tensor({"lora_B", index}, lora_B[i], {out_features, rank}, x, groups);
  }
  check_group(group, groups, x);
  return group ? groups : 1;
}

int64_t check(const LoraLinearsBackwardArguments& arguments) {
  const int64_t groups = check(arguments.forward());
  const Tensor& x = arguments.x;
  check_one_each("grads", arguments.grads, arguments.weights);
  c10::SmallVector<int64_t, 4> sizes(x.sizes());
  for (size_t i = 0; i < arguments.weights.size(); ++i) {
    const Name name{"grads", static_cast<int64_t>(i)};
    sizes.back() = arguments.weights[i].size(0);
    check_shape(name, arguments.grads[i], sizes);
    check_same_dtype(name, arguments.grads[i], x.scalar_type());
  }
  TORCH_CHECK_VALUE(arguments.needed.size() == 5, "needed must have 5 entries, got ", arguments.needed.size());
  return groups;
}

namespace {

struct LoraLinearsFunction : torch::autograd::Function<LoraLinearsFunction> {
  template <typename... Flat>
  static variable_list forward(AutogradContext* context, const Flat&... flat) {
    const LoraLinearsArguments arguments{flat...};
    variable_list saved{arguments.x, or_undefined(arguments.group)};
    for (const at::TensorList list : {arguments.weights, arguments.lora_A, arguments.lora_B}) {
      saved.insert(saved.end(), list.begin(), list.end());
    }
    context->save_for_backward(std::move(saved));
    context->saved_data["has_bias"] = !arguments.biases.empty();
    context->saved_data["scaling"] = arguments.scaling;
    return call_below_autograd(arguments);
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const size_t layers = grads.size(), biases = context->saved_data["has_bias"].toBool() ? layers : 0;
    // The tensors stand one after the other: x, and those of every list.
    size_t position = 0;
    const auto any = [&](size_t tensors) {
      bool found = false;
      for (size_t i = 0; i < tensors; ++i) found |= context->needs_input_grad(position + i);
      position += tensors;
      return found;
    };
    const LoraNeeded needed{any(1), any(layers), any(biases), any(layers), any(layers)};

    const variable_list saved = context->get_saved_variables();
    auto rest = at::TensorList(saved).slice(2);
    const auto list = [&] {
      const at::TensorList first = rest.slice(0, layers);
      rest = rest.slice(layers);
      return first;
    };
    const at::TensorList weights = list(), lora_A = list(), lora_B = list();
    const Optional group = or_none(saved[1]);
    const c10::List<bool> flags = needed.flags();
    const LoraLinearsBackwardArguments arguments{
        grads, saved[0], weights, lora_A, lora_B, group, context->saved_data["scaling"].toDouble(), flags};
    const variable_list found = call_backward(grads, arguments);

    variable_list results;
    auto next = found.begin();
    const auto add = [&](bool wanted, size_t tensors) {
      for (size_t i = 0; i < tensors; ++i) results.push_back(wanted ? *next++ : Tensor());
    };
    add(needed.x, 1);
    add(needed.weights, layers);
    add(needed.biases, biases);
    add(needed.lora_A, layers);
    add(needed.lora_B, layers);
    add(false, 2);  // group, scaling
    return results;
  }
};

std::vector<Tensor> lora_linears(const LoraLinearsArguments& arguments) {
  return needs_gradient(arguments) ? apply<LoraLinearsFunction>(arguments) : call_below_autograd(arguments);
}

// One layer alone; not a list, which costs Python as much to make as a small product to compute.
Tensor lora_linear(const LoraLinearArguments& arguments) {
  const auto& [x, weight, bias, lora_A, lora_B, group, scaling] = arguments;
  const at::TensorList biases = bias ? at::TensorList(*bias) : at::TensorList();
  return call(LoraLinearsArguments{x, weight, biases, lora_A, lora_B, group, scaling})[0];
}

}  // namespace

TORCH_LIBRARY_IMPL(hyperloader, CompositeImplicitAutograd, m) { implement<lora_linear>(m); }

TORCH_LIBRARY_IMPL(hyperloader, Autograd, m) { implement<lora_linears>(m); }

}  // namespace hyperloader
