// The adapter's backward for the tokens of a tile, on CUDA devices: from the output's gradient g to that of x, and to
// the few numbers of each token that the weights' gradients are sums of.
//
//     [p, t] = (γ ∘ g) · [up, up_bias] - Σ (γ ∘ g) · means,  c2 = rstd / hidden · (a · p + t)
//     ∂a = rstd · (p - c2 · rstd · hidden · (moments · a)),  ∂pre = ∂a ∘ act'(pre),  ∂x = g + ∂pre · down
//
// with an outer norm; without one ∂a = g · up. The means are taken off afterwards, so that up is multiplied as it is.
// g is read and ∂x written once.
#pragma once

#include "adapter.cuh"
#include "sums.cuh"

namespace hyperloader::cuda {

// A token's row of few numbers: ∂pre, with an outer norm c2 · [rstd · a, rstd], and the basis of the output, which is
// [rstd · a, rstd, 1] with an outer norm and [a, 1] without. Each is padded with zeros.
struct FewNumbers {
  int weighted, basis, basis_count, units, width;  // ∂pre comes first; `units` of the basis, padded

  FewNumbers(int64_t bottleneck, bool outer)
      : weighted(static_cast<int>(padded_units(bottleneck))),
        basis(weighted + (outer ? static_cast<int>(padded_units(bottleneck + 1)) : 0)),
        basis_count(static_cast<int>(bottleneck) + (outer ? 2 : 1)),
        units(static_cast<int>(padded_units(basis_count))),
        width(basis + units) {}
};

template <typename X, typename C>
struct Backward {
  Tokens tokens;
  bool aligned;   // all rows of tokens are, for accesses of 16 bytes
  bool residual;  // without it grad_x is the gradient of the inner norm's standardised result
  LaidOut<Sum<X>, C> weights;
  Activation activation;
  Sum<X> eps;
  const X* grad;
  const Sum<X>* pre;
  X* grad_x;
  C* few;    // (tokens, places.width)
  X* basis;  // (tokens, places.units): the basis once more, as what units are multiplied with
  FewNumbers places;
};

// The few numbers of a tile in shared memory: `p` while the first product is made, the others after it.
template <typename S>
struct TileNumbers {
  Few<S> p, a, slope, moments_a;

  __device__ TileNumbers(S* p, S* others, int64_t columns, int height)
      : p(p, columns + 1),
        a(others, columns + 1),
        slope(a.of(height), columns + 1),
        moments_a(slope.of(height), columns + 1) {}
  __host__ __device__ static int64_t bytes_of_p(int64_t columns, int height) {
    return Few<S>::bytes(columns + 1, height);
  }
  static int64_t bytes_of_others(int64_t columns, int height) { return 3 * bytes_of_p(columns, height); }
  static int64_t bytes(int64_t columns, int height) { return 4 * bytes_of_p(columns, height); }
};

// What the norm reads of its group's weights, wherever that lies.
template <typename S>
struct NormWeights {
  const S *moments, *means;
};

// What a tile's tokens become from the products p = [p, t, Σ γ ∘ g]: ∂pre, in units(token, unit), and the few numbers
// of each. `pre` begins with the tile's first token. The threads meet before and after.
template <bool kNorm, int kTall, typename X, typename C, typename Units>
__device__ __forceinline__ void backward_units(
    const Backward<X, C>& call, const LaidOut<Sum<X>, C>& laid_out, const NormWeights<Sum<X>>& norm, int64_t first,
    int count, const Sum<X>* pre, const TileNumbers<Sum<X>>& numbers, const Units& units) {
  using S = Sum<X>;
  const int lane = lane_of_warp();
  const int hidden = static_cast<int>(laid_out.hidden), bottleneck = static_cast<int>(laid_out.bottleneck);
  const int columns = bottleneck + 1, thin = static_cast<int>(laid_out.thin());
  const FewNumbers& places = call.places;
  const S inverse_hidden = S(1) / hidden;
  for (int token = warp_of_block(); token < kTokens * kTall; token += 2 * kWarps) {
#pragma unroll 1
    for (int h = 0; h < 2; ++h) {
      const int own = token + kWarps * h;
#pragma unroll 1
      for (int i = lane; i < columns; i += 32) {
        Activated<S> found{i < bottleneck ? S(0) : S(1), S(0)};
        if (own >= count) {
          found.value = 0;
        } else if (i < bottleneck) {
          found = activate(call.activation, pre[own * bottleneck + i]);
        }
        numbers.a.of(own)[i] = found.value;
        numbers.slope.of(own)[i] = found.slope;
      }
    }
    __syncwarp();
    const S* const a[2] = {numbers.a.of(token), numbers.a.of(token + kWarps)};
    S* const p[2] = {numbers.p.of(token), numbers.p.of(token + kWarps)};
    S rstd[2] = {1, 1}, mean[2] = {};  // mean: c2
    if constexpr (kNorm) {
      const S sums[2] = {p[0][columns], p[1][columns]};  // Σ γ ∘ g
      norm_of_two(
          numbers.a, numbers.moments_a, token, norm.moments, laid_out.centred, columns, hidden, call.eps, rstd, mean,
          [&](int h, int i) {
            p[h][i] -= sums[h] * norm.means[i];
            return a[h][i] * p[h][i];
          });
#pragma unroll
      for (int h = 0; h < 2; ++h) mean[h] *= rstd[h] * inverse_hidden;
    }
#pragma unroll 1
    for (int i = lane; i < thin || i < places.units; i += 32) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int own = token + kWarps * h;
        S grad_pre = 0;
        if (own < count) {
          if (i < bottleneck) {
            grad_pre = p[h][i];
            if constexpr (kNorm) {
              grad_pre = rstd[h] * (grad_pre - mean[h] * rstd[h] * hidden * numbers.moments_a.of(own)[i]);
            }
            grad_pre *= numbers.slope.of(own)[i];
          }
          const S value = i < columns ? rstd[h] * a[h][i] : i < places.basis_count ? S(1) : S(0);
          C* const few = call.few + (first + own) * places.width + i;
          if (i < places.weighted) few[0] = static_cast<C>(grad_pre);
          if (i < places.basis - places.weighted) {
            few[places.weighted] = static_cast<C>(i < columns ? mean[h] * value : S(0));
          }
          if (i < places.units) {
            few[places.basis] = static_cast<C>(value);
            call.basis[(first + own) * places.units + i] = static_cast<X>(value);
          }
        }
        if (i < thin) units(own, i) = static_cast<C>(grad_pre);
      }
    }
  }
  __syncthreads();
}

// ∂x of a token's eight columns: what comes through the adapter, and g beside it.
template <typename X, typename S>
__device__ __forceinline__ Numbers<X, 8> backward_columns(
    bool residual, const Numbers<X, 8>& grad, const S (&through)[8]) {
  const auto beside = widened(grad);
  Numbers<X, 8> result;
#pragma unroll
  for (int i = 0; i < 8; ++i) result.at[i] = static_cast<X>((residual ? beside.at[i] : S(0)) + through[i]);
  return result;
}

// A tile, from the rows of g in any place. write(h, column, numbers) what a lane has of ∂x.
template <bool kNorm, typename X, typename C, typename Rows, typename Matrix, typename Held, typename Write>
__device__ __forceinline__ void backward_tile(
    const Backward<X, C>& call, const LaidOut<Sum<X>, C>& laid_out, const Matrix& shrinking, const Matrix& expanding,
    const Sum<X>* norm_weight, const NormWeights<Sum<X>>& norm, int64_t first, int count, const Rows& grad,
    const Sum<X>* pre, const Held& units, const TileNumbers<Sum<X>>& numbers, Partial<Sum<X>>& partial,
    const Write& write) {
  using S = Sum<X>;
  const int columns = static_cast<int>(laid_out.columns()), thin = static_cast<int>(laid_out.thin());
  shrink(
      static_cast<int>(laid_out.units), partial,
      [&](Tile<S>& sum, int unit) {
        if constexpr (kNorm) {
          add_products(sum, grad.template scaled<C>(norm_weight), shrinking, unit);
        } else {
          add_products(sum, grad, shrinking, unit);
        }
      },
      [&](int token, int unit, S sum) {
        if (unit <= columns) numbers.p.of(token)[unit] = sum;
      });
  backward_units<kNorm, 1>(call, laid_out, norm, first, count, pre, numbers, [&](int token, int unit) -> C& {
    return units.at(token, unit);
  });
  expand(units.rows(), thin, expanding, laid_out.hidden, [&](int64_t column, Tile<S>& tile) {
    const int own = static_cast<int>(column) + lane_column();
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      S through[8];
#pragma unroll
      for (int i = 0; i < 8; ++i) through[i] = tile.at(h, i);
      write(h, own, backward_columns(call.residual, grad.template load<8>(h, own), through));
    }
  });
}

template <typename S, typename C>
int64_t shared_bytes(int64_t bottleneck) {
  return static_cast<int64_t>(sizeof(Partial<S>)) + TileNumbers<S>::bytes(bottleneck + 1, kTokens) +
         Units<C>::bytes(padded(bottleneck));
}

// A block takes a tile and reads each weight once, from the second cache.
template <typename X, typename C, bool kNorm>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce<C>)
    adapter_backward_kernel(const __grid_constant__ Backward<X, C> call) {
  using S = Sum<X>;
  auto& partial = *dynamic_shared<Partial<S>>();
  const int64_t first = call.tokens.first(blockIdx.x);
  const int count = call.tokens.count(blockIdx.x);
  const LaidOut<S, C> weights = call.weights.of_group(call.tokens.group_of_tile(blockIdx.x));
  S* const memory = reinterpret_cast<S*>(&partial + 1);
  const int64_t columns = weights.columns();
  const TileNumbers<S> numbers(
      memory, memory + TileNumbers<S>::bytes_of_p(columns, kTokens) / sizeof(S), columns, kTokens);
  const Units<C> units{reinterpret_cast<C*>(numbers.moments_a.of(kTokens)), weights.thin()};
  const Rows<const X> grad(call.grad + first * weights.hidden, weights.hidden, call.aligned, count);
  const Rows<X> grad_x(call.grad_x + first * weights.hidden, weights.hidden, call.aligned, count);
  backward_tile<kNorm>(
      call, weights, weights.shrink, weights.expand, weights.norm_weight,
      NormWeights<S>{weights.moments, weights.means}, first, count, grad, call.pre + first * weights.bottleneck, units,
      numbers, partial, [&](int h, int column, const Numbers<X, 8>& result) { grad_x.store(h, column, result); });
}

}  // namespace hyperloader::cuda
