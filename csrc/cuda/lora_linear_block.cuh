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

  int64_t tile, first, group;
  int count;
  S* partial;  // (warps, kHeight, partial_stride)
  C* units;    // (kHeight, units_stride)
  int64_t partial_stride, units_stride;

  static int64_t tiles_of(const Tokens& tokens) { return (tokens.tokens + kHeight - 1) / kHeight; }
  __host__ __device__ static int64_t partial_width(int64_t units) {
    constexpr int64_t kMost = 8 * kUnitTiles;
    return (units < kMost ? units : kMost) + 8;  // 8 apart, as the units: rows begin in different banks
  }
  static int64_t bytes(int64_t units) {
    return kHeight * (kWarps * partial_width(units) * sizeof(S) + (units + 8) * sizeof(C));
  }

  // tokens.tiles_of_sentence is that of this height.
  __device__ explicit Block(const LowRank<X, C>& call)
      : tile(int64_t(gridDim.x) - 1 - blockIdx.x),
        group(call.tokens.group_of_tile(tile)),
        partial(dynamic_shared<S>()),
        units(reinterpret_cast<C*>(partial + kWarps * kHeight * partial_width(call.units))),
        partial_stride(partial_width(call.units)),
        units_stride(call.units + 8) {
    const int64_t sentence = tile / call.tokens.tiles_of_sentence, at = tile % call.tokens.tiles_of_sentence * kHeight;
    first = sentence * call.tokens.tokens + at;
    count = static_cast<int>(call.tokens.tokens - at < kHeight ? call.tokens.tokens - at : kHeight);
  }
};

// sums (16 kRows tokens, 8 units a tile) += numbers · weights over 32 terms; kWhole: rows of numbers are whole 16
// bytes. `weights` of each tile begin at its first unit and at the first term: a row for each unit, or with kAcross a
// row for each term.
template <bool kAcross, bool kWhole, int kRows, typename X, typename C>
__device__ __forceinline__ void add_terms(
    Sum<X> (&sums)[kRows][kUnitTiles][4], const X* numbers, int64_t width, int64_t left, int count,
    const C* const (&weights)[kUnitTiles], int tiles, int64_t stride) {
  const int g = lane_token(), own = lane_column(), pair = own / 4;
  const auto row = [&](int m, int h) {
    const int token = kTokens * m + 8 * h + g;
    return numbers + token * width;
  };
  const auto exists = [&](int m, int h) { return kTokens * m + 8 * h + g < count; };
  if constexpr (kIsHalf<C>) {
    static_assert(std::is_same_v<X, C>);
    uint4 w[kUnitTiles];
#pragma unroll
    for (int j = 0; j < kUnitTiles; ++j) {
      if (j >= tiles) continue;
      if constexpr (kAcross) {
        Numbers<C, 8> column;
#pragma unroll
        for (int i = 0; i < 8; ++i) column.at[i] = weights[j][(own + i) * stride + g];
        w[j] = bytes_as<uint4>(column);
      } else {
        w[j] = bytes_as<uint4>(load<8>(weights[j] + g * stride + own, 8, true));
      }
    }
#pragma unroll
    for (int m = 0; m < kRows; ++m) {
      uint4 a[2];
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        if constexpr (kWhole) {
          a[h] = bytes_as<uint4>(load_whole<8>(row(m, h) + own, exists(m, h) && own < left));
        } else {
          a[h] = bytes_as<uint4>(load<8>(row(m, h) + own, exists(m, h) ? left - own : 0, false));
        }
      }
#pragma unroll
      for (int j = 0; j < kUnitTiles; ++j) {
        if (j >= tiles) continue;
        tensor_core_product<C>(sums[m][j], {a[0].x, a[1].x, a[0].y, a[1].y}, {w[j].x, w[j].y});
        tensor_core_product<C>(sums[m][j], {a[0].z, a[1].z, a[0].w, a[1].w}, {w[j].z, w[j].w});
      }
    }
  } else {
    static_assert(kRows == 1);
    constexpr int kTerms = 16 / sizeof(C);
#pragma unroll 1
    for (int term = 0; term < kStep; term += kTerms) {
      Numbers<X, kTerms> a[2];
#pragma unroll
      for (int h = 0; h < 2; ++h) a[h] = load<kTerms>(row(0, h) + term, exists(0, h) ? left - term : 0, kWhole);
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
}

// The tile's units [first, first + count) of a matrix (tokens, width), to shared memory, and to `to` (tokens, all
// units) by one of the slices. weights(unit) is where the unit's weights begin.
template <bool kAcross, typename X, typename C, int kRows, typename Weights>
__device__ __forceinline__ void shrink(
    const LowRank<X, C>& call, const Block<X, C, kRows>& block, const X* numbers, int64_t width, int64_t first,
    int64_t count, const Weights& weights, C* to) {
  using S = Sum<X>;
  const int64_t terms = padded(width), stride = kAcross ? count : terms;
  const X* const own = numbers + block.first * width;
  for (int64_t begin = first; begin < first + count; begin += 8 * kUnitTiles) {
    const int64_t left = (first + count - begin) / 8;
    const int tiles = left < kUnitTiles ? static_cast<int>(left) : kUnitTiles;
    const C* from[kUnitTiles] = {};
#pragma unroll
    for (int j = 0; j < kUnitTiles; ++j) {
      if (j < tiles) from[j] = weights(begin + 8 * j) + warp_of_block() * kStep * (kAcross ? stride : 1);
    }
    S sums[kRows][kUnitTiles][4] = {};
    const auto add_all = [&](auto whole) {
#pragma unroll 1
      for (int64_t term = warp_of_block() * kStep; term < terms; term += kWarps * kStep) {
        add_terms<kAcross, whole.value, kRows, X, C>(
            sums, own + term, width, width - term, block.count, from, tiles, stride);
#pragma unroll
        for (int j = 0; j < kUnitTiles; ++j) from[j] += kWarps * kStep * (kAcross ? stride : 1);
      }
    };
    call.aligned ? add_all(std::true_type()) : add_all(std::false_type());
#pragma unroll
    for (int m = 0; m < kRows; ++m) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int row = block.kHeight * warp_of_block() + kTokens * m + 8 * h + lane_token();
        S* const kept = block.partial + row * block.partial_stride + lane_column() / 4;
#pragma unroll
        for (int j = 0; j < kUnitTiles; ++j) {
          if (j >= tiles) continue;
          kept[8 * j] = sums[m][j][2 * h];
          kept[8 * j + 1] = sums[m][j][2 * h + 1];
        }
      }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < block.kHeight * 8 * tiles; i += kThreads) {
      const int token = i / (8 * tiles), unit = i % (8 * tiles);
      S sum = 0;
#pragma unroll
      for (int warp = 0; warp < kWarps; ++warp) {
        sum += block.partial[(warp * block.kHeight + token) * block.partial_stride + unit];
      }
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
    Tile<S> (&tile)[kRows], const C* units, int64_t units_stride, const C* weights, int64_t stride, bool both) {
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
