// Checks and autograd of `adapter`.
#include "adapter.h"

#include <string>

#include "autograd.h"
#include "check.h"

namespace hyperloader {
namespace {

void check_present(const char* name, const Optional& tensor, bool wanted, std::string_view norm) {
  const bool present = tensor && tensor->defined();
  TORCH_CHECK_VALUE(
      present == wanted, name, " must be ", wanted ? "given" : "None", " for norm '", norm, "', got ",
      wanted ? "None" : "a tensor");
}

AdapterOptions check(const Tensor& x, const AdapterParameters& parameters) {
  const auto& [down_weight, down_bias, up_weight, up_bias, norm_weight, norm_bias, pre_norm_weight, pre_norm_bias, group, norm, activation, eps] =
      parameters;
  AdapterOptions options{};
  options.norm = choose<Norm>(
      "norm", norm, {{"post", Norm::kPost}, {"pre", Norm::kPre}, {"both", Norm::kBoth}, {"none", Norm::kNone}});
  options.activation = choose<Activation>(
      "activation", activation,
      {{"gelu_new", Activation::kGeluNew},
       {"gelu", Activation::kGelu},
       {"relu", Activation::kRelu},
       {"silu", Activation::kSilu}});
  check_eps(eps);
  check_x(x, group);
  const int64_t groups = check_groups({"down_weight"}, down_weight, group);
  const int64_t hidden = x.size(-1), bottleneck = down_weight.size(-2);
  TORCH_CHECK_VALUE(hidden >= 1, "x must have at least one hidden unit, got 0");
  TORCH_CHECK_VALUE(bottleneck >= 1, "down_weight must have at least one bottleneck unit, got 0");
  check_tensor({"down_weight"}, down_weight, {bottleneck, hidden}, x, groups);
  check_tensor({"down_bias"}, down_bias, {bottleneck}, x, groups);
  check_tensor({"up_weight"}, up_weight, {hidden, bottleneck}, x, groups);
  check_tensor({"up_bias"}, up_bias, {hidden}, x, groups);
  const bool one = options.norm != Norm::kNone, two = options.norm == Norm::kBoth;
  const std::tuple<const char*, const Optional&, bool> norms[] = {
      {"norm_weight", norm_weight, one},
      {"norm_bias", norm_bias, one},
      {"pre_norm_weight", pre_norm_weight, two},
      {"pre_norm_bias", pre_norm_bias, two},
  };
  for (const auto& [name, tensor, wanted] : norms) {
    check_present(name, tensor, wanted, norm);
    if (wanted) check_tensor({name}, *tensor, {hidden}, x, groups);
  }
  check_group(group, groups, x);
  options.hidden = hidden;
  options.bottleneck = bottleneck;
  options.groups = group ? groups : 1;
  return options;
}

}  // namespace

AdapterOptions check(const AdapterArguments& arguments) { return check(arguments.x, arguments.parameters); }

AdapterOptions check(const AdapterBackwardArguments& arguments) {
  const Tensor &grad = arguments.grad, &x = arguments.x, &pre = arguments.pre;
  const AdapterOptions options = check(x, arguments.parameters);
  check_shape({"grad"}, grad, x.sizes());
  check_same_dtype({"grad"}, grad, x.scalar_type());
  c10::SmallVector<int64_t, 4> sizes(x.sizes());
  sizes.back() = options.bottleneck;
  check_shape({"pre"}, pre, sizes);
  check_same_dtype({"pre"}, pre, accumulate_dtype(x.scalar_type()));
  return options;
}

namespace {

struct AdapterFunction : torch::autograd::Function<AdapterFunction> {
  template <typename... Flat>
  static variable_list forward(AutogradContext* context, const Flat&... flat) {
    const AdapterArguments arguments{flat...};
    const auto [y, pre] = call_below_autograd(arguments);
    variable_list saved = tensors_of(arguments);
    saved.push_back(pre);
    context->save_for_backward(std::move(saved));
    context->saved_data["norm"] = std::string(arguments.parameters.norm);
    context->saved_data["activation"] = std::string(arguments.parameters.activation);
    context->saved_data["eps"] = arguments.parameters.eps;
    context->mark_non_differentiable({pre});
    context->set_materialize_grads(false);
    return {y, pre};
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    constexpr size_t count = kCount<AdapterArguments>;
    if (!grads[0].defined()) return variable_list(count);
    variable_list saved = context->get_saved_variables();
    const Tensor pre = saved.back();
    saved.pop_back();
    auto next = saved.begin();
    const Tensor &x = *next++, &down_weight = *next++, &down_bias = *next++, &up_weight = *next++, &up_bias = *next++;
    const Optional norm_weight = or_none(*next++), norm_bias = or_none(*next++), pre_norm_weight = or_none(*next++),
                   pre_norm_bias = or_none(*next++), group = or_none(*next++);
    const AdapterParameters parameters{
        down_weight,
        down_bias,
        up_weight,
        up_bias,
        norm_weight,
        norm_bias,
        pre_norm_weight,
        pre_norm_bias,
        group,
        context->saved_data["norm"].toStringRef(),
        context->saved_data["activation"].toStringRef(),
        context->saved_data["eps"].toDouble()};
    const AdapterBackwardArguments arguments{grads[0], x, pre, parameters};
    return one_each(saved, call_backward(grads, arguments), count);
  }
};

std::tuple<Tensor, Tensor> adapter(const AdapterArguments& arguments) {
  if (!needs_gradient(arguments)) return call_below_autograd(arguments);
  const variable_list results = apply<AdapterFunction>(arguments);
  return {results[0], results[1]};
}

}  // namespace

TORCH_LIBRARY_IMPL(hyperloader, Autograd, m) { implement<adapter>(m); }

}  // namespace hyperloader
