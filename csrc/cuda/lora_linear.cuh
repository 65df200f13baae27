// What the forward and the backward of lora_linear share on CUDA devices: several updates of the same x at once.
#pragma once

#include "../lora_linear.h"
#include "dispatch.h"
#include "weights.cuh"
#include "workspace.h"

namespace hyperloader::cuda {

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
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce<C>)
    low_rank_kernel(const __grid_constant__ LowRank<X, C> call) {
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
    const int64_t in = padded(A[0].size(-1));
    for (size_t i = 0; i < size(); ++i) {
      const int64_t own = (i + 1 == size() ? thin() : begin[i + 1]) - begin[i];
      Layout layout = Matrix{A[i], grouped, transposed}.layout(
          to + begin[i] * (transposed ? 1 : in), false, transposed ? in : own, transposed ? own : in);
      layout.to_row_stride = transposed ? thin() : in;
      layout.to_group_stride = thin() * in;
      layouts.add(layout);
    }
  }

  // One lora_B as (out_features, units) or (units, out_features), zero beside its own units.
  template <typename C>
  void lay_out_B(Layouts& layouts, size_t i, C* to, bool transposed) const {
    const int64_t out = padded(B[i].size(-2));
    Layout layout =
        Matrix{B[i], grouped, transposed}.layout(to, false, transposed ? thin() : out, transposed ? out : thin());
    (transposed ? layout.first_row : layout.first_column) = begin[i];
    layouts.add(layout);
  }
};

// The dtype of the frozen product: that of x and weight, float32 where a float32 weight stands beside a half x.
inline at::ScalarType product_dtype(const Tensor& x, const Tensor& weight) {
  return x.scalar_type() == weight.scalar_type() ? x.scalar_type() : accumulate_dtype(x.scalar_type());
}

inline Tensor as_matrix(const Tensor& tensor) {
  return tensor.dim() == 2
             ? tensor
             : tensor.reshape({c10::multiply_integers(tensor.sizes().slice(0, tensor.dim() - 1)), tensor.size(-1)});
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
  launch(low_rank_kernel<X, C>, dim3(call.tokens.tiles()), dim3(kThreads), Units<C>::bytes(padded(call.rank)), call);
}

}  // namespace hyperloader::cuda
