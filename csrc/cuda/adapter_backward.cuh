// The adapter's backward for the tokens of a tile, on CUDA devices: from the output's gradient g to that of x, and to
// the few numbers of each token that the weights' gradients are sums of.
//
//     [p, t] = g · shrinkᵀ,  c2 = rstd / hidden · (a · p + t)
//     ∂a = rstd · (p - c2 · rstd · hidden · (moments · a)),  ∂pre = ∂a ∘ act'(pre),  ∂x = g + ∂pre · down
//
// with an outer norm; without one p is ∂a. g is read and ∂x written once.
#pragma once

#include "adapter.cuh"
#include "resident.cuh"

namespace hyperloader::cuda {

// A token's row of few numbers: ∂pre, with an outer norm rstd² · c2 · [a, 1], and the basis of the output, which is
// [rstd · a, rstd, 1] with an outer norm and [a, 1] without.
struct FewNumbers {
  int64_t weighted, basis, basis_count, width;  // ∂pre comes first

  FewNumbers(int64_t bottleneck, bool outer)
      : weighted(bottleneck),
        basis(outer ? 2 * bottleneck + 1 : bottleneck),
        basis_count(bottleneck + (outer ? 2 : 1)),
        width(basis + basis_count) {}
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
  Sum<X>* few;  // (tokens, places.width)
  X* a;         // (tokens, padded(columns)): [a, 1, 0 ...]
  FewNumbers places;
};

// The few numbers of a tile in shared memory.
template <typename S>
struct TileNumbers {
  Few<S> a, p, moments_a;

  __device__ TileNumbers(S* memory, int64_t columns)
      : a(memory, columns), p(a.of(kTokens), columns), moments_a(p.of(kTokens), columns) {}
  static int64_t bytes(int64_t columns) { return 3 * Few<S>::bytes(columns); }
};

// `pre` begins with the tile's first token. `units` gets ∂pre; `weights` are the group's, `moments` its moments.
template <bool kNorm, typename X, typename C, typename Rows, typename Matrix, typename Held>
__device__ __forceinline__ void backward_tile(
    const Backward<X, C>& call, const LaidOut<Sum<X>, C>& weights, const Sum<X>* moments, int64_t first, int count,
    const Rows& grad, const Sum<X>* pre, const Matrix& shrink_matrix, const Matrix& expand_matrix, const Held& units,
    const TileNumbers<Sum<X>>& numbers, Partial<Sum<X>>& partial) {
  using S = Sum<X>;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int64_t hidden = weights.hidden, bottleneck = weights.bottleneck, columns = weights.columns();
  for (int token = warp_of_block(); token < kTokens; token += kWarps) {
    for (int64_t i = lane; i < columns; i += 32) {
      S value = 0;
      if (token < count) value = i < bottleneck ? activate(call.activation, pre[token * bottleneck + i]).value : S(1);
      numbers.a.of(token)[i] = value;
    }
  }
  shrink<S>(
      weights.units, partial, [&](Tile<S>& sum, int64_t unit) { add_products(sum, grad, shrink_matrix, unit); },
      [&](int token, int64_t unit, S sum) {
        if (unit < columns) numbers.p.of(token)[unit] = sum;
      });
  if constexpr (kNorm) {
    multiply_moments(numbers.a, numbers.moments_a, moments, columns);
    __syncthreads();
  }
  for (int token = warp_of_block(); token < kTokens; token += kWarps) {
    const S *const a = numbers.a.of(token), *const p = numbers.p.of(token);
    S* const moments_a = numbers.moments_a.of(token);
    S rstd = 1, back = 0, weight = 0;  // back: c2 · rstd · hidden
    if constexpr (kNorm) {
      rstd = 1 / ::sqrt(variance_of(a, moments_a, moments, weights.centred, columns, hidden) + call.eps);
      S along = 0;
      for (int64_t i = lane; i < columns; i += 32) along += a[i] * p[i];
      const S mean = rstd * sum_lanes(along) / hidden;  // c2
      back = mean * rstd * hidden;
      weight = rstd * rstd * mean;
    }
    S* const few = call.few + (first + token) * call.places.width;
    X* const a_of_token = call.a + (first + token) * weights.units;
    for (int64_t i = lane; i < weights.units; i += 32) {
      S grad_pre = 0;
      if (token < count) {
        if (i < bottleneck) {
          S grad_a = p[i];
          if constexpr (kNorm) grad_a = rstd * (grad_a - back * moments_a[i]);
          grad_pre = grad_a * activate(call.activation, pre[token * bottleneck + i]).slope;
          few[i] = grad_pre;
        }
        if (i < columns) {
          if constexpr (kNorm) few[call.places.weighted + i] = weight * a[i];
          few[call.places.basis + i] = rstd * a[i];
        }
        a_of_token[i] = static_cast<X>(i < columns ? a[i] : S(0));
        if (kNorm && i == 0) few[call.places.basis + columns] = 1;
      }
      if (i < weights.thin()) units.at(token, i) = static_cast<C>(grad_pre);
    }
  }
  __syncthreads();
  const cuda::Rows<X> grad_x(call.grad_x + first * hidden, hidden, call.aligned, count);
  expand(units.rows(), weights.thin(), expand_matrix, hidden, [&](int64_t column, Tile<S>& tile) {
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

// A block takes 16 tokens and reads each weight once, from the second cache.
template <typename X, typename C, bool kNorm>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce<C>)
    adapter_backward_kernel(const __grid_constant__ Backward<X, C> call) {
  using S = Sum<X>;
  __shared__ Partial<S> partial;
  const int64_t first = call.tokens.first(blockIdx.x);
  const int count = call.tokens.count(blockIdx.x);
  const LaidOut<S, C> weights = call.weights.of_group(call.tokens.group_of_tile(blockIdx.x));
  const TileNumbers<S> numbers(dynamic_shared<S>(), weights.columns());
  const Units<C> units{reinterpret_cast<C*>(numbers.moments_a.of(kTokens)), weights.thin()};
  const Rows<const X> grad(call.grad + first * weights.hidden, weights.hidden, call.aligned, count);
  backward_tile<kNorm>(
      call, weights, weights.moments, first, count, grad, call.pre + first * weights.bottleneck, weights.shrink,
      weights.expand, units, numbers, partial);
}

// Where what a block with its group's weights begins in its shared memory, in bytes.
struct BackwardRoom {
  int64_t shrink, expand, moments, numbers, units, stages_begin, pre, stage;
  int stages;  // none where it does not fit

  template <typename C>
  static BackwardRoom of(int64_t hidden, int64_t bottleneck) {
    constexpr int64_t kStatic = 18 << 10, kNumber = sizeof(float);
    const int64_t wide = padded(hidden), thin = padded(bottleneck), columns = bottleneck + 1;
    SharedPlaces places;
    BackwardRoom room{};
    room.shrink = places.take(padded(columns) * wide * static_cast<int64_t>(sizeof(C)));
    room.expand = places.take(wide * thin * static_cast<int64_t>(sizeof(C)));
    room.moments = places.take(columns * columns * kNumber);
    room.numbers = places.take(TileNumbers<float>::bytes(columns));
    room.units = places.take(HeldRows<C>::bytes(thin));
    room.stages_begin = places.bytes;
    room.pre = HeldRows<C>::bytes(wide);
    room.stage = room.pre + kTokens * bottleneck * kNumber;
    room.stages = stages_for(room.stages_begin, room.stage, kStatic);
    return room;
  }
  int64_t bytes() const { return stages_begin + stages * stage; }
};

// A block walks over neighbouring tiles with its group's weights in shared memory.
template <typename X, bool kNorm>
__global__ void __launch_bounds__(kThreads, 2)
    resident_backward_kernel(const __grid_constant__ Backward<X, X> call, const __grid_constant__ BackwardRoom room) {
  __shared__ Partial<float> partial;
  unsigned char* const shared = dynamic_shared<unsigned char>();
  X *const shrink = reinterpret_cast<X*>(shared + room.shrink), *const expand =
                                                                    reinterpret_cast<X*>(shared + room.expand);
  float* const moments = reinterpret_cast<float*>(shared + room.moments);
  const int64_t hidden = call.weights.hidden, bottleneck = call.weights.bottleneck;
  const int wide = static_cast<int>(call.weights.wide()), thin = static_cast<int>(call.weights.thin());
  const TileNumbers<float> numbers(reinterpret_cast<float*>(shared + room.numbers), call.weights.columns());
  const HeldRows<X> units(reinterpret_cast<X*>(shared + room.units), thin);
  const auto stage = [&](int slot) { return shared + room.stages_begin + slot * room.stage; };

  const auto begin = [&](int64_t tile, int slot) {
    const int64_t first = call.tokens.first(tile);
    const int count = call.tokens.count(tile);
    HeldRows<X>(reinterpret_cast<X*>(stage(slot)), wide).fetch(call.grad + first * hidden, hidden, count);
    const float* const pre = call.pre + first * bottleneck;
    float* const to = reinterpret_cast<float*>(stage(slot) + room.pre);
    for (int i = threadIdx.x * 4; i < count * bottleneck; i += kThreads * 4) copy_async_16(to + i, pre + i, true);
  };
  int64_t group = -1;
  LaidOut<float, X> weights;
  const auto copy = [&](X* to, const X* from, int64_t count) {
    for (int64_t i = threadIdx.x * 8; i < count; i += kThreads * 8) copy_async_16(to + i, from + i, true);
  };
  const auto change = [&](int64_t tile) {
    const int64_t own = call.tokens.group_of_tile(tile);
    if (own == group) return false;
    group = own;
    weights = call.weights.of_group(group);
    copy(shrink, weights.shrink, weights.units * wide);
    copy(expand, weights.expand, int64_t{thin} * wide);
    if constexpr (kNorm) {
      const int64_t columns = weights.columns();
      for (int64_t i = threadIdx.x; i < columns * columns; i += kThreads) moments[i] = weights.moments[i];
    }
    return true;
  };
  each_tile(call.tokens.tiles(), room.stages, begin, change, [&](int64_t tile, int slot) {
    backward_tile<kNorm>(
        call, weights, moments, call.tokens.first(tile), call.tokens.count(tile),
        HeldRows<X>(reinterpret_cast<X*>(stage(slot)), wide), reinterpret_cast<const float*>(stage(slot) + room.pre),
        Blocked<X>{shrink, wide}, Blocked<X>{expand, thin}, units, numbers, partial);
  });
}

}  // namespace hyperloader::cuda
