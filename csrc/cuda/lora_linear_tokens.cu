// The low-rank part of lora_linear: a block takes a tile of tokens, multiplies its rows with the factors that make them
// units, and the units with those that make them rows again.
//
// A block's warps share the columns of the first product, and add up what each of them found in shared memory; they
// share the columns of the second one, which needs no sum. A lane reads and writes 16 bytes of a row at a time, and a
// weight once for all rows of its tile: 64 tokens where they fill the GPU, 16 where they are few. Then several blocks
// share a tile's results (slices), each of which computes the units for itself. The last tiles come first, so that a
// product that begins at the first token finds its input and its result in the second cache.
#include "launch.h"
#include "lora_linear.cuh"

namespace hyperloader::cuda {
namespace {

constexpr int kUnitTiles = 4;  // of 8 units, in registers at once

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

// sums (16 kRows tokens, 8 units a tile) += numbers · weights over 32 terms. `weights` of each tile begin at its first
// unit and at the first term: a row for each unit, or with kAcross a row for each term.
template <bool kAcross, int kRows, typename X, typename C>
__device__ __forceinline__ void add_terms(
    Sum<X> (&sums)[kRows][kUnitTiles][4], const X* numbers, int64_t width, int64_t left, int count, bool aligned,
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
        a[h] = bytes_as<uint4>(load<8>(row(m, h) + own, exists(m, h) ? left - own : 0, aligned));
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
      for (int h = 0; h < 2; ++h) a[h] = load<kTerms>(row(0, h) + term, exists(0, h) ? left - term : 0, aligned);
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
    for (int64_t term = warp_of_block() * kStep; term < terms; term += kWarps * kStep) {
      add_terms<kAcross, kRows, X, C>(
          sums, own + term, width, width - term, block.count, call.aligned, from, tiles, stride);
#pragma unroll
      for (int j = 0; j < kUnitTiles; ++j) from[j] += kWarps * kStep * (kAcross ? stride : 1);
    }
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

template <typename X, typename C, int kRows>
__device__ __forceinline__ void write(
    const LowRank<X, C>& call, const Block<X, C, kRows>& block, Tile<Sum<X>> (&tile)[kRows], void* to, int64_t width,
    int64_t column, const AnyNumbers& bias) {
  using S = Sum<X>;
  const int64_t own = column + lane_column(), left = width - own;
  S start[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) start[i] = bias.data != nullptr && i < left ? bias.load<S>(own + i) : S(0);
#pragma unroll
  for (int m = 0; m < kRows; ++m) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int token = kTokens * m + 8 * h + lane_token();
      if (token >= block.count) continue;
      const int64_t at = (block.first + token) * width + own;
      Numbers<S, 8> sums;
      Numbers<X, 8> numbers;
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        sums.at[i] = start[i] + tile[m].at(h, i);
        numbers.at[i] = static_cast<X>(sums.at[i]);
      }
      if (call.wide) {
        store<8>(static_cast<S*>(to) + at, sums, left, call.aligned);
      } else {
        store<8>(static_cast<X*>(to) + at, numbers, left, call.aligned);
      }
    }
  }
}

// The units of x, and every layer's bias and update.
template <typename X, typename C, int kRows>
__device__ __forceinline__ void forward(const LowRank<X, C>& call, const Block<X, C, kRows>& block) {
  if (call.reads_x) {
    const auto weights = [&](int64_t unit) {
      int i = 0;
      while (unit >= call.of[i].first + call.of[i].units) ++i;
      return call.of[i].A + block.group * call.of[i].A_stride + (unit - call.of[i].first) * padded(call.in_features);
    };
    shrink<false>(call, block, call.x, call.in_features, 0, call.units, weights, call.shrunk);
  } else {
    for (int64_t i = threadIdx.x; i < block.count * call.units; i += kThreads) {
      block.units[i / call.units * block.units_stride + i % call.units] = call.shrunk[block.first * call.units + i];
    }
    __syncthreads();
  }
  int64_t column = (int64_t(blockIdx.y) * kWarps + warp_of_block()) * kStep;
  for (int i = 0; i < call.count; ++i) {
    const Projection<X, C>& layer = call.of[i];
    if (layer.result == nullptr) continue;
    const C* const B = layer.B + block.group * layer.B_stride;
    for (; column < padded(layer.out); column += int64_t(gridDim.y) * kWarps * kStep) {
      Tile<Sum<X>> tile[kRows];
      for (int64_t unit = 0; unit < layer.units; unit += 16) {
        add_units<false>(
            tile, block.units + layer.first + unit, block.units_stride, B + column * layer.units + unit, layer.units,
            unit + 8 < layer.units);
      }
      write(call, block, tile, layer.result, layer.out, column, layer.bias);
    }
    column -= padded(layer.out);
  }
}

// The units of all outputs' gradients, and what reaches x through them.
template <typename X, typename C, int kRows>
__device__ __forceinline__ void backward(const LowRank<X, C>& call, const Block<X, C, kRows>& block) {
  for (int i = 0; i < call.count; ++i) {
    const Projection<X, C>& layer = call.of[i];
    const auto weights = [&](int64_t unit) { return layer.B + block.group * layer.B_stride + unit - layer.first; };
    shrink<true>(call, block, layer.grad, layer.out, layer.first, layer.units, weights, call.shrunk_grad);
  }
  if (call.grad_x == nullptr) return;
  const int64_t width = padded(call.in_features);
  for (int64_t column = (int64_t(blockIdx.y) * kWarps + warp_of_block()) * kStep; column < width;
       column += int64_t(gridDim.y) * kWarps * kStep) {
    Tile<Sum<X>> tile[kRows];
    for (int i = 0; i < call.count; ++i) {
      const Projection<X, C>& layer = call.of[i];
      const C* const A = layer.A + block.group * layer.A_stride + column;
      for (int64_t unit = 0; unit < layer.units; unit += 16) {
        add_units<true>(
            tile, block.units + layer.first + unit, block.units_stride, A + unit * width, width,
            unit + 8 < layer.units);
      }
    }
    write(call, block, tile, call.grad_x, call.in_features, column, AnyNumbers{});
  }
}

template <typename X, typename C, int kRows>
__global__ void __launch_bounds__(kThreads, kRows == 4 ? 1 : 2)
    low_rank_kernel(const __grid_constant__ LowRank<X, C> call) {
  const Block<X, C, kRows> block(call);
  if (call.reads_grads && blockIdx.z == 0) {
    backward(call, block);
  } else if (blockIdx.y == 0 || !call.reads_grads) {
    forward(call, block);
  }
}

template <int kRows, typename X, typename C>
void run(LowRank<X, C>& call, int64_t columns) {
  constexpr int64_t kBlocks = 128;  // about one for each multiprocessor
  call.tokens.tiles_of_sentence = Block<X, C, kRows>::tiles_of(call.tokens);
  const int64_t tiles = call.tokens.tiles();
  if (tiles == 0) return;
  const int64_t roles = call.reads_grads && call.reads_x ? 2 : 1;
  const int64_t most = std::max<int64_t>((columns / kStep + kWarps - 1) / kWarps, 1);
  const dim3 grid(tiles, std::clamp<int64_t>(kBlocks / (tiles * roles), 1, most), roles);
  launch(low_rank_kernel<X, C, kRows>, grid, dim3(kThreads), Block<X, C, kRows>::bytes(call.units), call);
}

}  // namespace

template <typename X, typename C>
void run_low_rank(LowRank<X, C> call) {
  constexpr int64_t kEnough = 128;  // blocks: about one for each multiprocessor
  int64_t columns = call.grad_x == nullptr ? 0 : padded(call.in_features);
  for (int i = 0; i < call.count; ++i) columns += call.of[i].result == nullptr ? 0 : padded(call.of[i].out);
  if constexpr (kIsHalf<C>) {
    const auto fills = [&](int64_t height) {
      const int64_t tiles = call.tokens.sentences * (call.tokens.tokens / height);
      return tiles * (call.reads_grads && call.reads_x ? 2 : 1) >= kEnough;
    };
    if (fills(64)) return run<4>(call, columns);
    if (fills(32)) return run<2>(call, columns);
  }
  run<1>(call, columns);
}

template void run_low_rank(LowRank<BFloat16, BFloat16>);
template void run_low_rank(LowRank<BFloat16, float>);
template void run_low_rank(LowRank<Half, Half>);
template void run_low_rank(LowRank<Half, float>);
template void run_low_rank(LowRank<float, float>);
template void run_low_rank(LowRank<double, double>);

}  // namespace hyperloader::cuda
