// Sums over the tokens become the gradients of the adapter's weights, on CUDA devices, in one launch.
//
// With the parts of Σ ∂preᵀ z, H = Σ basisᵀ g and, over the few numbers, Σ ∂pre and M = Σ c2 · rstd² · [a, 1]ᵀ [a, 1],
// added up in their order:
//
//     ∂[up, up_bias] = γ ∘ H - its means over the hidden units - centred · M,   ∂γ = Σ centred ∘ H,  ∂β = H's last row
//
// with an outer norm, H itself without one; and through the weight and bias of an inner norm
//
//     ∂down = product ∘ weight + Σ ∂pre · biasᵀ,   ∂weight = Σ down ∘ product,   ∂bias = Σ down ∘ Σ ∂pre
#pragma once

#include "adapter_backward.cuh"

namespace hyperloader::cuda {

template <typename S>
struct Finish {
  GivenAdapter given;
  int64_t hidden, bottleneck, splits;
  bool outer, inner;
  FewNumbers places;
  const S *down_parts, *up_parts;  // of each group and split (units, hidden), units as FewNumbers pads them
  const S* few_parts;              // (places.basis, places.units)
  const S* centred;                // of each group (columns, padded(hidden))
  AnyResults down, down_bias, up, up_bias;
  AnyResults norms[4];  // weight and bias of the outer norm, and of the inner one

  __device__ int64_t columns() const { return bottleneck + 1; }

  // The sum of the parts of one number, of which a part has `size`.
  __device__ __forceinline__ S add(const S* parts, int64_t size, int64_t group, int64_t at) const {
    const S* from = parts + group * splits * size + at;
    S sum = 0;
#pragma unroll 8
    for (int64_t split = 0; split < splits; ++split) sum += from[split * size];
    return sum;
  }
  __device__ S product(int64_t group, int64_t unit, int64_t h) const {
    return add(down_parts, places.weighted * hidden, group, unit * hidden + h);
  }
  __device__ S of_basis(int64_t group, int64_t unit, int64_t h) const {
    return add(up_parts, places.units * hidden, group, unit * hidden + h);
  }
  __device__ S of_few(int64_t group, int64_t row, int64_t column) const {
    return add(few_parts, places.basis * places.units, group, row * places.units + column);
  }
};

// The blocks of a column or a row share the hidden units.
__device__ __forceinline__ int64_t own_unit() { return int64_t(blockIdx.z) * kThreads + threadIdx.x; }
__device__ __forceinline__ int64_t units_at_once() { return int64_t(gridDim.z) * kThreads; }

template <typename S>
__device__ __forceinline__ void finish_up(const Finish<S>& call, int64_t column, int64_t group) {
  __shared__ S kept[kWarps];
  S* const second = dynamic_shared<S>();  // M's row
  const int64_t hidden = call.hidden, columns = call.columns();
  S mean = 0;
  const auto through_weight = [&](int64_t h) {
    const S found = call.of_basis(group, column, h);
    return call.outer ? found * call.given.norm_weight.template load<S>(group, 0, h) : found;
  };
  if (call.outer) {
    for (int64_t i = threadIdx.x; i < columns; i += kThreads) {
      second[i] = call.of_few(group, call.places.weighted + column, i);
    }
    for (int64_t h = threadIdx.x; h < hidden; h += kThreads) mean += through_weight(h);
    mean = sum_threads(mean, kept) / hidden;
  }
  const S* const centred = call.centred + group * columns * padded(hidden);
  for (int64_t h = own_unit(); h < hidden; h += units_at_once()) {
    S found = through_weight(h);
    if (call.outer) {
      found -= mean;
#pragma unroll 8
      for (int64_t i = 0; i < columns; ++i) found -= centred[i * padded(hidden) + h] * second[i];
    }
    if (column < call.bottleneck) {
      call.up.store((group * hidden + h) * call.bottleneck + column, found);
    } else {
      call.up_bias.store(group * hidden + h, found);
    }
  }
}

template <typename S>
__device__ __forceinline__ void finish_down(const Finish<S>& call, int64_t unit, int64_t group) {
  const int64_t hidden = call.hidden, bottleneck = call.bottleneck;
  const S bias = call.of_few(group, unit, call.places.basis_count - 1);  // Σ ∂pre · 1
  if (own_unit() == 0) call.down_bias.store(group * bottleneck + unit, bias);
  for (int64_t h = own_unit(); h < hidden; h += units_at_once()) {
    S found = call.product(group, unit, h);
    if (call.inner) {
      found = found * call.given.inner_weight.template load<S>(group, 0, h) +
              bias * call.given.inner_bias.template load<S>(group, 0, h);
    }
    call.down.store((group * bottleneck + unit) * hidden + h, found);
  }
}

// For 32 hidden units; the warps share what is summed.
template <typename S>
__device__ __forceinline__ void finish_norms(const Finish<S>& call, int64_t first, int64_t group) {
  __shared__ S shares[4][kWarps][32];
  const int lane = lane_of_warp(), warp = warp_of_block();
  const int64_t hidden = call.hidden, columns = call.columns(), h = first + lane;
  S sums[4] = {};  // as `norms`
  if (h < hidden) {
    for (int64_t i = warp; i < columns; i += kWarps) {
      if (call.outer) sums[0] += call.centred[(group * columns + i) * padded(hidden) + h] * call.of_basis(group, i, h);
      if (call.inner && i < call.bottleneck) {
        const S down = call.given.down.template load<S>(group, i, h);
        sums[2] += down * call.product(group, i, h);
        sums[3] += down * call.of_few(group, i, call.places.basis_count - 1);
      }
    }
    if (call.outer && warp == 0) sums[1] = call.of_basis(group, columns, h);
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) shares[i][warp][lane] = sums[i];
  __syncthreads();
  if (warp >= 4 || h >= hidden) return;
  S sum = 0;
#pragma unroll
  for (int share = 0; share < kWarps; ++share) sum += shares[warp][share][lane];
  if (warp < 2 ? call.outer : call.inner) call.norms[warp].store(group * hidden + h, sum);
}

// Blocks for every column of [up, up_bias] and every row of `down`, and with a norm one for every 32 hidden units.
template <typename S>
__global__ void __launch_bounds__(kThreads, 2) finish_adapter_kernel(const __grid_constant__ Finish<S> call) {
  const int64_t block = blockIdx.x, group = blockIdx.y, columns = call.columns();
  if (block < columns) {
    finish_up(call, block, group);
  } else if (block < columns + call.bottleneck) {
    finish_down(call, block - columns, group);
  } else if (blockIdx.z == 0) {
    finish_norms(call, (block - columns - call.bottleneck) * 32, group);
  }
}

template <typename S>
void finish(const Finish<S>& call, int64_t groups) {
  const int64_t norms = call.outer || call.inner ? (call.hidden + 31) / 32 : 0;
  const int64_t blocks = 2 * call.bottleneck + 1 + norms;
  const int64_t shared = (call.bottleneck + 1) * static_cast<int64_t>(sizeof(S));
  const int64_t shares = (call.hidden + kThreads - 1) / kThreads;
  launch(finish_adapter_kernel<S>, dim3(blocks, groups, shares), dim3(kThreads), shared, call);
}

}  // namespace hyperloader::cuda
