// The adapter's forward for few tokens of more hidden units than stay in a block's shared memory, as a decoder's are
// when it writes: blocks share the hidden units of a tile, as terms of the first product and as columns of the second.
// With an outer norm v is written out, and a block a token takes mean and variance of it.
#pragma once

#include "adapter_forward.cuh"

#include <algorithm>

namespace hyperloader::cuda {

// Blocks that share a tile's hidden units, and what they leave for each other.
template <typename S>
struct Shares {
  int count;
  S* parts;  // of each share (tokens, padded bottleneck): its part of the first product
  S* v;      // (tokens, padded hidden), with an outer norm

  static constexpr int kLeast = 4;  // worth the launches more

  // As many as keep the GPU busy, and give each warp a step of 32 hidden units.
  static int count_for(int64_t tiles, int64_t wide) {
    const int64_t most = std::max<int64_t>(wide / kStep / kWarps, 1);
    return static_cast<int>(std::clamp<int64_t>(multiprocessors() / tiles, 1, most));
  }
};

template <typename X, typename C>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce<C>)
    shrink_share_kernel(const __grid_constant__ Forward<X, C> call, const __grid_constant__ Shares<Sum<X>> shares) {
  using S = Sum<X>;
  auto& partial = *dynamic_shared<Partial<S>>();
  const int64_t first = call.tokens.first(blockIdx.x), share = blockIdx.y;
  const int count = call.tokens.count(blockIdx.x);
  const LaidOut<S, C> weights = call.weights.of_group(call.tokens.group_of_tile(blockIdx.x));
  const int64_t wide = weights.wide(), thin = weights.thin(), steps = wide / kStep;
  const int64_t begin = steps * share / shares.count, end = steps * (share + 1) / shares.count;
  const Rows<const X> z(call.z + first * weights.hidden, weights.hidden, call.aligned, count);
  S* const parts = shares.parts + (share * call.tokens.all() + first) * thin;
  shrink(
      static_cast<int>(thin), partial,
      [&](Tile<S>& tile, int unit) {
        for (int64_t step = begin + warp_of_block(); step < end; step += kWarps) {
          multiply(tile, z, step * kStep, weights.shrink + unit * wide, wide);
        }
      },
      [&](int token, int unit, S sum) {
        if (token < count) parts[token * thin + unit] = sum;
      });
}

// A tile's share of the columns of v or, without an outer norm, of y.
template <typename X, typename C, bool kNorm>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce<C>)
    expand_share_kernel(const __grid_constant__ Forward<X, C> call, const __grid_constant__ Shares<Sum<X>> shares) {
  using S = Sum<X>;
  const int64_t first = call.tokens.first(blockIdx.x), share = blockIdx.y;
  const int count = call.tokens.count(blockIdx.x);
  const LaidOut<S, C> weights = call.weights.of_group(call.tokens.group_of_tile(blockIdx.x));
  const int64_t hidden = weights.hidden, bottleneck = weights.bottleneck, wide = weights.wide(), thin = weights.thin();
  const Units<C> a{dynamic_shared<C>(), thin};
  for (int64_t i = threadIdx.x; i < kTokens * thin; i += kThreads) {
    const int token = static_cast<int>(i / thin);
    const int64_t unit = i % thin, row = first + token;
    S value = 0;
    if (token < count) {
      S sum = 0;
      for (int part = 0; part < shares.count; ++part)
        sum += shares.parts[(part * call.tokens.all() + row) * thin + unit];
      sum += weights.down_bias[unit];
      if (share == 0 && unit < bottleneck) call.pre[row * bottleneck + unit] = sum;
      value = activate(call.activation, sum).value;
    }
    a.at(token, unit) = static_cast<C>(value);
  }
  __syncthreads();
  const Rows<const X> x(call.x + first * hidden, hidden, call.aligned, count);
  const Rows<X> y(call.y + first * hidden, hidden, call.aligned, count);
  const auto visit = [&](int64_t column, Tile<S>& tile) {
    const int64_t own = column + lane_column();
    const auto up_bias = load<8>(weights.up_bias + own, 8, true);
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      Numbers<S, 8> found;
#pragma unroll
      for (int i = 0; i < 8; ++i) found.at[i] = tile.at(h, i) + up_bias.at[i];
      if constexpr (kNorm) {
        Rows<S>(shares.v + first * wide, wide, true, count).store(h, own, found);
      } else {
        const auto residual = x.template load<8>(h, own);
        Numbers<X, 8> result;
#pragma unroll
        for (int i = 0; i < 8; ++i) result.at[i] = static_cast<X>(static_cast<S>(residual.at[i]) + found.at[i]);
        y.store(h, own, result);
      }
    }
  };
  expand(a.rows(), thin, weights.expand, hidden, visit, static_cast<int>(share), shares.count);
}

// y = x + norm(v) of a token.
template <typename X, typename C>
__global__ void __launch_bounds__(kThreads)
    norm_kernel(const __grid_constant__ Forward<X, C> call, const __grid_constant__ Shares<Sum<X>> shares) {
  using S = Sum<X>;
  __shared__ S kept[kWarps];
  const int64_t row = blockIdx.x, tile = row / call.tokens.tokens * call.tokens.tiles_of_sentence;
  const LaidOut<S, C> weights = call.weights.of_group(call.tokens.group_of_tile(tile));
  const int64_t hidden = weights.hidden;
  const S* const v = shares.v + row * weights.wide();
  S sum = 0;
  for (int64_t h = threadIdx.x; h < hidden; h += kThreads) sum += v[h];
  const S mean = sum_threads(sum, kept) / hidden;
  sum = 0;
  for (int64_t h = threadIdx.x; h < hidden; h += kThreads) sum += (v[h] - mean) * (v[h] - mean);
  const S rstd = 1 / ::sqrt(sum_threads(sum, kept) / hidden + call.eps);
  for (int64_t h = threadIdx.x; h < hidden; h += kThreads) {
    const S norm = (v[h] - mean) * rstd * weights.norm_weight[h] + weights.norm_bias[h];
    call.y[row * hidden + h] = static_cast<X>(static_cast<S>(call.x[row * hidden + h]) + norm);
  }
}

template <typename X, typename C>
void run_shares(const Forward<X, C>& call, const Shares<Sum<X>>& shares, bool norm) {
  using S = Sum<X>;
  const dim3 grid(call.tokens.tiles(), shares.count), block(kThreads);
  launch(shrink_share_kernel<X, C>, grid, block, sizeof(Partial<S>), call, shares);
  const auto expand = norm ? expand_share_kernel<X, C, true> : expand_share_kernel<X, C, false>;
  launch(expand, grid, block, Units<C>::bytes(call.weights.thin()), call, shares);
  if (norm) launch(norm_kernel<X, C>, dim3(call.tokens.all()), block, 0, call, shares);
}

}  // namespace hyperloader::cuda
