// A block whose weights stay in shared memory, in half precision: it walks over neighbouring tiles of 16 tokens, and
// the next ones' rows arrive while it multiplies.
//
// A matrix (rows, terms) lies in blocks of 32 rows and 32 terms, each in the order in which the lanes of a warp read
// it: neighbouring lanes take neighbouring 16 bytes.
#pragma once

#include "copy.cuh"
#include "launch.h"
#include "tiles.cuh"

namespace hyperloader::cuda {

constexpr int kBlock = kStep * kStep;  // numbers of a block of a matrix
constexpr int kMostStages = 3;         // tiles in shared memory

// Where the 8 numbers from `term` on of a matrix's row lie; `terms` are those of a row, padded.
__host__ __device__ constexpr int fragment(int row, int term, int terms) {
  const int block = row / kStep * (terms / kStep) + term / kStep, own = row % kStep;
  return block * kBlock + (own % 4 * 32 + own / 4 * 4 + term % kStep / 8) * 8;
}

// The numbers between rows of a padded width, so that those of two neighbours lie in different banks.
__host__ __device__ constexpr int64_t apart(int64_t width) { return width % (2 * kStep) == 0 ? width + kStep : width; }

// A tile of rows in shared memory, (16, apart(width)), zero beyond the tokens and columns that exist.
template <typename C>
struct HeldRows {
  C* numbers;
  int64_t width, stride;

  __device__ HeldRows(C* numbers, int width) : numbers(numbers), width(width), stride(apart(width)) {}
  static int64_t bytes(int64_t width) { return kTokens * apart(width) * static_cast<int64_t>(sizeof(C)); }

  __device__ __forceinline__ C& at(int token, int64_t column) const { return numbers[token * stride + column]; }
  __device__ __forceinline__ const HeldRows& rows() const { return *this; }
  // Of a lane's row h.
  template <int kCount>
  __device__ __forceinline__ Numbers<C, kCount> load(int h, int64_t column) const {
    return cuda::load<kCount>(&at(lane_token() + 8 * h, column), kCount, true);
  }

  // Begins to copy `count` rows of `width` numbers.
  __device__ __forceinline__ void fetch(const C* from, int64_t width, int count) const {
    for (int token = warp_of_block(); token < kTokens; token += kWarps) {
      const C* const row = from + (token < count ? token * width : 0);
      for (int column = threadIdx.x % 32 * 8; column < padded(width); column += 32 * 8) {
        const bool valid = token < count && column < width;
        copy_async_16(numbers + token * stride + column, valid ? row + column : from, valid);
      }
    }
  }
};

// A matrix (rows, terms) in blocks.
template <typename C>
struct Blocked {
  const C* numbers;
  int terms;
};

// tile += rows · matrixᵀ over the terms [term, term + 32), for the matrix's rows [row, row + 32).
template <typename C, typename AnyRows>
__device__ __forceinline__ void multiply(
    Tile<float>& tile, const AnyRows& rows, int term, const Blocked<C>& matrix, int row) {
  const int own = term + lane_column();
  const uint4 a = bytes_as<uint4>(rows.template load<8>(0, own)), b = bytes_as<uint4>(rows.template load<8>(1, own));
  const C* const block = matrix.numbers + fragment(row, term, matrix.terms) + threadIdx.x % 32 * 8;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const uint4 w = bytes_as<uint4>(load<8>(block + 256 * i, 8, true));
    tensor_core_product<C>(tile.parts[i], {a.x, b.x, a.y, b.y}, {w.x, w.y});
    tensor_core_product<C>(tile.parts[i], {a.z, b.z, a.w, b.w}, {w.z, w.w});
  }
}

// As those of tiles.cuh.
template <typename C, typename AnyRows>
__device__ __forceinline__ void add_products(
    Tile<float> (&tile)[1], const AnyRows& rows, const Blocked<C>& matrix, int64_t unit) {
#pragma unroll 1
  for (int term = warp_of_block() * kStep; term < matrix.terms; term += kWarps * kStep) {
    multiply(tile[0], rows, term, matrix, static_cast<int>(unit));
  }
}

template <int kTall, typename C, typename Visit>
__device__ __forceinline__ void expand(
    const HeldRows<C>& rows, int64_t terms, const Blocked<C>& matrix, int64_t width, const Visit& visit) {
#pragma unroll 1
  for (int column = warp_of_block() * kStep; column < width; column += kWarps * kStep) {
    Tile<float> tile[kTall];
    static_assert(kTall == 1);
#pragma unroll 1
    for (int term = 0; term < terms; term += kStep) multiply(tile[0], rows, term, matrix, column);
    visit(int64_t{column}, tile);
  }
}

// Places in a block's shared memory, in bytes.
struct SharedPlaces {
  int64_t bytes = 0;

  int64_t take(int64_t count) {
    const int64_t place = bytes;
    bytes += (count + 15) / 16 * 16;
    return place;
  }
};

// As many stages as fit beside `bytes`, with `static_bytes` that every kernel has; none where not even two do.
inline int stages_for(int64_t bytes, int64_t stage, int64_t static_bytes) {
  for (int stages = kMostStages; stages > 1; --stages) {
    if (bytes + stages * stage + static_bytes <= most_shared_memory()) return stages;
  }
  return 0;
}

// For a block's share of the tiles: begin(tile, slot) begins to copy what a tile needs into one of `stages` slots, and
// work(tile, slot) comes when it is there. change(tile) comes before work and says whether it began to copy weights.
template <typename Begin, typename Change, typename Work>
__device__ __forceinline__ void each_tile(
    int64_t tiles, int stages, const Begin& begin, const Change& change, const Work& work) {
  const int64_t first = tiles * blockIdx.x / gridDim.x, end = tiles * (blockIdx.x + 1) / gridDim.x;
  const auto begin_if_any = [&](int64_t tile) {
    if (tile < end) begin(tile, static_cast<int>((tile - first) % stages));
    copy_commit();
  };
  for (int ahead = 0; ahead + 1 < stages; ++ahead) begin_if_any(first + ahead);
  for (int64_t tile = first; tile < end; ++tile) {
    const bool changed = change(tile);
    begin_if_any(tile + stages - 1);
    if (changed) {
      copy_wait<0>();
    } else if (stages == 2) {
      copy_wait<1>();
    } else {
      copy_wait<kMostStages - 1>();
    }
    __syncthreads();
    work(tile, static_cast<int>((tile - first) % stages));
    __syncthreads();  // the slot is free
  }
}

}  // namespace hyperloader::cuda
