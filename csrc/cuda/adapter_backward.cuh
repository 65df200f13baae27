// The adapter's backward for the tokens of a tile, on CUDA devices.
#pragma once

#include "adapter.cuh"

namespace hyperloader::cuda {

// Sums over the tokens of each tile, one row of numbers a tile.
struct TileSums {
  int64_t norm_weight, norm_bias, up_bias, down_bias, width;  // where they begin; of a row

  TileSums(int64_t hidden, int64_t bottleneck)
      : norm_weight(0),
        norm_bias(padded(hidden)),
        up_bias(2 * padded(hidden)),
        down_bias(3 * padded(hidden)),
        width(3 * padded(hidden) + padded(bottleneck)) {}
};

template <typename X, typename C>
struct Backward {
  Adapter<X, C> adapter;
  const C *down_transposed, *up_transposed;  // (padded hidden, padded bottleneck), (padded bottleneck, padded hidden)
  const X* grad;
  const Sum<X>* pre;
  X* grad_v;      // of the up projection's result; not written without an outer norm
  X* grad_x;      // with the inner norm the gradient of its standardised result, without the residual
  Sum<X>* units;  // (tokens, 2 bottleneck): the gradient of pre, and act(pre)
  Sum<X>* sums;   // (tiles, places.width)
  TileSums places;
  bool residual;
};

// to[0 .. 8) = Σ over the tile's tokens of a lane's eight numbers.
template <typename S>
__device__ __forceinline__ void sum_tokens(Numbers<S, 8> numbers, S* to) {
#pragma unroll
  for (int i = 0; i < 8; ++i) {
#pragma unroll
    for (int mask = 4; mask < 32; mask *= 2) numbers.at[i] += __shfl_xor_sync(kAllLanes, numbers.at[i], mask);
  }
  if (lane_token() == 0) store<8>(to + lane_column(), numbers, 8, true);
}

// Sum of both numbers over all lanes and warps that share a token.
template <typename S>
__device__ __forceinline__ void sum_block(S (&numbers)[2][2], S (&kept)[2][kWarps][kTokens]) {
#pragma unroll
  for (int index = 0; index < 2; ++index) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      S& own = numbers[index][h];
      own += __shfl_xor_sync(kAllLanes, own, 1);
      own += __shfl_xor_sync(kAllLanes, own, 2);
      if (lane_column() == 0) kept[index][warp_of_block()][lane_token() + 8 * h] = own;
    }
  }
  __syncthreads();
#pragma unroll
  for (int index = 0; index < 2; ++index) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      S sum = 0;
#pragma unroll
      for (int warp = 0; warp < kWarps; ++warp) sum += kept[index][warp][lane_token() + 8 * h];
      numbers[index][h] = sum;
    }
  }
  __syncthreads();
}

// The gradient of v = up · a + up_bias, to grad_v, and the tile's sums for the norm and up_bias.
template <typename X, typename C>
__device__ __forceinline__ void through_norm(
    const Adapter<X, C>& adapter, const Rows<const C>& a, const Rows<const X>& grad, const Rows<X>& grad_v,
    Sum<X>* sums, const TileSums& places) {
  using S = Sum<X>;
  __shared__ Moments<S> kept[kWarps][kTokens];
  __shared__ S kept_sums[2][kWarps][kTokens];
  const int64_t thin = padded(adapter.bottleneck), hidden = adapter.hidden;
  Standard<S> standard[2];
  standardise(adapter, a, kept, standard);

  S along[2][2] = {};  // Σ γ g and Σ γ g x̂ of the two tokens
  expand(a, thin, adapter.up, hidden, [&](int64_t column, Tile<S>& tile) {
    const int64_t own = column + lane_column();
    const auto weight = load<8>(adapter.norm_weight + own, 8, true);
    Numbers<S, 8> of_bias{};
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      S v[8];
      values(tile, h, adapter.up_bias, column, v);
      const auto g = grad.template load<8>(h, own);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const S given = static_cast<S>(g.at[i]), weighted = weight.at[i] * given;
        of_bias.at[i] += given;
        along[0][h] += weighted;
        along[1][h] += weighted * (v[i] - standard[h].mean) * standard[h].rstd;
      }
    }
    sum_tokens(of_bias, sums + places.norm_bias + column);
  });
  sum_block(along, kept_sums);
#pragma unroll
  for (int h = 0; h < 2; ++h) {  // now their means
    along[0][h] /= S(hidden);
    along[1][h] /= S(hidden);
  }

  expand(a, thin, adapter.up, hidden, [&](int64_t column, Tile<S>& tile) {
    const int64_t own = column + lane_column();
    const auto weight = load<8>(adapter.norm_weight + own, 8, true);
    Numbers<S, 8> of_weight{}, of_v{};
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      S v[8];
      values(tile, h, adapter.up_bias, column, v);
      const auto g = grad.template load<8>(h, own);
      Numbers<X, 8> result;
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const S given = static_cast<S>(g.at[i]), x = (v[i] - standard[h].mean) * standard[h].rstd;
        const S found = standard[h].rstd * (weight.at[i] * given - along[0][h] - x * along[1][h]);
        of_weight.at[i] += given * x;
        of_v.at[i] += found;
        result.at[i] = static_cast<X>(found);
      }
      grad_v.store(h, own, result);
    }
    sum_tokens(of_weight, sums + places.norm_weight + column);
    sum_tokens(of_v, sums + places.up_bias + column);
  });
  __syncthreads();  // grad_v is read by other threads of the block
}

template <typename X, typename C, bool kNorm>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce<C>)
    adapter_backward_kernel(const __grid_constant__ Backward<X, C> call) {
  using S = Sum<X>;
  __shared__ Partial<S> partial;
  const Tokens& tokens = call.adapter.tokens;
  const int64_t tile_of_batch = blockIdx.x, first = tokens.first(tile_of_batch);
  const int64_t group = tokens.group_of_tile(tile_of_batch);
  const int count = tokens.count(tile_of_batch);
  const Adapter<X, C> adapter = call.adapter.of_group(group);
  const int64_t hidden = adapter.hidden, bottleneck = adapter.bottleneck;
  const int64_t padded_hidden = padded(hidden), thin = padded(bottleneck);
  const Units<C> a{dynamic_shared<C>(), thin};  // then the gradient of pre
  S* const units = call.units + first * 2 * bottleneck;
  S* const sums = call.sums + tile_of_batch * call.places.width;

  const S* const pre = call.pre + first * bottleneck;
  for (int64_t i = threadIdx.x; i < kTokens * thin; i += kThreads) {
    const int64_t token = i / thin, unit = i % thin;
    const bool exists = token < count && unit < bottleneck;
    const S value = exists ? activate(adapter.activation, pre[token * bottleneck + unit]).value : S(0);
    if (exists) units[(2 * token + 1) * bottleneck + unit] = value;
    a.at(static_cast<int>(token), unit) = static_cast<C>(value);
  }
  __syncthreads();

  const Rows<const X> grad(call.grad + first * hidden, hidden, adapter.aligned, count);
  const Rows<X> grad_v(call.grad_v + first * hidden, hidden, adapter.aligned, count);
  if constexpr (kNorm) {
    through_norm(adapter, a.rows(), grad, grad_v, sums, call.places);
  } else {
    for (int64_t column = warp_of_block() * kStep; column < hidden; column += kWarps * kStep) {
      Numbers<S, 8> of_v{};
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const auto g = grad.template load<8>(h, column + lane_column());
#pragma unroll
        for (int i = 0; i < 8; ++i) of_v.at[i] += static_cast<S>(g.at[i]);
      }
      sum_tokens(of_v, sums + call.places.up_bias + column);
    }
  }

  const C* const up = call.up_transposed + group * thin * padded_hidden;
  const Rows<const X> given((kNorm ? call.grad_v : call.grad) + first * hidden, hidden, adapter.aligned, count);
  shrink<S>(
      thin, partial, [&](Tile<S>& tile, int64_t unit) { add_products(tile, given, up, unit); },
      [&](int token, int64_t unit, S sum) {
        S found = 0;
        if (token < count && unit < bottleneck) {
          found = sum * activate(adapter.activation, pre[token * bottleneck + unit]).slope;
          units[2 * token * bottleneck + unit] = found;
        }
        a.at(token, unit) = static_cast<C>(found);
      });
  for (int64_t unit = threadIdx.x; unit < bottleneck; unit += kThreads) {
    S sum = 0;
#pragma unroll
    for (int token = 0; token < kTokens; ++token) sum += static_cast<S>(a.at(token, unit));
    sums[call.places.down_bias + unit] = sum;
  }

  const C* const down = call.down_transposed + group * thin * padded_hidden;
  const Rows<X> grad_x(call.grad_x + first * hidden, hidden, adapter.aligned, count);
  expand(a.rows(), thin, down, hidden, [&](int64_t column, Tile<S>& tile) {
    const int64_t own = column + lane_column();
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      Numbers<X, 8> result;
      if (call.residual) result = grad.template load<8>(h, own);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const S through = call.residual ? static_cast<S>(result.at[i]) : S(0);
        result.at[i] = static_cast<X>(through + tile.at(h, i));
      }
      grad_x.store(h, own, result);
    }
  });
}

}  // namespace hyperloader::cuda
