// A block whose weights stay in shared memory, in half precision: it walks over neighbouring tiles of 16 tokens, and
// the next ones' rows arrive while it multiplies.
//
// A matrix (rows, terms) lies in blocks of 32 rows and 32 terms, each in the order in which the lanes of a warp ask for
// it: neighbouring lanes for neighbouring 16 bytes.
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
  return block * kBlock + (own % 4 * 32 + term % kStep / 8 * 8 + own / 4) * 8;
}

// The numbers from one row of a padded width to the next: eight rows' same 16 bytes lie in different banks.
__host__ __device__ constexpr int64_t apart(int64_t width) { return width + 8; }

// 32 terms of 16 rows as the tensor cores take them: the first 16, and the others.
struct Terms {
  uint4 of[2];
};

template <typename C>
struct ScaledRows;

// A tile of rows in shared memory, (16, apart(width)), zero beyond the columns that exist. The rows of tokens that do
// not exist hold anything: nobody may read what becomes of them.
template <typename C>
struct HeldRows {
  C* numbers;
  int width, stride;

  __device__ HeldRows(C* numbers, int width) : numbers(numbers), width(width), stride(static_cast<int>(apart(width))) {}
  static int64_t bytes(int64_t width) { return kTokens * apart(width) * static_cast<int64_t>(sizeof(C)); }

  __device__ __forceinline__ C& at(int token, int column) const { return numbers[token * stride + column]; }
  __device__ __forceinline__ const HeldRows& rows() const { return *this; }
  // Of a lane's row h.
  template <int kCount>
  __device__ __forceinline__ Numbers<C, kCount> load(int h, int column) const {
    return cuda::load<kCount>(&at(lane_token() + 8 * h, column), kCount, true);
  }

  // The terms from `term` on, all lanes of a warp together.
  __device__ __forceinline__ Terms terms(int term) const {
    const int lane = lane_of_warp();
    const C* const own = &at(lane % 16, term + lane / 16 * 8);
    return {load_matrices(own), load_matrices(own + 16)};
  }

  template <typename>
  __device__ __forceinline__ ScaledRows<C> scaled(const float* factors) const {
    return {*this, factors};
  }

  // Columns beyond `width`, which rows that come whole do not bring.
  __device__ void clear_padding(int width) const {
    const int beside = this->width - width;
    for (int i = threadIdx.x; i < kTokens * beside; i += kThreads) at(i / beside, width + i % beside) = C(0);
  }

  // Begins to copy `count` rows of `width` numbers, whole, by one warp.
  __device__ __forceinline__ void fetch_rows(const C* from, int width, int count, Arrival& arrival) const {
    const int token = lane_of_warp();
    const int bytes = width * static_cast<int>(sizeof(C));
    if (token < count) arrival.copy(&at(token, 0), from + int64_t{token} * width, bytes);
  }
  // The same by all threads, with zeros for the other rows.
  __device__ __forceinline__ void fetch(const C* from, int width, int count) const {
    static_assert(kTokens == 2 * kWarps);
    const int token = warp_of_block(), lane = lane_of_warp() * 8;
    const C *const first = from + int64_t{token} * width, *const second = first + int64_t{kWarps} * width;
    C *const to_first = &at(token, 0), *const to_second = &at(token + kWarps, 0);
#pragma unroll 1
    for (int column = lane; column < this->width; column += 32 * 8) {
      const bool exists = column < width, has_first = exists && token < count,
                 has_second = exists && token + kWarps < count;
      copy_async_16(to_first + column, has_first ? first + column : from, has_first);
      copy_async_16(to_second + column, has_second ? second + column : from, has_second);
    }
  }
};

// The m-th of several tiles of rows.
template <typename C>
__device__ __forceinline__ HeldRows<C> tile_of_rows(C* numbers, int width, int m) {
  return HeldRows<C>(numbers + m * kTokens * static_cast<int>(apart(width)), width);
}

// A lane's factors of 32 terms.
struct Factors {
  Numbers<float, 2> of[2][2];  // of the first 16 terms and the others, of either half

  __device__ __forceinline__ explicit Factors(const float* from) {
#pragma unroll
    for (int i = 0; i < 4; ++i) of[i / 2][i % 2] = load<2>(from + 8 * i + lane_column() / 4, 2, true);
  }
  // rows times the factors, in the products' dtype.
  template <typename C>
  __device__ __forceinline__ Terms scale(const Terms& rows) const {
    const auto scaled = [](uint32_t words, const Numbers<float, 2>& factor) {
      const auto own = widened(bytes_as<Numbers<C, 2>>(words));
      return pack<C>(own.at[0] * factor.at[0], own.at[1] * factor.at[1]);
    };
    Terms found;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const uint4& own = rows.of[i];
      const auto& [near, far] = of[i];
      found.of[i] = {scaled(own.x, near), scaled(own.y, near), scaled(own.z, far), scaled(own.w, far)};
    }
    return found;
  }
};

// Rows times a factor of each column.
template <typename C>
struct ScaledRows {
  const HeldRows<C>& rows;
  const float* factors;  // as many as padded columns

  __device__ __forceinline__ Terms terms(int term) const {
    return Factors(factors + term).template scale<C>(rows.terms(term));
  }
};

// A matrix (rows, terms) in blocks.
template <typename C>
struct Blocked {
  const C* numbers;
  int terms;

  // What a lane asks for of the block of the rows and terms from here on, both whole steps.
  __device__ __forceinline__ const C* block(int row, int term) const {
    return numbers + row * terms + term * kStep + lane_of_warp() * 8;
  }
};

// tiles += rows · a block of a matrixᵀ, of which each number is read once.
template <int kTall, typename C>
__device__ __forceinline__ void multiply(Tile<float> (&tiles)[kTall], const Terms (&rows)[kTall], const C* block) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const uint4 w = load_matrices(block + 256 * i);
#pragma unroll
    for (int m = 0; m < kTall; ++m) {
      const auto& [a, b] = rows[m].of;
      tensor_core_product<C>(tiles[m].parts[i], {a.x, a.y, a.z, a.w}, {w.x, w.y});
      tensor_core_product<C>(tiles[m].parts[i], {b.x, b.y, b.z, b.w}, {w.z, w.w});
    }
  }
}
template <typename C>
__device__ __forceinline__ void multiply(Tile<float>& tile, const Terms& rows, const C* block) {
  multiply<1>(reinterpret_cast<Tile<float>(&)[1]>(tile), reinterpret_cast<const Terms(&)[1]>(rows), block);
}

// As those of tiles.cuh.
template <typename C, typename AnyRows>
__device__ __forceinline__ void add_products(
    Tile<float>& tile, const AnyRows& rows, const Blocked<C>& matrix, int unit) {
#pragma unroll 1
  for (int term = warp_of_block() * kStep; term < matrix.terms; term += kWarps * kStep) {
    multiply(tile, rows.terms(term), matrix.block(unit, term));
  }
}

// tile += rows · (32 rows of the matrix from `column` on)ᵀ. The first 32 terms of the rows, mostly all, are read once.
template <typename C>
struct Expand {
  const HeldRows<C>& rows;
  const Blocked<C>& matrix;
  const Terms first;

  __device__ Expand(const HeldRows<C>& rows, const Blocked<C>& matrix)
      : rows(rows), matrix(matrix), first(rows.terms(0)) {}

  __device__ __forceinline__ void add(Tile<float>& tile, int column) const {
    multiply(tile, first, matrix.block(column, 0));
#pragma unroll 1
    for (int term = kStep; term < matrix.terms; term += kStep) {
      multiply(tile, rows.terms(term), matrix.block(column, term));
    }
  }
};

template <typename C, typename Visit>
__device__ __forceinline__ void expand(
    const HeldRows<C>& rows, int64_t, const Blocked<C>& matrix, int64_t width, const Visit& visit) {
  const Expand<C> products(rows, matrix);
#pragma unroll 1
  for (int column = warp_of_block() * kStep; column < width; column += kWarps * kStep) {
    Tile<float> tile;
    products.add(tile, column);
    visit(column, tile);
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

// For a block's share of the tiles, each as a place of its walk: begin(place, slot) begins to copy what a tile needs
// into one of `stages` slots, where copies_rows() one warp alone for the slot's arrival, and work(place, slot) comes
// when it is there. change(place) comes before work and says whether it began to copy weights.
template <typename Begin, typename Change, typename Work>
__device__ __forceinline__ void each_tile(
    const Tokens& tokens, int stages, Arrival (&arrivals)[kMostStages], const Begin& begin, const Change& change,
    const Work& work) {
  if (copies_rows()) {
    if (threadIdx.x == 0) {
      for (Arrival& arrival : arrivals) arrival.prepare();
    }
    __syncthreads();
  }
  const int tiles = static_cast<int>(tokens.tiles()), blocks = static_cast<int>(gridDim.x);
  const int block = static_cast<int>(blockIdx.x), share = tiles / blocks, more = tiles % blocks;
  const int first = block * share + (block < more ? block : more);
  int left = share + (block < more ? 1 : 0), to_begin = left;
  Walk own(tokens, first), ahead = own;
  const auto next = [&](int slot) { return slot + 1 < stages ? slot + 1 : 0; };
  int slot = 0, free = 0, phase = 0;
  const auto begin_if_any = [&] {
    if (to_begin > 0) {
      if (!copies_rows() || warp_of_block() == 0) begin(ahead, free);
      ahead.advance(tokens);
      free = next(free);
      --to_begin;
    }
    copy_commit();
  };
  for (int i = 0; i + 1 < stages; ++i) begin_if_any();
#pragma unroll 1
  for (; left > 0; --left) {
    const bool changed = change(own);
    begin_if_any();
    if (copies_rows()) {
      arrivals[slot].wait(phase);
      if (changed) copy_wait<0>();
    } else if (changed) {
      copy_wait<0>();
    } else if (stages == 2) {
      copy_wait<1>();
    } else {
      copy_wait<kMostStages - 1>();
    }
    if (changed || !copies_rows()) __syncthreads();
    work(own, slot);
    __syncthreads();  // the slot is free
    own.advance(tokens);
    slot = next(slot);
    if (slot == 0) phase ^= 1;
  }
}

}  // namespace hyperloader::cuda
