// Bottleneck adapter on the CPU. The outer layer norm takes its low-rank form: the norm's input U a + c is an affine
// image of the few numbers a, so its statistics come from them and no pass over (tokens, hidden) is made for it.
// hyperloader/reference/adapter_low_rank.py writes the equations out.
#include <ATen/TensorOperators.h>
#include <ATen/ops/add.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/gelu_backward.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/native_layer_norm.h>
#include <ATen/ops/native_layer_norm_backward.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/silu_backward.h>
#include <ATen/ops/threshold_backward.h>
#include <torch/library.h>

#include <tuple>

#include "part.h"

namespace hyperloader::cpu {
namespace {

using Optional = std::optional<Tensor>;

Tensor activate(const Tensor& pre, Activation activation) {
  switch (activation) {
    case Activation::kGeluNew: return at::gelu(pre, "tanh");
    case Activation::kGelu: return at::gelu(pre);
    case Activation::kRelu: return at::relu(pre);
    case Activation::kSilu: return at::silu(pre);
  }
  TORCH_INTERNAL_ASSERT(false);
}

Tensor activate_backward(const Tensor& grad, const Tensor& pre, Activation activation) {
  switch (activation) {
    case Activation::kGeluNew: return at::gelu_backward(grad, pre, "tanh");
    case Activation::kGelu: return at::gelu_backward(grad, pre);
    case Activation::kRelu: return at::threshold_backward(grad, pre, 0);
    case Activation::kSilu: return at::silu_backward(grad, pre);
  }
  TORCH_INTERNAL_ASSERT(false);
}

// What the outer norm needs of the weights alone.
struct Centred {
  Tensor up;      // (hidden, bottleneck), Uc: the columns of up_weight less their means
  Tensor bias;    // (hidden, 1), bc
  Tensor gram;    // (bottleneck, bottleneck), G = Ucᵀ Uc / hidden
  Tensor cross;   // (bottleneck, 1), h = Ucᵀ bc / hidden
  Tensor square;  // (1, 1), q = bcᵀ bc / hidden

  Centred(const AdapterWeights& weights) {
    const auto hidden = static_cast<double>(weights.up_weight.size(0));
    up = weights.up_weight - weights.up_weight.mean(0, /*keepdim=*/true);
    bias = (weights.up_bias - weights.up_bias.mean()).unsqueeze(1);
    gram = up.t().mm(up).div_(hidden);
    cross = up.t().mm(bias).div_(hidden);
    square = bias.t().mm(bias).div_(hidden);
  }

  // 1 / sqrt(variance + eps), (tokens, 1). Rounding may take a variance of zero below it.
  Tensor rstd(const Tensor& a, double eps) const {
    const Tensor variance = (a.mm(gram).mul_(a)).sum(1, /*keepdim=*/true).addmm_(a, cross, 1, 2).add_(square);
    return variance.clamp_min_(0).add_(eps).rsqrt_();
  }
};

Tensor basis(const Tensor& a, const Tensor& rstd) {  // (tokens, bottleneck + 2)
  return at::cat({a * rstd, rstd, at::ones_like(rstd)}, 1);
}

std::tuple<Tensor, Tensor> forward_part(
    const Tensor& x, AdapterWeights weights, const AdapterOptions& options, double eps) {
  Tensor inner = x;
  if (has_inner(options.norm)) {
    const auto [weight, bias] = weights.inner_norm(options.norm);
    inner = std::get<0>(at::native_layer_norm(x, {options.hidden}, weight, bias, eps));
  }
  const Tensor pre = at::addmm(weights.down_bias, inner, weights.down_weight.t());  // (tokens, bottleneck)
  const Tensor a = activate(pre, options.activation);
  if (!has_outer(options.norm)) return {at::addmm(weights.up_bias, a, weights.up_weight.t()).add_(x), pre};
  const Centred centred(weights);
  const Tensor gamma = weights.norm_weight.unsqueeze(1), beta = weights.norm_bias.unsqueeze(1);
  const Tensor table = at::cat({gamma * centred.up, gamma * centred.bias, beta}, 1);  // (hidden, bottleneck + 2)
  return {at::addmm(x, basis(a, centred.rstd(a, eps)), table.t()), pre};
}

// The gradient of `a`; those of up_weight, up_bias, norm_weight and norm_bias go into `grads`.
Tensor outer_backward(
    const Tensor& grad, const Tensor& a, const AdapterWeights& weights, AdapterWeights& grads, double eps) {
  const auto hidden = static_cast<double>(grad.size(1));
  const int64_t bottleneck = a.size(1);
  const Centred centred(weights);
  const Tensor rstd = centred.rstd(a, eps);                 // (tokens, 1)
  const Tensor gamma = weights.norm_weight.unsqueeze(1);    // (hidden, 1)
  const Tensor pt = grad.mm(at::cat({gamma * centred.up, gamma * centred.bias}, 1));
  const Tensor p = pt.narrow(1, 0, bottleneck), t = pt.narrow(1, bottleneck, 1);
  const Tensor c2 = (a * p).sum(1, /*keepdim=*/true).add_(t).mul_(rstd).div_(hidden);  // (tokens, 1)

  const Tensor along = grad.t().mm(basis(a, rstd));                  // (hidden, bottleneck + 2)
  const Tensor along_a = along.narrow(1, 0, bottleneck);             // (hidden, bottleneck), Ha
  const Tensor along_rstd = along.narrow(1, bottleneck, 1);          // (hidden, 1), Hr
  const Tensor w = rstd * rstd * c2;                                 // (tokens, 1)
  const Tensor second = (w * a).t().mm(a), first = a.t().mm(w), zeroth = w.sum();
  const Tensor up = (gamma * along_a).sub_(centred.up.mm(second)).sub_(centred.bias.mm(first.t()));
  const Tensor up_bias = (gamma * along_rstd).sub_(centred.up.mm(first)).sub_(centred.bias * zeroth);
  grads.up_weight = up - up.mean(0, /*keepdim=*/true);
  grads.up_bias = (up_bias - up_bias.mean()).squeeze(1);
  grads.norm_weight = (centred.up * along_a).sum(1).add_((centred.bias * along_rstd).squeeze(1));
  grads.norm_bias = along.select(1, bottleneck + 1);
  return (p - c2 * rstd * hidden * at::add(a.mm(centred.gram), centred.cross.t())).mul_(rstd);
}

// The gradient of x, and those of the weights into `grads`.
Tensor backward_part(
    const Tensor& grad, const Tensor& x, const Tensor& pre, AdapterWeights weights, AdapterWeights& grads,
    const AdapterOptions& options, double eps) {
  const Tensor a = activate(pre, options.activation);
  Tensor grad_a;
  if (has_outer(options.norm)) {
    grad_a = outer_backward(grad, a, weights, grads, eps);
  } else {
    grad_a = grad.mm(weights.up_weight);
    grads.up_weight = grad.t().mm(a);
    grads.up_bias = grad.sum(0);
  }
  const Tensor grad_pre = activate_backward(grad_a, pre, options.activation);
  grads.down_bias = grad_pre.sum(0);
  if (!has_inner(options.norm)) {
    grads.down_weight = grad_pre.t().mm(x);
    return at::addmm(grad, grad_pre, weights.down_weight);
  }
  const auto [weight, bias] = weights.inner_norm(options.norm);
  const auto [grad_weight, grad_bias] = grads.inner_norm(options.norm);
  const auto [inner, mean, rstd] = at::native_layer_norm(x, {options.hidden}, weight, bias, eps);
  grads.down_weight = grad_pre.t().mm(inner);
  Tensor grad_x;
  std::tie(grad_x, grad_weight, grad_bias) = at::native_layer_norm_backward(
      grad_pre.mm(weights.down_weight), x, {options.hidden}, mean, rstd, weight, bias, {true, true, true});
  return grad_x.add_(grad);
}

std::tuple<Tensor, Tensor> adapter(
    const Tensor& x, const Tensor& down_weight, const Tensor& down_bias, const Tensor& up_weight,
    const Tensor& up_bias, const Optional& norm_weight, const Optional& norm_bias, const Optional& pre_norm_weight,
    const Optional& pre_norm_bias, const Optional& group, std::string_view norm, std::string_view activation,
    double eps) {
  const AdapterWeights weights{
      down_weight, down_bias, up_weight, up_bias, or_undefined(norm_weight), or_undefined(norm_bias),
      or_undefined(pre_norm_weight), or_undefined(pre_norm_bias)};
  const AdapterOptions options = check_adapter(x, weights, group, norm, activation, eps);
  const WithoutAutocast dtypes_as_given;

  auto sizes = x.sizes().vec();
  Tensor y = at::empty(sizes, x.options());
  sizes.back() = options.bottleneck;
  Tensor pre = at::empty(sizes, x.options().dtype(accumulation_dtype(x.scalar_type())));
  for (const Part& part : parts(group, options.groups)) {
    const AdapterWeights own = weights.map([&](const Tensor& weight) { return part.weight(weight); });
    const auto [part_y, part_pre] = forward_part(part.take(x), own, options, eps);
    part.put(y, part_y);
    part.put(pre, part_pre);
  }
  return {y, pre};
}

std::vector<Tensor> adapter_backward(
    const Tensor& grad, const Tensor& x, const Tensor& pre, const Tensor& down_weight, const Tensor& down_bias,
    const Tensor& up_weight, const Tensor& up_bias, const Optional& norm_weight, const Optional& norm_bias,
    const Optional& pre_norm_weight, const Optional& pre_norm_bias, const Optional& group, std::string_view norm,
    std::string_view activation, double eps) {
  const AdapterWeights weights{
      down_weight, down_bias, up_weight, up_bias, or_undefined(norm_weight), or_undefined(norm_bias),
      or_undefined(pre_norm_weight), or_undefined(pre_norm_bias)};
  const AdapterOptions options = check_adapter(x, weights, group, norm, activation, eps);
  check_adapter_backward(grad, x, pre, options);
  const WithoutAutocast dtypes_as_given;

  Tensor grad_x = at::empty(x.sizes(), x.options());
  AdapterWeights grads = weights.map([](const Tensor& weight) { return at::zeros(weight.sizes(), weight.options()); });
  for (const Part& part : parts(group, options.groups)) {
    const AdapterWeights own = weights.map([&](const Tensor& weight) { return part.weight(weight); });
    AdapterWeights own_grads;
    part.put(grad_x, backward_part(part.take(grad), part.take(x), part.take(pre), own, own_grads, options, eps));
    const auto from = own_grads.all(), to = grads.all();
    for (size_t i = 0; i < to.size(); ++i) {
      if (to[i]->defined()) part.put_gradient(*to[i], *from[i]);
    }
  }
  std::vector<Tensor> results{grad_x};
  for (const Tensor* weight : grads.all()) {
    if (weight->defined()) results.push_back(*weight);
  }
  return results;
}

}  // namespace

TORCH_LIBRARY_IMPL(hyperloader, CPU, m) {
  m.impl("adapter", &adapter);
  m.impl("adapter_backward", &adapter_backward);
}

}  // namespace hyperloader::cpu
