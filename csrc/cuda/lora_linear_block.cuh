// The two products of a tile of tokens with low-rank factors: numbers to units in shared memory, and units to numbers.
#pragma once

#include "launch.h"
#include "lora_linear.cuh"

namespace hyperloader::cuda {

constexpr int kUnitTiles = 2;  // of 8 units, in registers at once

// What the blocks of one tile see.
template <typename X, typename C, int kRows>
struct Block {
  using S = Sum<X>;
  static constexpr int kHeight = kTokens * kRows;

  int64_t first, group;
  int count;
  S* partial;  // (warps, kHeight, partial_stride)
  C* units;    // (kHeight, units_stride)
  int partial_stride, units_stride;

  static int64_t tiles_of(const Tokens& tokens) { return (tokens.tokens + kHeight - 1) / kHeight; }
  __host__ __device__ static int partial_width(int units) {
    constexpr int kMost = 8 * kUnitTiles;
    return (units < kMost ? units : kMost) + 8;  // 8 apart, as the units: rows begin in different banks
  }
  static int64_t bytes(int units) {
    return kHeight * (kWarps * partial_width(units) * sizeof(S) + (units + 8) * sizeof(C));
  }

  // tokens.tiles_of_sentence is that of this height.
  __device__ explicit Block(const LowRank<X, C>& call)
      : Block(call, Walk(call.tokens, static_cast<int>(gridDim.x - 1 - blockIdx.x))) {}

 private:
  __device__ Block(const LowRank<X, C>& call, const Walk& tile)
      : first(tile.first(call.tokens)),
        group(tile.group(call.tokens)),
        count(tile.count(call.tokens)),
        partial(dynamic_shared<S>()),
        units(reinterpret_cast<C*>(partial + kWarps * kHeight * partial_width(call.units))),
        partial_stride(partial_width(call.units)),
        units_stride(call.units + 8) {}
};

// What a lane holds of 32 terms in half precision: of the rows of numbers, and of the weights of each tile of 8 units.
// kWhole: rows of numbers are whole 16 bytes.
template <bool kAcross, bool kWhole, int kRows, typename X>
struct HalfTerms {
  uint4 numbers[kRows][2], weights[kUnitTiles];

  // `rows` and `from` of each tile begin at the lane's terms, of which `left` exist, none where it is not positive;
  // `from` at the lane's unit, a row for each unit, or with kAcross a row for each term. Tokens that do not exist read
  // the last one's row, and nobody reads what becomes of it.
  __device__ __forceinline__ void load(
      const X* rows, int width, int left, int count, const X* const (&from)[kUnitTiles], int stride) {
#pragma unroll
    for (int m = 0; m < kRows; ++m) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int token = kTokens * m + 8 * h + lane_token();
        const X* const at = rows + (token < count ? token : count - 1) * width;
        if constexpr (kWhole) {
          numbers[m][h] = bytes_as<uint4>(load_whole<8>(at, left > 0));
        } else {
          numbers[m][h] = bytes_as<uint4>(cuda::load<8>(at, left, false));
        }
      }
    }
#pragma unroll
    for (int j = 0; j < kUnitTiles; ++j) {
      if constexpr (kAcross) {
        Numbers<X, 8> column;
#pragma unroll
        for (int i = 0; i < 8; ++i) column.at[i] = left > 0 ? from[j][i * stride] : X(0);
        weights[j] = bytes_as<uint4>(column);
      } else {
        weights[j] = bytes_as<uint4>(load_whole<8>(from[j], left > 0));
      }
    }
  }
  __device__ __forceinline__ void multiply(float (&sums)[kRows][kUnitTiles][4], int tiles) const {
#pragma unroll
    for (int j = 0; j < kUnitTiles; ++j) {
      if (j >= tiles) continue;
      const uint4& w = weights[j];
#pragma unroll
      for (int m = 0; m < kRows; ++m) {
        const auto& [a, b] = numbers[m];
        tensor_core_product<X>(sums[m][j], {a.x, b.x, a.y, b.y}, {w.x, w.y});
        tensor_core_product<X>(sums[m][j], {a.z, b.z, a.w, b.w}, {w.z, w.w});
      }
    }
  }
};

// sums (16 tokens, 8 units a tile) += numbers · weights over 32 terms, by the lane itself.
template <bool kAcross, bool kWhole, typename X, typename C>
__device__ __forceinline__ void add_terms(
    Sum<X> (&sums)[1][kUnitTiles][4], const X* numbers, int width, int left, int count,
    const C* const (&weights)[kUnitTiles], int tiles, int stride) {
  const int g = lane_token(), pair = lane_column() / 4;
  constexpr int kTerms = 16 / sizeof(C);
#pragma unroll 1
  for (int term = 0; term < kStep; term += kTerms) {
    Numbers<X, kTerms> a[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int token = 8 * h + g;
      a[h] = load<kTerms>(numbers + token * width + term, token < count ? left - term : 0, kWhole);
    }
#pragma unroll
    for (int j = 0; j < kUnitTiles; ++j) {
      if (j >= tiles) continue;
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const int unit = pair + c;
        Numbers<C, kTerms> w;
        if constexpr (kAcross) {
#pragma unroll
          for (int i = 0; i < kTerms; ++i) w.at[i] = weights[j][(term + i) * stride + unit];
        } else {
          w = load<kTerms>(weights[j] + unit * stride + term, kTerms, true);
        }
#pragma unroll
        for (int h = 0; h < 2; ++h) {
#pragma unroll
          for (int i = 0; i < kTerms; ++i) sums[0][j][2 * h + c] += static_cast<C>(a[h].at[i]) * w.at[i];
        }
      }
    }
  }
}

// A warp's share of sums += numbers · weights over all terms.
template <bool kAcross, bool kWhole, int kRows, typename X, typename C>
__device__ __forceinline__ void add_all_terms(
    Sum<X> (&sums)[kRows][kUnitTiles][4], const X* numbers, int width, int count, const C* (&weights)[kUnitTiles],
    int tiles, int stride) {
  constexpr int kShare = kWarps * kStep;  // from a warp's step to its next one
  const int terms = static_cast<int>(padded(width));
  int term = warp_of_block() * kStep;
  const auto advance = [&] {
    term += kShare;
#pragma unroll
    for (int j = 0; j < kUnitTiles; ++j) weights[j] += kShare * (kAcross ? stride : 1);
  };
#pragma unroll
  for (int j = 0; j < kUnitTiles; ++j) weights[j] += term * (kAcross ? stride : 1);
  if constexpr (kIsHalf<C>) {
    static_assert(std::is_same_v<X, C>);
    const int own = lane_column();
    numbers += own;
#pragma unroll
    for (int j = 0; j < kUnitTiles; ++j)
      weights[j] += kAcross ? own * stride + lane_token() : lane_token() * stride + own;
    const auto load = [&](auto& loaded) {
      loaded.load(numbers + term, width, width - own - term, count, weights, stride);
      advance();
    };
    using Loaded = HalfTerms<kAcross, kWhole, kRows, X>;
    if constexpr (kWhole && !kAcross) {
      Loaded ahead[2];  // steps on their way, in registers of their own
      load(ahead[0]);
      load(ahead[1]);
#pragma unroll 1
      while (term < terms + 2 * kShare) {
#pragma unroll
        for (Loaded& loaded : ahead) {
          loaded.multiply(sums, tiles);
          load(loaded);
        }
      }
    } else {  // the many small accesses of a step fill the registers
#pragma unroll 1
      while (term < terms) {
        Loaded loaded;
        load(loaded);
        loaded.multiply(sums, tiles);
      }
    }
  } else {
    static_assert(kRows == 1);
#pragma unroll 1
    for (; term < terms; advance()) {
      add_terms<kAcross, kWhole, X, C>(sums, numbers + term, width, width - term, count, weights, tiles, stride);
    }
  }
}

// The tile's units [first, first + count) of a matrix (tokens, width), to shared memory, and to `to` (tokens, all
// units) by one of the slices. weights(unit) is where the unit's weights begin.
template <bool kAcross, typename X, typename C, int kRows, typename Weights>
__device__ __forceinline__ void shrink(
    const LowRank<X, C>& call, const Block<X, C, kRows>& block, const X* numbers, int width, int first, int count,
    const Weights& weights, C* to) {
  using S = Sum<X>;
  const int stride = kAcross ? count : static_cast<int>(padded(width));
  const X* const own = numbers + block.first * width;
#pragma unroll 1
  for (int begin = first; begin < first + count; begin += 8 * kUnitTiles) {
    const int left = (first + count - begin) / 8, tiles = left < kUnitTiles ? left : kUnitTiles;
    const C* from[kUnitTiles];
#pragma unroll
    for (int j = 0; j < kUnitTiles; ++j) from[j] = weights(begin + (j < tiles ? 8 * j : 0));
    S sums[kRows][kUnitTiles][4] = {};
    if (kRows > 1 || call.aligned) {
      add_all_terms<kAcross, true>(sums, own, width, block.count, from, tiles, stride);
    } else if constexpr (kRows == 1) {
      add_all_terms<kAcross, false>(sums, own, width, block.count, from, tiles, stride);
    }
#pragma unroll
    for (int m = 0; m < kRows; ++m) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int row = block.kHeight * warp_of_block() + kTokens * m + 8 * h + lane_token();
        S* const kept = block.partial + row * block.partial_stride + lane_column() / 4;
#pragma unroll
        for (int j = 0; j < kUnitTiles; ++j) {
          if (j < tiles) *reinterpret_cast<Numbers<S, 2>*>(kept + 8 * j) = {{sums[m][j][2 * h], sums[m][j][2 * h + 1]}};
        }
      }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < block.kHeight * 8 * tiles; i += kThreads) {
      const int token = tiles == 1 ? i / 8 : i / (8 * kUnitTiles), unit = tiles == 1 ? i % 8 : i % (8 * kUnitTiles);
      static_assert(kUnitTiles == 2);
      const S* const part = block.partial + token * block.partial_stride + unit;
      S sum = 0;
#pragma unroll
      for (int warp = 0; warp < kWarps; ++warp) sum += part[warp * block.kHeight * block.partial_stride];
      const C value = static_cast<C>(call.scaling * sum);
      block.units[token * block.units_stride + begin + unit] = value;
      if (to != nullptr && blockIdx.y == 0 && token < block.count) {
        to[(block.first + token) * call.units + begin + unit] = value;
      }
    }
    __syncthreads();
  }
}

// tile (16 kRows tokens, 32 columns) += units · weights over 8 units, or 16 with `both`. `weights` begin at the first
// column and unit: a row for each column, or with kAcross a row for each unit.
template <bool kAcross, int kRows, typename S, typename C>
__device__ __forceinline__ void add_units(
    Tile<S> (&tile)[kRows], const C* units, int units_stride, const C* weights, int stride, bool both) {
  const int g = lane_token(), pair = lane_column() / 4;
  if constexpr (kIsHalf<C>) {
    uint32_t w[4][2] = {};
#pragma unroll
    for (int far = 0; far < 2; ++far) {
      if (far == 1 && !both) continue;
      const int unit = 8 * far + pair;
      if constexpr (kAcross) {
        const uint2 even = bytes_as<uint2>(load<4>(weights + unit * stride + 4 * g, 4, true));
        const uint2 odd = bytes_as<uint2>(load<4>(weights + (unit + 1) * stride + 4 * g, 4, true));
#pragma unroll
        for (int i = 0; i < 4; ++i) w[i][far] = take_halves(i < 2 ? even.x : even.y, i < 2 ? odd.x : odd.y, i % 2);
      } else {
#pragma unroll
        for (int i = 0; i < 4; ++i)
          w[i][far] = bytes_as<uint32_t>(load<2>(weights + (4 * g + i) * stride + unit, 2, true));
      }
    }
#pragma unroll
    for (int m = 0; m < kRows; ++m) {
      uint32_t a[4] = {};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (i >= 2 && !both) continue;
        const int token = kTokens * m + 8 * (i % 2) + g;
        a[i] = bytes_as<uint32_t>(load<2>(units + token * units_stride + 8 * (i / 2) + pair, 2, true));
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) tensor_core_product<C>(tile[m].parts[i], a, w[i]);
    }
  } else {
#pragma unroll 1
    for (int unit = 0; unit < (both ? 16 : 8); ++unit) {
      const C first = units[g * units_stride + unit], second = units[(g + 8) * units_stride + unit];
      Numbers<C, 8> w;
      if constexpr (kAcross) {
        w = load<8>(weights + unit * stride + lane_column(), 8, true);
      } else {
#pragma unroll
        for (int i = 0; i < 8; ++i) w.at[i] = weights[(lane_column() + i) * stride + unit];
      }
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        tile[0].at(0, i) += first * w.at[i];
        tile[0].at(1, i) += second * w.at[i];
      }
    }
  }
}

}  // namespace hyperloader::cuda
