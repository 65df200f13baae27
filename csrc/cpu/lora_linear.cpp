// Frozen linear layers with LoRA updates, of the same x, on the CPU. The frozen product is the library's; the update is
// added into its output in tiles of tokens (`epilogue`), or, where that is faster, into a copy of the weight before it
// (`folded`). No gradient of the size of the weight is formed for lora_A and lora_B.
#include "lora_linear.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/sum.h>

#include <algorithm>

namespace hyperloader::cpu {

// Folding writes a copy of the weight (in · out numbers), in the forward and again in the backward, and saves a pass
// over the output of each (tokens · out and tokens · in). Measured with 384 to 1024 features and 512 to 8192 tokens: it
// is the faster one from 1.5 tokens a feature on. In half precision the update would be lost in the weight's rounding.
bool lora_folds(int64_t tokens, int64_t in, int64_t out, bool grouped, bool half) {
  return !grouped && !half && tokens * (in + out) >= 3 * in * out;
}

}  // namespace hyperloader::cpu

namespace hyperloader::cpu::lora_linear {
namespace {

// The dtype of the frozen products: that of x and the weights, float32 where float32 weights stand beside a half x.
at::ScalarType product_dtype(const Tensor& x, at::TensorList weights) {
  return x.scalar_type() == weights[0].scalar_type() ? x.scalar_type() : accumulate_dtype(x.scalar_type());
}

Tensor as_tokens(const Tensor& tensor) {
  if (tensor.dim() == 2) return tensor;
  const int64_t tokens = c10::multiply_integers(tensor.sizes().slice(0, tensor.dim() - 1));
  return tensor.reshape({tokens, tensor.size(-1)});
}

// Layers that share their x fold together or not at all.
bool folds(const Tensor& x, at::TensorList weights, bool grouped) {
  const int64_t tokens = x.numel() / std::max<int64_t>(x.size(-1), 1);
  const bool half = product_dtype(x, weights) != accumulate_dtype(x.scalar_type());
  return std::all_of(weights.begin(), weights.end(), [&](const Tensor& weight) {
    return lora_folds(tokens, weight.size(1), weight.size(0), grouped, half);
  });
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
    loops<T>().accumulate(
        to.data() + begin, from.data() + begin, end - begin, coefficients + begin * rank, rank, 1, terms.data(), rank,
        in);
  });
  return folded;
}

Tensor fold(const Tensor& weight, const Tensor& lora_A, const Tensor& lora_B, double scaling) {
  return weight.scalar_type() == at::kDouble ? fold_as<double>(weight, lora_A, lora_B, scaling)
                                             : fold_as<float>(weight, lora_A, lora_B, scaling);
}

template <typename Function>
std::vector<Tensor> map(at::TensorList tensors, const Function& function) {
  std::vector<Tensor> mapped;
  mapped.reserve(tensors.size());
  for (const Tensor& tensor : tensors) mapped.push_back(function(tensor));
  return mapped;
}

// The gradient of x sums over the ranks of all layers.
bool reads_bfloat16(const Tensor& x, at::TensorList weights, at::TensorList lora_A, at::TensorList lora_B) {
  const auto all = [](at::TensorList tensors) { return std::all_of(tensors.begin(), tensors.end(), is_bfloat16); };
  if (!multiplies_bfloat16() || !is_bfloat16(x) || !all(weights) || !all(lora_A) || !all(lora_B)) return false;
  int64_t rank = 0;
  for (const Tensor& factor : lora_A) rank += factor.size(-2);
  return rank <= kMostTerms;
}

Call call_of(
    const Tensor& x, at::TensorList lora_A, at::TensorList lora_B, double scaling, const Tokens& tokens,
    bool reads_bfloat16) {
  const auto converted = [&](const Tensor& factor) { return contiguous_as(factor, accumulate_dtype(x.scalar_type())); };
  return {
      contiguous(x), reads_bfloat16 ? map(lora_A, contiguous) : map(lora_A, converted), map(lora_B, converted), scaling,
      tokens};
}

// Multiplications of the low-rank product and the update, for each token.
int64_t work_of(const Call& call) {
  int64_t total = 0;
  for (size_t i = 0; i < call.lora_A.size(); ++i) {
    total += call.lora_A[i].size(-2) * (call.lora_A[i].size(-1) + call.lora_B[i].size(-2));
  }
  return total;
}

std::vector<Tensor> lora_linears(const LoraLinearsArguments& arguments) {
  const int64_t groups = check(arguments);
  const Tensor& x = arguments.x;
  const at::TensorList weights = arguments.weights, biases = arguments.biases;
  const WithoutAutocast dtypes_as_given;
  const at::ScalarType dtype = product_dtype(x, weights), accumulated = accumulate_dtype(x.scalar_type());
  const Tokens tokens(x, arguments.group, groups);
  const bool bfloat16 = reads_bfloat16(x, weights, arguments.lora_A, arguments.lora_B);
  Call call = call_of(x, arguments.lora_A, arguments.lora_B, arguments.scaling, tokens, bfloat16);
  const Tensor input = as_dtype(x, dtype);  // as it lies in memory, which the last bits may depend on
  const auto product = [&](size_t i, const Tensor& weight) {
    return at::linear(input, weight, biases.empty() ? Optional() : Optional(as_dtype(biases[i], dtype))).contiguous();
  };
  if (folds(x, weights, arguments.group.has_value())) {
    std::vector<Tensor> results;
    for (size_t i = 0; i < weights.size(); ++i) {
      const Tensor folded = fold(weights[i], call.lora_A[i], call.lora_B[i], call.scaling);
      results.push_back(as_dtype(product(i, folded), x.scalar_type()));
    }
    return results;
  }

  for (size_t i = 0; i < weights.size(); ++i) {
    const Tensor frozen = product(i, weights[i]);
    call.starts.push_back(frozen);
    call.outs.push_back(dtype == x.scalar_type() ? frozen : at::empty(frozen.sizes(), x.options()));
  }
  const auto shares = tokens.share(work_of(call));
  with_numbers(accumulated, bfloat16, [&](auto numbers) {
    using Types = decltype(numbers);
    each_tile<typename Types::T, Forward<typename Types::T, typename Types::Row>>(shares, call);
  });
  return call.outs;
}

// Σ gradᵢ · weightᵢ, (tokens, in_features).
Tensor frozen_gradient(const std::vector<Tensor>& grads, at::TensorList weights) {
  Tensor sum = at::mm(grads[0], weights[0]);
  for (size_t i = 1; i < weights.size(); ++i) sum.addmm_(grads[i], weights[i]);
  return sum;
}

// Where the gradients of `factors` are written: the groups that have no token are zero.
std::vector<Tensor> sums_like(
    const std::vector<Tensor>& factors, at::ScalarType dtype, const Tokens& tokens, bool grouped) {
  return map(factors, [&](const Tensor& factor) {
    const Tensor found = at::empty(factor.sizes(), factor.options().dtype(dtype));
    for (int64_t g = 0; g < tokens.groups(); ++g) {
      if (tokens.empty(g)) (grouped ? found.select(0, g) : found).zero_();
    }
    return found;
  });
}

std::vector<Tensor> lora_linears_backward(const LoraLinearsBackwardArguments& arguments) {
  const int64_t groups = check(arguments);
  const LoraNeeded needed = LoraNeeded::from(arguments.needed);
  const Tensor& x = arguments.x;
  const at::TensorList weights = arguments.weights;
  const bool grouped = arguments.group.has_value();
  const WithoutAutocast dtypes_as_given;
  const at::ScalarType dtype = product_dtype(x, weights), accumulated = accumulate_dtype(x.scalar_type());
  const Tokens tokens(x, arguments.group, groups);
  const bool bfloat16 = reads_bfloat16(x, weights, arguments.lora_A, arguments.lora_B);
  Call call = call_of(x, arguments.lora_A, arguments.lora_B, arguments.scaling, tokens, bfloat16);
  call.grads = map(arguments.grads, contiguous);
  if (needed.lora_A) call.grad_A = sums_like(call.lora_A, accumulated, tokens, grouped);
  if (needed.lora_B) call.grad_B = sums_like(call.lora_B, accumulated, tokens, grouped);

  Tensor grad_x;
  if (needed.x) {
    const auto products = map(call.grads, [&](const Tensor& grad) { return as_tokens(as_dtype(grad, dtype)); });
    if (folds(x, weights, grouped)) {
      std::vector<Tensor> folded;
      for (size_t i = 0; i < weights.size(); ++i) {
        folded.push_back(fold(weights[i], call.lora_A[i], call.lora_B[i], call.scaling));
      }
      grad_x = as_dtype(frozen_gradient(products, folded), x.scalar_type());
    } else {
      const Tensor frozen = frozen_gradient(products, weights);
      grad_x = dtype == x.scalar_type() ? frozen : at::empty(frozen.sizes(), x.options());
      call.starts = {frozen};
      call.outs = {grad_x};
    }
  }
  if (!call.outs.empty() || needed.lora_A || needed.lora_B) {
    const auto shares = tokens.share(3 * work_of(call));
    with_numbers(accumulated, bfloat16, [&](auto numbers) {
      using Types = decltype(numbers);
      using Worker = Backward<typename Types::T, typename Types::Row>;
      each_group<typename Types::T, Worker>(shares, call, Worker::size(call));
    });
  }

  std::vector<Tensor> results;
  if (needed.x) results.push_back(x.dim() == 2 ? grad_x : grad_x.view(x.sizes()));
  if (needed.weights) {
    const Tensor input = as_tokens(as_dtype(call.x, accumulated));
    for (const Tensor& grad : call.grads) {
      const Tensor found = as_tokens(as_dtype(grad, accumulated)).t().mm(input);
      results.push_back(as_dtype(found, weights[0].scalar_type()));
    }
  }
  if (needed.biases) {  // biases: in a dtype of their own, which may have more digits than the weights'
    for (const Tensor& grad : call.grads) results.push_back(as_tokens(grad).sum(0, /*keepdim=*/false, accumulated));
  }
  for (size_t i = 0; i < call.grad_A.size(); ++i)
    results.push_back(as_dtype(call.grad_A[i], arguments.lora_A[i].scalar_type()));
  for (size_t i = 0; i < call.grad_B.size(); ++i)
    results.push_back(as_dtype(call.grad_B[i], arguments.lora_B[i].scalar_type()));
  return results;
}

}  // namespace

TORCH_LIBRARY_IMPL(hyperloader, CPU, m) {
  implement<lora_linears>(m);
  implement<lora_linears_backward>(m);
}

}  // namespace hyperloader::cpu::lora_linear
