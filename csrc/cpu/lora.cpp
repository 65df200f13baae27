// A frozen linear layer with a LoRA update on the CPU. The frozen product is the library's; the update is added into
// its output in tiles of tokens (`epilogue`), or, where that is faster, into a copy of the weight before it (`folded`).
// No gradient of the size of the weight is formed for lora_A and lora_B.
#include "lora.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/sum.h>
#include <torch/library.h>

namespace hyperloader::cpu {
namespace {

using Optional = std::optional<Tensor>;

// The dtype of the frozen product: that of x and weight, float32 where a float32 weight stands beside a half x.
at::ScalarType product_dtype(const Tensor& x, const Tensor& weight) {
  return x.scalar_type() == weight.scalar_type() ? x.scalar_type() : accumulation_dtype(x.scalar_type());
}

Tensor as_tokens(const Tensor& tensor) {
  if (tensor.dim() == 2) return tensor;
  const int64_t tokens = c10::multiply_integers(tensor.sizes().slice(0, tensor.dim() - 1));
  return tensor.reshape({tokens, tensor.size(-1)});
}

bool folds(const Tensor& x, const Tensor& weight, const Optional& group) {
  const int64_t tokens = x.numel() / std::max<int64_t>(x.size(-1), 1);
  const bool half = product_dtype(x, weight) != accumulation_dtype(x.scalar_type());
  return lora_folds(tokens, weight.size(1), weight.size(0), group.has_value(), half);
}

// weight + scaling · lora_B lora_A.
template <typename T>
Tensor fold_as(const Tensor& weight, const Tensor& lora_A, const Tensor& lora_B, double scaling) {
  const int64_t out = weight.size(0), in = weight.size(1), rank = lora_A.size(0);
  const Tensor frozen = contiguous(weight), folded = at::empty(weight.sizes(), frozen.options());
  const Tensor scaled = lora_A.mul(scaling);
  const auto rows_of = [&](const Tensor& tensor, int64_t rows) {
    return addresses(static_cast<T*>(const_cast<void*>(tensor.const_data_ptr())), rows, in);
  };
  const auto from = rows_of(frozen, out), to = rows_of(folded, out), terms = rows_of(scaled, rank);
  const T* coefficients = lora_B.const_data_ptr<T>();
  at::parallel_for(0, out, kTile, [&](int64_t begin, int64_t end) {
    kernels<T>().accumulate(
        to.data() + begin, from.data() + begin, end - begin, coefficients + begin * rank, rank, 1, terms.data(), rank,
        in);
  });
  return folded;
}

Tensor fold(const Tensor& weight, const Tensor& lora_A, const Tensor& lora_B, double scaling) {
  return weight.scalar_type() == at::kDouble ? fold_as<double>(weight, lora_A, lora_B, scaling)
                                             : fold_as<float>(weight, lora_A, lora_B, scaling);
}

Tensor lora_linear(
    const Tensor& x, const Tensor& weight, const Optional& bias, const Tensor& lora_A, const Tensor& lora_B,
    const Optional& group, double scaling) {
  const int64_t groups = check_lora_linear(x, weight, bias, lora_A, lora_B, group);
  const WithoutAutocast dtypes_as_given;
  const at::ScalarType dtype = product_dtype(x, weight), accumulated = accumulation_dtype(x.scalar_type());
  const Optional shift = bias ? Optional(as_dtype(*bias, dtype)) : std::nullopt;
  const Tensor input = contiguous(x), A = wide(lora_A, accumulated), B = wide(lora_B, accumulated);
  if (folds(x, weight, group)) {
    return as_dtype(at::linear(as_dtype(input, dtype), fold(weight, A, B, scaling), shift), x.scalar_type());
  }

  const Tensor frozen = at::linear(as_dtype(input, dtype), weight, shift);
  const Tensor y = dtype == x.scalar_type() ? frozen : at::empty(frozen.sizes(), x.options());
  const Tokens tokens(x, group, groups);
  const Tensor none;
  const LoraCall call{input, none, frozen, y, A, B, none, none, scaling, tokens};
  const auto shares = tokens.share(lora_A.size(-2) * (weight.size(0) + weight.size(1)));
  if (accumulated == at::kDouble) {
    each_tile<double, LoraForward<double>>(shares, call);
  } else {
    each_tile<float, LoraForward<float>>(shares, call);
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
  const at::ScalarType dtype = product_dtype(x, weight), accumulated = accumulation_dtype(x.scalar_type());
  const Tensor input = contiguous(x), grads = contiguous(grad);
  const Tensor A = wide(lora_A, accumulated), B = wide(lora_B, accumulated);
  const Tokens tokens(x, group, groups);

  const bool folded = folds(x, weight, group);
  Tensor frozen, grad_x;  // grad · weight, and with the update
  if (needs_x) {
    frozen = at::mm(as_tokens(as_dtype(grads, dtype)), folded ? fold(weight, A, B, scaling) : weight);
    grad_x =
        folded || dtype == x.scalar_type() ? as_dtype(frozen, x.scalar_type()) : at::empty(frozen.sizes(), x.options());
  }
  const auto stacked = [&](bool wanted, const Tensor& factor) {
    if (!wanted) return Tensor();
    const Tensor found = at::empty(factor.sizes(), factor.options());
    for (int64_t g = 0; g < groups; ++g) {
      if (tokens.empty(g)) (group ? found.select(0, g) : found).zero_();
    }
    return found;
  };
  const Tensor grad_A = stacked(needs_A, A), grad_B = stacked(needs_B, B), none;
  const LoraCall call{input,   grads, folded ? none : frozen, folded ? none : grad_x, A, B, grad_A, grad_B,
                      scaling, tokens};
  if (call.out.defined() || needs_A || needs_B) {
    const auto shares = tokens.share(3 * lora_A.size(-2) * (weight.size(0) + weight.size(1)));
    if (accumulated == at::kDouble) {
      each_group<double, LoraBackward<double>>(shares, call, LoraBackward<double>::size(call));
    } else {
      each_group<float, LoraBackward<float>>(shares, call, LoraBackward<float>::size(call));
    }
  }

  std::vector<Tensor> results;
  if (needs_x) results.push_back(x.dim() == 2 ? grad_x : grad_x.view(x.sizes()));
  if (needed.get(1))
    results.push_back(as_dtype(
        as_tokens(as_dtype(grads, accumulated)).t().mm(as_tokens(as_dtype(input, accumulated))), weight.scalar_type()));
  if (needed.get(2))
    results.push_back(as_tokens(grads).sum(
        0, /*keepdim=*/false, accumulated));  // bias: in its own dtype, which may be wider than the weight's
  if (needs_A) results.push_back(as_dtype(grad_A, lora_A.scalar_type()));
  if (needs_B) results.push_back(as_dtype(grad_B, lora_B.scalar_type()));
  return results;
}

}  // namespace

// Folding writes a copy of the weight (in · out numbers), in the forward and again in the backward, and saves a pass
// over the output of each (tokens · out and tokens · in). Measured with 384 to 1024 features and 512 to 8192 tokens: it
// is the faster one from 1.5 tokens a feature on. In half precision the update would drown in the weight's rounding.
bool lora_folds(int64_t tokens, int64_t in, int64_t out, bool grouped, bool half) {
  return !grouped && !half && tokens * (in + out) >= 3 * in * out;
}

TORCH_LIBRARY_IMPL(hyperloader, CPU, m) {
  m.impl("lora_linear", &lora_linear);
  m.impl("lora_linear_backward", &lora_linear_backward);
}

}  // namespace hyperloader::cpu
