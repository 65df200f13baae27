// The adapter's forward for a tile of tokens, on CUDA devices, wherever the weights lie: between the two products and
// after them.
#pragma once

#include "adapter.cuh"

namespace hyperloader::cuda {

template <typename X, typename C>
struct Forward {
  Tokens tokens;
  bool aligned;  // all rows of tokens are, for accesses of 16 bytes
  LaidOut<Sum<X>, C> weights;
  Activation activation;
  Sum<X> eps;
  const X *x, *z;  // z: x after the inner norm, x itself without one
  X* y;
  Sum<X>* pre;
};

// The outer norm's mean and 1 / sqrt(variance + eps) of each of a tile's tokens, in shared memory.
template <typename S, int kHeight>
struct OuterNorms {
  S mean[kHeight], rstd[kHeight];

  // From the few numbers of each token and the moments, wherever they lie; the threads meet before and after.
  template <typename C>
  __device__ __forceinline__ void find(
      const Few<S>& few, const Few<S>& moments_a, const S* moments, const LaidOut<S, C>& weights, S eps) {
    const int columns = static_cast<int>(weights.columns());
    for (int token = warp_of_block(); token < kHeight; token += 2 * kWarps) {
      const S* const own[2] = {few.of(token), few.of(token + kWarps)};
      S roots[2], sums[2] = {};
      norm_of_two(
          few, moments_a, token, moments, weights.centred, columns, static_cast<int>(weights.hidden), eps, roots, sums,
          [&](int h, int i) { return own[h][i] * weights.means[i]; });
      if (threadIdx.x % 32 == 0) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          mean[token + kWarps * h] = sums[h];
          rstd[token + kWarps * h] = roots[h];
        }
      }
    }
    __syncthreads();
  }
};

// What becomes of a token's unit: `pre`, a, and with an outer norm its few numbers, to which a one belongs.
template <bool kNorm, typename X, typename C, typename Held>
__device__ __forceinline__ void finish_unit(
    const Forward<X, C>& call, const LaidOut<Sum<X>, C>& weights, Sum<X>* pre, int count, int token, int unit,
    Sum<X> sum, const Held& a, const Few<Sum<X>>& few) {
  using S = Sum<X>;
  const int bottleneck = static_cast<int>(weights.bottleneck);
  sum += weights.down_bias[unit];
  if (token < count && unit < bottleneck) pre[token * bottleneck + unit] = sum;
  const C value = static_cast<C>(activate(call.activation, sum).value);
  a(token, unit) = value;
  if constexpr (kNorm) {
    if (unit < bottleneck) few.of(token)[unit] = static_cast<S>(value);
    if (unit == 0) few.of(token)[bottleneck] = 1;
  }
}

// A lane's eight results from `column` on of a token: residual + norm(v), v without up_bias yet.
template <bool kNorm, typename X, typename C, int kHeight>
__device__ __forceinline__ Numbers<X, 8> finish_columns(
    const LaidOut<Sum<X>, C>& weights, const OuterNorms<Sum<X>, kHeight>& norms, int token, int column,
    const Sum<X> (&v)[8], const Numbers<X, 8>& residual) {
  using S = Sum<X>;
  const auto up_bias = load<8>(weights.up_bias + column, 8, true);
  const auto through = widened(residual);
  Numbers<X, 8> result;
  if constexpr (kNorm) {
    const auto weight = load<8>(weights.norm_weight + column, 8, true),
               bias = load<8>(weights.norm_bias + column, 8, true);
    const S rstd = norms.rstd[token], mean = norms.mean[token];
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const S norm = (v[i] + up_bias.at[i] - mean) * rstd * weight.at[i] + bias.at[i];
      result.at[i] = static_cast<X>(through.at[i] + norm);
    }
  } else {
#pragma unroll
    for (int i = 0; i < 8; ++i) result.at[i] = static_cast<X>(through.at[i] + v[i] + up_bias.at[i]);
  }
  return result;
}

}  // namespace hyperloader::cuda
