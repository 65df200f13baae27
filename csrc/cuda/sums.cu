// Sums over the tokens, for gradients of weights: 64 columns of a matrix of tokens and up to 32 units a block. Its
// warps take the 16-token tiles of their group in turn, each reads them once, 16 bytes at a time, and the block adds up
// their sums in their order. Units are few beside what they are multiplied with: R numbers for 64.
#include "launch.h"
#include "sums.cuh"

namespace hyperloader::cuda {
namespace {

constexpr int kColumns = 64, kUnits = 32;  // of a block

// A warp's share of the sums: its lane holds the columns 8g + 2m + h and the units 8j + 2q + c.
template <typename S>
struct Sums {
  S parts[4][kUnits / 8][4] = {};  // m, j, 2h + c: as the tensor cores leave them
};

template <typename X, typename C>
__device__ __forceinline__ void add_tile(
    Sums<Sum<X>>& sums, const C* units, int stride, int unit_tiles, const X* numbers, int width, int left, bool aligned,
    int count) {
  const int g = lane_token(), pair = lane_column() / 4;
  const int own = left - 8 * g;
  if constexpr (kIsHalf<C>) {
    static_assert(std::is_same_v<X, C>);
    uint4 x[4];  // of the tokens 2q, 2q + 1, 2q + 8, 2q + 9
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int token = pair + i % 2 + 8 * (i / 2);
      x[i] = bytes_as<uint4>(load<8>(numbers + token * width + 8 * g, token < count ? own : 0, aligned));
    }
    uint32_t a[4][4];  // two columns a register become two tokens a register
    const auto turn = [&](int m, uint32_t even, uint32_t odd, uint32_t far_even, uint32_t far_odd) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        a[m][h] = take_halves(even, odd, h);
        a[m][2 + h] = take_halves(far_even, far_odd, h);
      }
    };
    turn(0, x[0].x, x[1].x, x[2].x, x[3].x);
    turn(1, x[0].y, x[1].y, x[2].y, x[3].y);
    turn(2, x[0].z, x[1].z, x[2].z, x[3].z);
    turn(3, x[0].w, x[1].w, x[2].w, x[3].w);
#pragma unroll
    for (int j = 0; j < kUnits / 8; ++j) {
      if (j >= unit_tiles) continue;
      uint32_t w[2];
#pragma unroll
      for (int far = 0; far < 2; ++far) {
        Numbers<C, 2> both;
#pragma unroll
        for (int odd = 0; odd < 2; ++odd) {
          const int token = pair + odd + 8 * far;
          both.at[odd] = token < count ? units[token * stride + 8 * j + g] : C(0);
        }
        w[far] = bytes_as<uint32_t>(both);
      }
#pragma unroll
      for (int m = 0; m < 4; ++m) tensor_core_product<C>(sums.parts[m][j], a[m], w);
    }
  } else {
#pragma unroll 1
    for (int token = 0; token < count; ++token) {
      const auto x = load<8>(numbers + token * width + 8 * g, own, aligned);
#pragma unroll
      for (int j = 0; j < kUnits / 8; ++j) {
        if (j >= unit_tiles) continue;
        const auto unit = load<2>(units + token * stride + 8 * j + pair, 2, true);
#pragma unroll
        for (int i = 0; i < 8; ++i) {
#pragma unroll
          for (int c = 0; c < 2; ++c) sums.parts[i / 2][j][i % 2 * 2 + c] += unit.at[c] * static_cast<C>(x.at[i]);
        }
      }
    }
  }
}

template <typename X, typename C>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce<C>)
    sum_units_kernel(const __grid_constant__ UnitSums<X, C> all) {
  using S = Sum<X>;
  __shared__ S total[kUnits][kColumns + 8];
  int64_t block = blockIdx.x;
  int index = 0;
  int64_t slices = 0;
  for (;; ++index) {  // what this block sums
    slices = (all.of[index].width + kColumns - 1) / kColumns;
    const int64_t blocks = slices * ((all.of[index].count + kUnits - 1) / kUnits);
    if (block < blocks) break;
    block -= blocks;
  }
  const auto& own = all.of[index];
  const int64_t unit = block / slices * kUnits, column = block % slices * kColumns;
  const int64_t split = blockIdx.y, group = blockIdx.z, units_left = own.count - unit;
  const int unit_tiles = static_cast<int>((units_left < kUnits ? units_left : kUnits) / 8);
  Sums<S> sums;
  const Tokens& tokens = all.tokens;
  const C* const units = own.units + unit;
  const X* const numbers = own.numbers + column;
  const int64_t tiles = tokens.tiles(), last = tiles * (split + 1) / all.splits;
#pragma unroll 1
  for (int64_t tile = tiles * split / all.splits + warp_of_block(); tile < last; tile += kWarps) {
    if (tokens.group_of_tile(tile) != group) continue;
    const int64_t first = tokens.first(tile);
    add_tile<X, C>(
        sums, units + first * all.stride, static_cast<int>(all.stride), unit_tiles, numbers + first * own.width,
        static_cast<int>(own.width), static_cast<int>(own.width - column), all.aligned, tokens.count(tile));
  }
  for (int warp = 0; warp < kWarps; ++warp) {
    if (warp == warp_of_block()) {
#pragma unroll
      for (int m = 0; m < 4; ++m) {
#pragma unroll
        for (int j = 0; j < kUnits / 8; ++j) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            S& to = total[8 * j + lane_column() / 4 + i % 2][8 * lane_token() + 2 * m + i / 2];
            to = warp == 0 ? sums.parts[m][j][i] : to + sums.parts[m][j][i];
          }
        }
      }
    }
    __syncthreads();
  }
  S* const to = own.parts + (group * all.splits + split) * own.count * own.width;
  for (int i = threadIdx.x; i < 8 * unit_tiles * kColumns; i += kThreads) {
    const int row = i / kColumns;
    const int64_t at = column + i % kColumns;
    if (at < own.width) to[(unit + row) * own.width + at] = total[row][i % kColumns];
  }
}

constexpr int kReduced = 32, kShares = 8;  // of a block of `reduce_kernel`

template <typename S>
__global__ void __launch_bounds__(kReduced* kShares) reduce_kernel(const __grid_constant__ Reductions reductions) {
  __shared__ S shares[kShares][kReduced];
  const Reduction& reduction = reductions.of[blockIdx.y];
  const int64_t size = reduction.rows * reduction.columns, group = blockIdx.z;
  const int64_t i = int64_t(blockIdx.x) * kReduced + threadIdx.x;
  if (int64_t(blockIdx.x) * kReduced >= size) return;
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

int64_t blocks_of(int64_t count, int64_t width) {
  return (width + kColumns - 1) / kColumns * ((count + kUnits - 1) / kUnits);
}

}  // namespace

int64_t splits_of_units(const Tokens& tokens, int64_t columns) {
  constexpr int64_t kBlocks = 512, kLeastTiles = 2 * kWarps;  // in flight on a GPU; worth a block
  const int64_t blocks = std::max<int64_t>(columns / kColumns, 1) * std::max<int64_t>(tokens.groups, 1);
  return std::max<int64_t>(std::min(kBlocks / blocks, tokens.tiles() / kLeastTiles), 1);
}

template <typename X, typename C>
void sum_units(const UnitSums<X, C>& sums) {
  int64_t blocks = 0;
  for (int i = 0; i < sums.count; ++i) blocks += blocks_of(sums.of[i].count, sums.of[i].width);
  launch(sum_units_kernel<X, C>, dim3(blocks, sums.splits, sums.tokens.groups), dim3(kThreads), 0, sums);
}

template <typename S>
void reduce(const Reductions& reductions) {
  int64_t most = 0;
  for (int i = 0; i < reductions.count; ++i) most = std::max(most, reductions.of[i].rows * reductions.of[i].columns);
  const dim3 grid((most + kReduced - 1) / kReduced, reductions.count, reductions.tokens.groups);
  launch(reduce_kernel<S>, grid, dim3(kReduced, kShares), 0, reductions);
}

template void sum_units(const UnitSums<BFloat16, BFloat16>&);
template void sum_units(const UnitSums<BFloat16, float>&);
template void sum_units(const UnitSums<Half, Half>&);
template void sum_units(const UnitSums<Half, float>&);
template void sum_units(const UnitSums<float, float>&);
template void sum_units(const UnitSums<double, double>&);
template void reduce<float>(const Reductions&);
template void reduce<double>(const Reductions&);

}  // namespace hyperloader::cuda
