// Sums over the tokens, for gradients of weights: 64 columns of a matrix of tokens and up to 32 units a block. Its
// warps take the 16-token tiles of their group in turn, each reads them once, 16 bytes at a time, and the block adds up
// their sums in one order. Units are few beside what they are multiplied with: R numbers for 64.
#include "group_tiles.cuh"
#include "launch.h"
#include "sums.cuh"

namespace hyperloader::cuda {
namespace {

constexpr int kColumns = 64, kUnits = 32;  // of a block

// A warp's share of the sums: its lane holds the columns 8g + 2m + h and, of those that the tensor cores make, the
// units 4 (2q + c) + j, so that a lane reads four neighbouring units of a token at once; else 8j + 2q + c.
template <typename S>
struct Sums {
  S parts[4][kUnits / 8][4] = {};  // m, j, 2h + c: as the tensor cores leave them

  template <typename C>
  static __device__ constexpr int unit(int j, int c) {
    const int pair = lane_column() / 4 + c;
    return kIsHalf<C> ? 4 * pair + j : 8 * j + pair;
  }
};

// What a lane reads of a tile for the tensor cores: of the tokens 2q, 2q + 1, 2q + 8, 2q + 9 the columns from 8g on and
// the units from 4g on.
template <typename C>
struct Operands {
  uint4 numbers[4];
  uint2 units[4];

  // With kWhole all rows of numbers are whole 16 bytes.
  template <bool kWhole>
  __device__ __forceinline__ void load(
      const C* units_of_tile, int stride, int units_left, const C* numbers_of_tile, int width, int left, int count) {
    const int g = lane_token(), pair = lane_column() / 4;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int token = pair + i % 2 + 8 * (i / 2);
      const bool exists = token < count;
      const C* const from = numbers_of_tile + token * width + 8 * g;
      if constexpr (kWhole) {
        numbers[i] = bytes_as<uint4>(load_whole<8>(from, exists && 8 * g < left));
      } else {
        numbers[i] = bytes_as<uint4>(cuda::load<8>(from, exists ? left - 8 * g : 0, false));
      }
      units[i] = bytes_as<uint2>(load_whole<4>(units_of_tile + token * stride + 4 * g, exists && 4 * g < units_left));
    }
  }
};

template <typename C>
__device__ __forceinline__ void add_tile(Sums<float>& sums, const Operands<C>& own) {
  uint32_t a[4][4];  // two columns a register become two tokens a register
  const auto turn = [&](int m, uint32_t even, uint32_t odd, uint32_t far_even, uint32_t far_odd) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      a[m][h] = take_halves(even, odd, h);
      a[m][2 + h] = take_halves(far_even, far_odd, h);
    }
  };
  const uint4(&x)[4] = own.numbers;
  turn(0, x[0].x, x[1].x, x[2].x, x[3].x);
  turn(1, x[0].y, x[1].y, x[2].y, x[3].y);
  turn(2, x[0].z, x[1].z, x[2].z, x[3].z);
  turn(3, x[0].w, x[1].w, x[2].w, x[3].w);
  const uint2(&u)[4] = own.units;
#pragma unroll
  for (int j = 0; j < kUnits / 8; ++j) {
    const auto word = [&](int i) { return j < 2 ? u[i].x : u[i].y; };
    const uint32_t w[2] = {take_halves(word(0), word(1), j % 2), take_halves(word(2), word(3), j % 2)};
#pragma unroll
    for (int m = 0; m < 4; ++m) tensor_core_product<C>(sums.parts[m][j], a[m], w);
  }
}

template <typename X, typename C>
__device__ __forceinline__ void add_tile(
    Sums<Sum<X>>& sums, const C* units, int stride, int unit_tiles, const X* numbers, int width, int left, bool aligned,
    int count) {
  const int g = lane_token(), pair = lane_column() / 4;
#pragma unroll 1
  for (int token = 0; token < count; ++token) {
    const auto x = load<8>(numbers + token * width + 8 * g, left - 8 * g, aligned);
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

template <typename X, typename C>
__global__ void __launch_bounds__(kThreads, 1) sum_units_kernel(const __grid_constant__ UnitSums<X, C> all) {
  using S = Sum<X>;
  constexpr int kTotals = 4 * sizeof(float) / sizeof(S);  // as many warps add up at the same time
  __shared__ S totals[kTotals][kUnits][kColumns + 1];
  // the lanes' columns, 8 apart, are neighbours there, so that they lie in different banks
  const auto place = [](int column) { return column % 8 * (kColumns / 8) + column / 8; };
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
  const int64_t tiles = tokens.tiles();
  const int stride = static_cast<int>(all.stride), width = static_cast<int>(own.width);
  const int left = static_cast<int>(own.width - column);
  GroupTiles tile(
      tokens, static_cast<int>(group), static_cast<int>(tiles * split / all.splits),
      static_cast<int>(tiles * (split + 1) / all.splits));
  if constexpr (kIsHalf<C>) {
    static_assert(std::is_same_v<X, C>);
    const auto add_all = [&](auto whole) {
      const auto load = [&](Operands<C>& operands) {  // zeros where there is no tile
        const int64_t first = tile.exists() ? tile.first() : 0;
        operands.template load<whole.value>(
            units + first * stride, stride, static_cast<int>(units_left), numbers + first * width, width, left,
            tile.exists() ? tile.count() : 0);
      };
      // Tiles on their way, each in registers of its own: to move them would be to wait for them.
      constexpr int kAhead = 3;
      Operands<C> ahead[kAhead];
      int waiting = 0;  // of them, to be added
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        waiting += tile.exists();
        load(ahead[i]);
        tile.advance();
      }
#pragma unroll 1
      while (waiting > 0) {
#pragma unroll
        for (int i = 0; i < kAhead; ++i) {
          add_tile<C>(sums, ahead[i]);
          waiting += tile.exists() - 1;
          load(ahead[i]);
          tile.advance();
        }
      }
    };
    all.aligned ? add_all(std::true_type()) : add_all(std::false_type());
  } else {
#pragma unroll 1
    for (; tile.exists(); tile.advance()) {
      const int64_t first = tile.first();
      add_tile<X, C>(
          sums, units + first * stride, stride, unit_tiles, numbers + first * width, width, left, all.aligned,
          tile.count());
    }
  }
  for (int round = kWarps / kTotals - 1; round >= 0; --round) {
    if (warp_of_block() / kTotals == round) {
      auto& total = totals[warp_of_block() % kTotals];
#pragma unroll
      for (int m = 0; m < 4; ++m) {
#pragma unroll
        for (int j = 0; j < kUnits / 8; ++j) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            S& to = total[sums.template unit<C>(j, i % 2)][place(8 * lane_token() + 2 * m + i / 2)];
            to = round == kWarps / kTotals - 1 ? sums.parts[m][j][i] : to + sums.parts[m][j][i];
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
    S sum = 0;
#pragma unroll
    for (int k = 0; k < kTotals; ++k) sum += totals[k][row][place(i % kColumns)];
    if (at < own.width) to[(unit + row) * own.width + at] = sum;
  }
}

constexpr int kReduced = 32, kShares = 8, kMostShares = 32;  // of a block of `reduce_kernel`

template <typename S>
__global__ void __launch_bounds__(kReduced* kMostShares) reduce_kernel(const __grid_constant__ Reductions reductions) {
  __shared__ S shares[kMostShares][kReduced];
  const Reduction& reduction = reductions.of[blockIdx.y];
  const int64_t size = reduction.rows * reduction.columns, group = blockIdx.z;
  const int64_t i = int64_t(blockIdx.x) * kReduced + threadIdx.x;
  if (int64_t(blockIdx.x) * kReduced >= size) return;
  const S* const from = static_cast<const S*>(reduction.from) + group * reduction.group_stride;
  S sum = 0;
  if (i < size) {
#pragma unroll 4
    for (int64_t part = threadIdx.y; part < reduction.parts; part += blockDim.y) {
      if (reduction.owners != nullptr && reduction.owners[part] != group) continue;
      sum += from[part * reduction.part_stride + i];
    }
  }
  shares[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || i >= size) return;
#pragma unroll 8
  for (int share = 1; share < blockDim.y; ++share) sum += shares[share][threadIdx.x];
  const int64_t to = reduction.transposed ? i % reduction.columns * reduction.rows + i / reduction.columns : i;
  reduction.to.store<S>(group * size + to, sum);
}

}  // namespace

int64_t sum_blocks(int64_t count, int64_t width) {
  return (width + kColumns - 1) / kColumns * ((count + kUnits - 1) / kUnits);
}

int64_t sum_splits(const Tokens& tokens, int64_t blocks) {
  constexpr int64_t kLeastTiles = 2 * kWarps;  // worth a block
  const int64_t of_all = std::max<int64_t>(blocks * tokens.groups, 1);
  return std::max<int64_t>(std::min(multiprocessors() / of_all, tokens.tiles() / kLeastTiles), 1);
}

template <typename X, typename C>
void sum_units(const UnitSums<X, C>& sums) {
  int64_t blocks = 0;
  for (int i = 0; i < sums.count; ++i) blocks += sum_blocks(sums.of[i].count, sums.of[i].width);
  launch(sum_units_kernel<X, C>, dim3(blocks, sums.splits, sums.tokens.groups), dim3(kThreads), 0, sums);
}

template <typename S>
void reduce(const Reductions& reductions) {
  int64_t most = 0, parts = 0;
  for (int i = 0; i < reductions.count; ++i) {
    most = std::max(most, reductions.of[i].rows * reductions.of[i].columns);
    parts = std::max(parts, reductions.of[i].parts);
  }
  const int shares = parts > 4 * kShares ? kMostShares : kShares;
  const dim3 grid((most + kReduced - 1) / kReduced, reductions.count, reductions.groups);
  launch(reduce_kernel<S>, grid, dim3(kReduced, shares), 0, reductions);
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
