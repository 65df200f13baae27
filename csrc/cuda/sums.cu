#include "launch.h"
#include "sums.cuh"

namespace hyperloader::cuda {
namespace {

constexpr int kUnits = 32;  // units and columns of a block's sums

// A warp's share of the sums (32 units, 32 columns): lane l holds the units g + 8 h + 16 m and the columns 8q .. 8q
// + 7.
template <typename S>
struct Sums {
  S parts[2][4][4] = {};

  __device__ __forceinline__ S& at(int m, int h, int column) { return parts[m][column % 4][2 * h + column / 4]; }
};

// What a lane reads of one product: rows that exist, units and columns that exist, and zeros beside them.
template <typename X>
struct Operands {
  const Sum<X>* units;  // from the block's first unit on
  int64_t stride, units_left;
  const X* x;  // from the block's first column on
  int64_t width, columns_left;
  bool aligned;

  __device__ __forceinline__ Sum<X> unit(int64_t token, bool exists, int index) const {
    return exists && index < units_left ? units[token * stride + index] : Sum<X>(0);
  }
  template <int kCount>
  __device__ __forceinline__ Numbers<X, kCount> columns(int64_t token, bool exists, int first) const {
    return load<kCount>(x + token * width + first, exists ? columns_left - first : 0, aligned);
  }
};

template <typename C, typename X>
__device__ __forceinline__ void add_tile(Sums<Sum<X>>& sums, const Operands<X>& from, int64_t first, int count) {
  const int g = lane_token();
  if constexpr (kIsHalf<C>) {
    uint2 x[2][2];
    uint32_t units[2][4];
    const int pair = lane_column() / 4;
#pragma unroll
    for (int far = 0; far < 2; ++far) {
#pragma unroll
      for (int odd = 0; odd < 2; ++odd) {
        const int token = pair + 8 * far + odd;
        x[far][odd] = bytes_as<uint2>(from.template columns<4>(first + token, token < count, 4 * g));
      }
#pragma unroll
      for (int m = 0; m < 2; ++m) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const int token = pair + 8 * far, unit = g + 8 * h + 16 * m;
          units[m][h + 2 * far] = pack<C>(
              from.unit(first + token, token < count, unit), from.unit(first + token + 1, token + 1 < count, unit));
        }
      }
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      uint32_t columns[2];
#pragma unroll
      for (int far = 0; far < 2; ++far) {
        columns[far] = i < 2 ? take_halves(x[far][0].x, x[far][1].x, i) : take_halves(x[far][0].y, x[far][1].y, i - 2);
      }
#pragma unroll
      for (int m = 0; m < 2; ++m) tensor_core_product<C>(sums.parts[m][i], units[m], columns);
    }
  } else {
    for (int token = 0; token < count; ++token) {
      const auto x = from.template columns<8>(first + token, true, lane_column());
#pragma unroll
      for (int m = 0; m < 2; ++m) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const C unit = from.unit(first + token, true, g + 8 * h + 16 * m);
#pragma unroll
          for (int i = 0; i < 8; ++i) sums.at(m, h, i) += unit * static_cast<C>(x.at[i]);
        }
      }
    }
  }
}

template <typename X, typename C>
__global__ void __launch_bounds__(kThreads) sum_products_kernel(const __grid_constant__ TokenProducts<X> products) {
  using S = Sum<X>;
  __shared__ S total[kUnits][kStep + 1];
  int64_t block = blockIdx.x;
  int index = 0;
  int64_t slices = 0;
  for (;; ++index) {  // the product of this block
    slices = padded(products.of[index].width) / kStep;
    const int64_t blocks = slices * (padded(products.of[index].count) / kUnits);
    if (block < blocks) break;
    block -= blocks;
  }
  const TokenProduct<X>& product = products.of[index];
  const int64_t unit = block / slices * kUnits, column = block % slices * kStep;
  const int64_t split = blockIdx.y, group = blockIdx.z;
  const Operands<X> from{product.units + unit, product.stride,         product.count - unit, product.x + column,
                         product.width,        product.width - column, product.aligned};
  Sums<S> sums;
  const Tokens& tokens = products.tokens;
  const int64_t tiles = tokens.tiles(), last = tiles * (split + 1) / products.splits;
  for (int64_t tile = tiles * split / products.splits + warp_of_block(); tile < last; tile += kWarps) {
    if (tokens.group_of_tile(tile) != group) continue;
    add_tile<C>(sums, from, tokens.first(tile), tokens.count(tile));
  }
  for (int warp = 0; warp < kWarps; ++warp) {
    if (warp == warp_of_block()) {
#pragma unroll
      for (int m = 0; m < 2; ++m) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
#pragma unroll
          for (int i = 0; i < 8; ++i) {
            S& to = total[lane_token() + 8 * h + 16 * m][lane_column() + i];
            to = warp == 0 ? sums.at(m, h, i) : to + sums.at(m, h, i);
          }
        }
      }
    }
    __syncthreads();
  }
  S* const to = product.parts + (group * products.splits + split) * product.count * product.width;
  for (int i = threadIdx.x; i < kUnits * kStep; i += kThreads) {
    const int64_t row = unit + i / kStep, at = column + i % kStep;
    if (row < product.count && at < product.width) to[row * product.width + at] = total[i / kStep][i % kStep];
  }
}

constexpr int kColumns = 32, kShares = 8;  // of a block of `reduce_kernel`

template <typename S>
__global__ void __launch_bounds__(kColumns* kShares) reduce_kernel(const __grid_constant__ Reductions reductions) {
  __shared__ S shares[kShares][kColumns];
  const Reduction& reduction = reductions.of[blockIdx.y];
  const int64_t size = reduction.rows * reduction.columns, group = blockIdx.z;
  const int64_t i = int64_t(blockIdx.x) * kColumns + threadIdx.x;
  if (int64_t(blockIdx.x) * kColumns >= size) return;
  const S* const from = static_cast<const S*>(reduction.from) + group * reduction.group_stride;
  S sum = 0;
  if (i < size) {
#pragma unroll 4
    for (int64_t part = threadIdx.y; part < reduction.parts; part += kShares) {
      if (reduction.by_tile && reductions.tokens.group_of_tile(part) != group) continue;
      sum += from[part * reduction.part_stride + i];
    }
  }
  shares[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || i >= size) return;
#pragma unroll
  for (int share = 1; share < kShares; ++share) sum += shares[share][threadIdx.x];
  const int64_t to = reduction.transposed ? i % reduction.columns * reduction.rows + i / reduction.columns : i;
  reduction.to.store<S>(group * size + to, sum);
}

}  // namespace

int64_t splits_for(const Tokens& tokens, int64_t results) {
  constexpr int64_t kBlocks = 512, kLeastTiles = 2 * kWarps;  // in flight on a GPU; worth a block
  const int64_t blocks = std::max<int64_t>(results / (kUnits * kStep), 1) * std::max<int64_t>(tokens.groups, 1);
  return std::max<int64_t>(std::min(kBlocks / blocks, tokens.tiles() / kLeastTiles), 1);
}

template <typename X, typename C>
void sum_products(const TokenProducts<X>& products) {
  int64_t blocks = 0;
  for (int i = 0; i < products.count; ++i) {
    blocks += padded(products.of[i].width) / kStep * (padded(products.of[i].count) / kUnits);
  }
  launch(sum_products_kernel<X, C>, dim3(blocks, products.splits, products.tokens.groups), dim3(kThreads), 0, products);
}

template <typename S>
void reduce(const Reductions& reductions) {
  int64_t most = 0;
  for (int i = 0; i < reductions.count; ++i) most = std::max(most, reductions.of[i].rows * reductions.of[i].columns);
  const dim3 grid((most + kColumns - 1) / kColumns, reductions.count, reductions.tokens.groups);
  launch(reduce_kernel<S>, grid, dim3(kColumns, kShares), 0, reductions);
}

template void sum_products<BFloat16, BFloat16>(const TokenProducts<BFloat16>&);
template void sum_products<BFloat16, float>(const TokenProducts<BFloat16>&);
template void sum_products<Half, Half>(const TokenProducts<Half>&);
template void sum_products<Half, float>(const TokenProducts<Half>&);
template void sum_products<float, float>(const TokenProducts<float>&);
template void sum_products<double, double>(const TokenProducts<double>&);
template void reduce<float>(const Reductions&);
template void reduce<double>(const Reductions&);

}  // namespace hyperloader::cuda
