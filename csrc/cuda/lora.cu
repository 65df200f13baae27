// Frozen linear layers with LoRA updates on CUDA devices, several of the same x at once. The frozen products are the
// library's; one kernel shrinks x with all updates' lora_A and adds every update into its product.
#include <ATen/ops/linear.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include "../ops.h"
#include "dispatch.h"
#include "sums.cuh"
#include "weights.cuh"
#include "workspace.h"

namespace hyperloader::cuda {
namespace {

using Optional = std::optional<Tensor>;

constexpr int kProjections = 4;  // of one launch

// A matrix of tokens, and the weights (groups, units, padded(width)) or (groups, padded(width), units) that it is
// multiplied with or that it is the result of.
template <typename X, typename C>
struct Side {
  X* tokens;
  int64_t width;
  bool aligned;
  const C* weights;
  const Sum<X>* start;  // what a result is added to; null for `tokens` itself
};

// shrunk = scaling · Σ from · weightsᵀ, to = start + shrunk · weightsᵀ.
template <typename X, typename C>
struct LowRank {
  Tokens tokens;
  Side<const X, C> from[kProjections];
  Side<X, C> to[kProjections];
  int from_count = 0, to_count = 0;
  int64_t rank;    // of all projections together
  Sum<X>* shrunk;  // (tokens, rank); null where it is not wanted
  Sum<X> scaling;
};

template <typename X, typename C>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce<C>) low_rank_kernel(const __grid_constant__ LowRank<X, C> call) {
  using S = Sum<X>;
  __shared__ Partial<S> partial;
  const Tokens& tokens = call.tokens;
  const int64_t first = tokens.first(blockIdx.x), group = tokens.group_of_tile(blockIdx.x);
  const int count = tokens.count(blockIdx.x);
  const int64_t thin = padded(call.rank);
  const Units<C> units{dynamic_shared<C>(), thin};
  shrink<S>(
      thin, partial,
      [&](Tile<S>& tile, int64_t unit) {
        for (int i = 0; i < call.from_count; ++i) {
          const Side<const X, C>& side = call.from[i];
          const Rows<const X> rows(side.tokens + first * side.width, side.width, side.aligned, count);
          add_products(tile, rows, side.weights + group * thin * padded(side.width), unit);
        }
      },
      [&](int token, int64_t unit, S sum) {
        sum *= call.scaling;
        if (call.shrunk != nullptr && token < count && unit < call.rank) {
          call.shrunk[(first + token) * call.rank + unit] = sum;
        }
        units.at(token, unit) = static_cast<C>(sum);
      });
  for (int i = 0; i < call.to_count; ++i) {
    const Side<X, C>& side = call.to[i];
    const int64_t width = side.width;
    const Rows<X> rows(side.tokens + first * width, width, side.aligned, count);
    const Rows<const S> start(side.start == nullptr ? nullptr : side.start + first * width, width, false, count);
    expand(units.rows(), thin, side.weights + group * thin * padded(width), width, [&](int64_t column, Tile<S>& tile) {
      const int64_t own = column + lane_column();
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        Numbers<S, 8> sum;
        if (side.start == nullptr) {
          const auto found = rows.template load<8>(h, own);
#pragma unroll
          for (int j = 0; j < 8; ++j) sum.at[j] = static_cast<S>(found.at[j]);
        } else {
          sum = start.template load<8>(h, own);
        }
        Numbers<X, 8> result;
#pragma unroll
        for (int j = 0; j < 8; ++j) result.at[j] = static_cast<X>(sum.at[j] + tile.at(h, j));
        rows.store(h, own, result);
      }
    });
  }
}

// The updates of up to kProjections projections: their ranks stand side by side among the units.
struct Updates {
  std::vector<Tensor> A, B;
  std::vector<int64_t> begin;  // of each one's units; at last their number
  bool grouped;
  int64_t groups;

  Updates(at::TensorList lora_A, at::TensorList lora_B, bool grouped, int64_t groups)
      : A(lora_A.vec()), B(lora_B.vec()), begin{0}, grouped(grouped), groups(groups) {
    for (const Tensor& factor : A) begin.push_back(begin.back() + factor.size(-2));
  }
  size_t size() const { return A.size(); }
  int64_t rank() const { return begin.back(); }
  int64_t thin() const { return padded(rank()); }

  // Whether all factors have the dtype of x.
  bool same_dtypes(const Tensor& x) const {
    const auto same = [&](const Tensor& factor) { return factor.scalar_type() == x.scalar_type(); };
    return std::all_of(A.begin(), A.end(), same) && std::all_of(B.begin(), B.end(), same);
  }

  // All lora_A as one (units, in_features), or as one (in_features, units).
  template <typename C>
  void lay_out_A(Layouts& layouts, C* to, bool transposed) const {
    const int64_t wide = padded(A[0].size(-1));
    for (size_t i = 0; i < size(); ++i) {
      const int64_t own = (i + 1 == size() ? thin() : begin[i + 1]) - begin[i];
      Layout layout = Matrix{A[i], grouped, transposed}.layout(
          to + begin[i] * (transposed ? 1 : wide), false, transposed ? wide : own, transposed ? own : wide);
      layout.to_row_stride = transposed ? thin() : wide;
      layout.to_group_stride = thin() * wide;
      layouts.add(layout);
    }
  }

  // One lora_B as (out_features, units) or (units, out_features), zero beside its own units.
  template <typename C>
  void lay_out_B(Layouts& layouts, size_t i, C* to, bool transposed) const {
    const int64_t wide = padded(B[i].size(-2));
    Layout layout = Matrix{B[i], grouped, transposed}.layout(
        to, false, transposed ? thin() : wide, transposed ? wide : thin());
    (transposed ? layout.first_row : layout.first_column) = begin[i];
    layouts.add(layout);
  }
};

// The dtype of the frozen product: that of x and weight, float32 where a float32 weight stands beside a half x.
at::ScalarType product_dtype(const Tensor& x, const Tensor& weight) {
  return x.scalar_type() == weight.scalar_type() ? x.scalar_type() : accumulation_dtype(x.scalar_type());
}

Tensor as_matrix(const Tensor& tensor) {
  return tensor.dim() == 2 ? tensor
                           : tensor.reshape({c10::multiply_integers(tensor.sizes().slice(0, tensor.dim() - 1)),
                                             tensor.size(-1)});
}

// `frozen` is the product; `y` what is written, the same where the dtypes are.
template <typename X, typename C>
Side<X, C> result_side(const Tensor& frozen, const Tensor& y, int64_t width, const C* weights) {
  X* const tokens = y.mutable_data_ptr<X>();
  const Sum<X>* const start = frozen.is_same(y) ? nullptr : frozen.const_data_ptr<Sum<X>>();
  return {tokens, width, rows_aligned(tokens, width), weights, start};
}

template <typename X, typename C>
Side<const X, C> operand_side(const Tensor& x, int64_t width, const C* weights) {
  const X* const tokens = x.const_data_ptr<X>();
  return {tokens, width, rows_aligned(tokens, width), weights, nullptr};
}

template <typename X, typename C>
void run_low_rank(const LowRank<X, C>& call) {
  launch(
      low_rank_kernel<X, C>, dim3(call.tokens.tiles()), dim3(kThreads), Units<C>::bytes(padded(call.rank)), call);
}

template <typename X, typename C>
void forward(
    const Tensor& x, const Updates& updates, const Optional& group, double scaling, at::TensorList frozen,
    at::TensorList results) {
  LowRank<X, C> call{};
  call.tokens = tokens_of(x, group, updates.groups);
  if (call.tokens.tiles() == 0) return;
  Workspace memory;
  const int64_t thin = updates.thin(), in_features = x.size(-1);
  const auto A = memory.reserve<C>(updates.groups * thin * padded(in_features));
  std::vector<Workspace::Place<C>> B;
  for (const Tensor& factor : updates.B) {
    B.push_back(memory.reserve<C>(updates.groups * thin * padded(factor.size(-2))));
  }
  memory.allocate(x);
  Layouts layouts;
  updates.lay_out_A(layouts, memory[A], /*transposed=*/false);
  call.from[call.from_count++] = operand_side<X, C>(x, in_features, memory[A]);
  for (size_t i = 0; i < updates.size(); ++i) {
    updates.lay_out_B(layouts, i, memory[B[i]], /*transposed=*/false);
    call.to[call.to_count++] = result_side<X, C>(frozen[i], results[i], updates.B[i].size(-2), memory[B[i]]);
  }
  lay_out<C>(layouts, updates.groups);
  call.rank = updates.rank();
  call.scaling = static_cast<Sum<X>>(scaling);
  run_low_rank(call);
}

// frozen, grad_x: undefined where the gradient of x is not wanted; grad_A, grad_B: undefined likewise.
struct BackwardCall {
  std::vector<Tensor> grads;
  Tensor x, frozen, grad_x;
  std::vector<Tensor> grad_A, grad_B;
  double scaling;

  bool wants(const std::vector<Tensor>& tensors) const {
    return std::any_of(tensors.begin(), tensors.end(), [](const Tensor& tensor) { return tensor.defined(); });
  }
};

template <typename X, typename C>
void backward(const BackwardCall& call, const Updates& updates, const Optional& group) {
  using S = Sum<X>;
  const Tokens tokens = tokens_of(call.x, group, updates.groups);
  const bool wants_A = call.wants(call.grad_A), wants_B = call.wants(call.grad_B), wants_x = call.grad_x.defined();
  const int64_t thin = updates.thin(), rank = updates.rank(), groups = updates.groups, in_features = call.x.size(-1);
  const int64_t count = tokens.sentences * tokens.tokens, wide = padded(in_features);
  int64_t results = wants_A ? thin * wide : 0;
  for (size_t i = 0; i < updates.size(); ++i) {
    if (call.grad_B[i].defined()) results += padded(updates.A[i].size(-2)) * padded(updates.B[i].size(-2));
  }
  const int64_t splits = splits_for(tokens, results);

  Workspace memory;
  const auto A = memory.reserve<C>(wants_B ? groups * thin * wide : 0);
  const auto A_transposed = memory.reserve<C>(wants_x ? groups * thin * wide : 0);
  const auto shrunk = memory.reserve<S>(wants_B ? count * rank : 0);
  const auto shrunk_grad = memory.reserve<S>(wants_A ? count * rank : 0);
  const auto A_parts = memory.reserve<S>(wants_A ? groups * splits * rank * in_features : 0);
  std::vector<Workspace::Place<C>> B;
  std::vector<Workspace::Place<S>> B_parts;
  for (size_t i = 0; i < updates.size(); ++i) {
    const int64_t out_features = updates.B[i].size(-2);
    B.push_back(memory.reserve<C>(wants_x || wants_A ? groups * thin * padded(out_features) : 0));
    B_parts.push_back(
        memory.reserve<S>(call.grad_B[i].defined() ? groups * splits * updates.A[i].size(-2) * out_features : 0));
  }
  memory.allocate(call.x);

  Layouts layouts;
  if (wants_B) updates.lay_out_A(layouts, memory[A], /*transposed=*/false);
  if (wants_x) updates.lay_out_A(layouts, memory[A_transposed], /*transposed=*/true);
  for (size_t i = 0; (wants_x || wants_A) && i < updates.size(); ++i) {
    updates.lay_out_B(layouts, i, memory[B[i]], /*transposed=*/true);
  }
  lay_out<C>(layouts, groups);

  LowRank<X, C> through{};  // grads to the units, and on to x
  through.tokens = tokens;
  through.rank = rank;
  through.scaling = static_cast<S>(call.scaling);
  LowRank<X, C> again = through;  // x to the units
  if (wants_x || wants_A) {
    for (size_t i = 0; i < updates.size(); ++i) {
      through.from[through.from_count++] =
          operand_side<X, C>(call.grads[i], updates.B[i].size(-2), memory[B[i]]);
    }
    if (wants_x) {
      through.to[through.to_count++] =
          result_side<X, C>(call.frozen, call.grad_x, in_features, memory[A_transposed]);
    }
    through.shrunk = wants_A ? memory[shrunk_grad] : nullptr;
    run_low_rank(through);
  }
  if (wants_B) {
    again.from[again.from_count++] = operand_side<X, C>(call.x, in_features, memory[A]);
    again.shrunk = memory[shrunk];
    run_low_rank(again);
  }
  if (!wants_A && !wants_B) return;

  TokenProducts<X> products;
  Reductions reductions;
  products.tokens = reductions.tokens = tokens;
  products.splits = splits;
  const auto add = [&](const S* units, int64_t width_of_units, const Tensor& x, int64_t width, S* parts) {
    const X* const numbers = x.const_data_ptr<X>();
    products.add({units, rank, width_of_units, numbers, width, rows_aligned(numbers, width), parts});
  };
  const auto finish = [&](const S* parts, int64_t all, int64_t rows, int64_t columns, const Tensor& grad, bool turned) {
    const int64_t size = all * columns;
    reductions.add(
        {parts, splits, size, splits * size, false, rows, columns, {grad.mutable_data_ptr(), grad.scalar_type()},
         turned});
  };
  if (wants_A) add(memory[shrunk_grad], rank, call.x, in_features, memory[A_parts]);
  for (size_t i = 0; i < updates.size(); ++i) {
    const int64_t own = updates.A[i].size(-2), out_features = updates.B[i].size(-2);
    if (call.grad_A[i].defined()) {
      finish(memory[A_parts] + updates.begin[i] * in_features, rank, own, in_features, call.grad_A[i], false);
    }
    if (!call.grad_B[i].defined()) continue;
    add(memory[shrunk] + updates.begin[i], own, call.grads[i], out_features, memory[B_parts[i]]);
    finish(memory[B_parts[i]], own, own, out_features, call.grad_B[i], true);
  }
  sum_products<X, C>(products);
  reduce<S>(reductions);
}

// Which gradients are wanted.
struct Wanted {
  bool x;
  std::vector<bool> weights, biases, A, B;
};

Optional contiguous(const Optional& group) { return group ? Optional(group->contiguous()) : std::nullopt; }

std::vector<Tensor> lora_forward(
    const Tensor& x, at::TensorList weights, at::ArrayRef<Optional> biases, at::TensorList lora_A,
    at::TensorList lora_B, const Optional& group, double scaling, int64_t groups) {
  const Guard device(x.device());
  const WithoutAutocast dtypes_as_given;
  const Tensor input = x.contiguous();
  std::vector<Tensor> frozen, results;
  for (size_t i = 0; i < weights.size(); ++i) {
    const at::ScalarType dtype = product_dtype(x, weights[i]);
    frozen.push_back(at::linear(input.to(dtype), weights[i], biases[i] ? Optional(biases[i]->to(dtype)) : std::nullopt));
    results.push_back(dtype == x.scalar_type() ? frozen[i] : at::empty(frozen[i].sizes(), x.options()));
  }
  const Optional sentences = contiguous(group);
  for (size_t begin = 0; begin < weights.size(); begin += kProjections) {
    const size_t count = std::min<size_t>(kProjections, weights.size() - begin);
    const Updates updates(lora_A.slice(begin, count), lora_B.slice(begin, count), group.has_value(), groups);
    with_types(x.scalar_type(), updates.same_dtypes(x), [&](auto types) {
      forward<typename decltype(types)::X, typename decltype(types)::C>(
          input, updates, sentences, scaling, at::TensorList(frozen).slice(begin, count),
          at::TensorList(results).slice(begin, count));
    });
  }
  return results;
}

std::vector<Tensor> lora_backward(
    at::TensorList given, const Tensor& x, at::TensorList weights, at::TensorList lora_A, at::TensorList lora_B,
    const Optional& group, double scaling, int64_t groups, const Wanted& wanted) {
  const Guard device(x.device());
  const WithoutAutocast dtypes_as_given;
  const Tensor input = x.contiguous();
  std::vector<Tensor> grads;
  for (const Tensor& grad : given) grads.push_back(grad.contiguous());

  Tensor frozen, grad_x;  // Σ grad · weight, and with the updates
  for (size_t i = 0; wanted.x && i < weights.size(); ++i) {
    const at::ScalarType dtype = product_dtype(x, weights[i]);
    const Tensor grad = as_matrix(grads[i].to(dtype));
    frozen = i == 0 ? at::mm(grad, weights[i]) : frozen.addmm_(grad, weights[i]);
  }
  if (wanted.x) {
    frozen = frozen.view(x.sizes());
    grad_x = frozen.scalar_type() == x.scalar_type() ? frozen : at::empty(x.sizes(), x.options());
  }
  const auto empty_where = [](bool wants, const Tensor& like) {
    return wants ? at::empty(like.sizes(), like.options()) : Tensor();
  };
  std::vector<Tensor> grad_A, grad_B;
  for (size_t i = 0; i < weights.size(); ++i) {
    grad_A.push_back(empty_where(wanted.A[i], lora_A[i]));
    grad_B.push_back(empty_where(wanted.B[i], lora_B[i]));
  }
  const Optional sentences = contiguous(group);
  for (size_t begin = 0; begin < weights.size(); begin += kProjections) {
    const size_t count = std::min<size_t>(kProjections, weights.size() - begin), end = begin + count;
    const Updates updates(lora_A.slice(begin, count), lora_B.slice(begin, count), group.has_value(), groups);
    const auto part = [&](const std::vector<Tensor>& all) {
      return std::vector<Tensor>(all.begin() + begin, all.begin() + end);
    };
    const BackwardCall call{part(grads), input, frozen, grad_x, part(grad_A), part(grad_B), scaling};
    with_types(x.scalar_type(), updates.same_dtypes(x), [&](auto types) {
      backward<typename decltype(types)::X, typename decltype(types)::C>(call, updates, sentences);
    });
    frozen = grad_x;
  }

  const at::ScalarType sums = accumulation_dtype(x.scalar_type());
  std::vector<Tensor> results;
  if (wanted.x) results.push_back(grad_x);
  for (size_t i = 0; i < weights.size(); ++i) {
    if (!wanted.weights[i]) continue;
    const at::ScalarType dtype = product_dtype(x, weights[i]);
    const Tensor product = at::mm(as_matrix(grads[i].to(dtype)).t(), as_matrix(input.to(dtype)));
    results.push_back(product.to(weights[i].scalar_type()));
  }
  for (size_t i = 0; i < weights.size(); ++i) {
    if (wanted.biases[i]) results.push_back(as_matrix(grads[i]).sum(0, /*keepdim=*/false, sums));
  }
  for (const std::vector<Tensor>* found : {&grad_A, &grad_B}) {
    for (const Tensor& grad : *found) {
      if (grad.defined()) results.push_back(grad);
    }
  }
  return results;
}

Tensor lora_linear(
    const Tensor& x, const Tensor& weight, const Optional& bias, const Tensor& lora_A, const Tensor& lora_B,
    const Optional& group, double scaling) {
  const int64_t groups = check_lora_linear(x, weight, bias, lora_A, lora_B, group);
  return lora_forward(x, weight, bias, lora_A, lora_B, group, scaling, groups)[0];
}

std::vector<Tensor> lora_linear_backward(
    const Tensor& grad, const Tensor& x, const Tensor& weight, const Tensor& lora_A, const Tensor& lora_B,
    const Optional& group, double scaling, const c10::List<bool>& needed) {
  const int64_t groups = check_lora_linear(x, weight, std::nullopt, lora_A, lora_B, group);
  check_lora_linear_backward(grad, x, weight, needed);
  const Wanted wanted{needed.get(0), {needed.get(1)}, {needed.get(2)}, {needed.get(3)}, {needed.get(4)}};
  return lora_backward(grad, x, weight, lora_A, lora_B, group, scaling, groups, wanted);
}

}  // namespace

TORCH_LIBRARY_IMPL(hyperloader, CUDA, m) {
  m.impl("lora_linear", &lora_linear);
  m.impl("lora_linear_backward", &lora_linear_backward);
}

}  // namespace hyperloader::cuda
