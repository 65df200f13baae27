// A frozen linear layer with a LoRA update on the CPU: the frozen product as the library computes it, the update added
// into its output. The gradients of lora_A and lora_B go through the factors of rank numbers a token.
#include <ATen/ops/linear.h>
#include <ATen/ops/mm.h>
#include <torch/library.h>

#include "part.h"

namespace hyperloader::cpu {
namespace {

using Optional = std::optional<Tensor>;

// The dtype of the frozen product: that of x and weight, float32 where a float32 weight stands beside a half x.
at::ScalarType product_dtype(const Tensor& x, const Tensor& weight) {
  return x.scalar_type() == weight.scalar_type() ? x.scalar_type() : accumulation_dtype(x.scalar_type());
}

Tensor lora_linear(
    const Tensor& x, const Tensor& weight, const Optional& bias, const Tensor& lora_A, const Tensor& lora_B,
    const Optional& group, double scaling) {
  const int64_t groups = check_lora_linear(x, weight, bias, lora_A, lora_B, group);
  const WithoutAutocast dtypes_as_given;
  const at::ScalarType dtype = product_dtype(x, weight), wide = accumulation_dtype(x.scalar_type());
  const Tensor frozen = at::linear(x.to(dtype), weight, bias ? Optional(bias->to(dtype)) : std::nullopt);
  const auto found = parts(group, groups);
  if (found.empty()) return frozen.to(x.scalar_type());

  Tensor y = at::empty(frozen.sizes(), x.options());
  for (const Part& part : found) {
    Tensor tokens = part.take(frozen).to(wide);
    tokens.addmm_(part.take(x).mm(part.weight(lora_A).t()), part.weight(lora_B).t(), 1, scaling);
    part.put(y, tokens);
  }
  return y;
}

std::vector<Tensor> lora_linear_backward(
    const Tensor& grad, const Tensor& x, const Tensor& weight, const Tensor& lora_A, const Tensor& lora_B,
    const Optional& group, double scaling, const c10::List<bool>& needed) {
  const int64_t groups = check_lora_linear(x, weight, std::nullopt, lora_A, lora_B, group);
  check_lora_linear_backward(grad, x, weight, needed);
  const WithoutAutocast dtypes_as_given;
  const bool needs_x = needed.get(0), needs_A = needed.get(3), needs_B = needed.get(4);
  const at::ScalarType dtype = product_dtype(x, weight);
  const Part whole{-1, Tensor()};

  Tensor frozen;  // (tokens, in), grad · weight
  Tensor grad_x = at::empty(x.sizes(), x.options());
  if (needs_x) frozen = at::mm(whole.take(grad).to(dtype), weight).view(x.sizes());
  Tensor grad_A = at::zeros(lora_A.sizes(), lora_A.options());
  Tensor grad_B = at::zeros(lora_B.sizes(), lora_B.options());
  for (const Part& part : parts(group, groups)) {
    const Tensor tokens = part.take(x), grads = part.take(grad);
    const Tensor own_A = part.weight(lora_A);
    const Tensor shrunk = grads.mm(part.weight(lora_B)).mul_(scaling);  // (tokens, rank)
    if (needs_x) part.put(grad_x, part.take(frozen).addmm_(shrunk, own_A));
    if (needs_A) part.put_gradient(grad_A, shrunk.t().mm(tokens));
    if (needs_B) part.put_gradient(grad_B, grads.t().mm(tokens.mm(own_A.t())).mul_(scaling));
  }

  std::vector<Tensor> results;
  if (needs_x) results.push_back(grad_x);
  if (needed.get(1)) results.push_back(whole.take(grad).t().mm(whole.take(x)).to(weight.scalar_type()));
  if (needed.get(2)) results.push_back(whole.take(grad).sum(0).to(weight.scalar_type()));
  if (needs_A) results.push_back(grad_A);
  if (needs_B) results.push_back(grad_B);
  return results;
}

}  // namespace

TORCH_LIBRARY_IMPL(hyperloader, CPU, m) {
  m.impl("lora_linear", &lora_linear);
  m.impl("lora_linear_backward", &lora_linear_backward);
}

}  // namespace hyperloader::cpu
