// Products of a tile of 16 tokens by one warp: 32 results of each token at a time.
//
// Lane l holds the results 8q .. 8q + 7 of the tokens g and g + 8 of each, where g = l / 4 and q = l % 4: what it reads
// and writes in a row is contiguous. In half precision the tensor cores multiply; else the lane does, in the dtype of
// sums.
#pragma once

#include "numbers.cuh"

namespace hyperloader::cuda {

constexpr int kTokens = 16;  // of a tile
constexpr int kStep = 32;    // results, and terms of a product, at a time: widths of weights are padded to it
constexpr int kWarps = 8;
constexpr int kThreads = 32 * kWarps;
constexpr unsigned kAllLanes = 0xffffffffu;

// Blocks of a multiprocessor at once, at least: the lanes' own products take more registers.
template <typename C>
constexpr int kBlocksAtOnce = kIsHalf<C> ? 2 : 1;

__host__ __device__ constexpr int64_t padded(int64_t width) { return (width + kStep - 1) / kStep * kStep; }

__device__ __forceinline__ int warp_of_block() { return static_cast<int>(threadIdx.x) / 32; }
__device__ __forceinline__ int lane_of_warp() { return static_cast<int>(threadIdx.x) % 32; }
__device__ __forceinline__ int lane_token() { return lane_of_warp() / 4; }
__device__ __forceinline__ int lane_column() { return static_cast<int>(threadIdx.x) % 4 * 8; }

// The tokens of a batch. With groups a tile lies within one sentence, so that its tokens share their weights.
struct Tokens {
  int64_t sentences, tokens;  // of the batch, of a sentence
  const int64_t* group;       // of each sentence; null where there is one set of weights
  int64_t groups;
  int64_t tiles_of_sentence;
  int height = kTokens;  // tokens of a tile

  __host__ __device__ int64_t tiles() const { return sentences * tiles_of_sentence; }
  __host__ __device__ int64_t all() const { return sentences * tokens; }

  // An index out of range is clamped: the host does not look at indices that lie on the device.
  __device__ int64_t group_of_sentence(int64_t sentence) const {
    if (group == nullptr) return 0;
    const int64_t found = group[sentence];
    return found < 0 ? 0 : found < groups ? found : groups - 1;
  }
  __device__ int64_t group_of_tile(int64_t tile) const {
    return group == nullptr ? 0 : group_of_sentence(sentence_of(tile));
  }
  __device__ int64_t first(int64_t tile) const {
    const int64_t sentence = sentence_of(tile);
    return sentence * tokens + (tile - sentence * tiles_of_sentence) * height;
  }
  __device__ int count(int64_t tile) const {
    const int64_t left = tokens - (tile - sentence_of(tile) * tiles_of_sentence) * height;
    return left < height ? static_cast<int>(left) : height;
  }
  // In 32 bits, where a division takes a fifth of the time; a grid has no more tiles.
  __device__ int64_t sentence_of(int64_t tile) const {
    return static_cast<uint32_t>(tile) / static_cast<uint32_t>(tiles_of_sentence);
  }
};

// A place among neighbouring tiles: from one to the next without a division.
class Walk {
 public:
  __device__ Walk(const Tokens& tokens, int tile)
      : sentence_(static_cast<int>(tokens.sentence_of(tile))),
        tile_(tile - sentence_ * static_cast<int>(tokens.tiles_of_sentence)) {}

  __device__ void advance(const Tokens& tokens) {
    if (++tile_ < static_cast<int>(tokens.tiles_of_sentence)) return;
    tile_ = 0;
    ++sentence_;
  }
  // Of the tile: its first token, its number of tokens, its group.
  __device__ int64_t first(const Tokens& tokens) const {
    return sentence_ * tokens.tokens + int64_t{tile_} * tokens.height;
  }
  __device__ int count(const Tokens& tokens) const {
    const int64_t left = tokens.tokens - int64_t{tile_} * tokens.height;
    return left < tokens.height ? static_cast<int>(left) : tokens.height;
  }
  __device__ int group(const Tokens& tokens) const { return static_cast<int>(tokens.group_of_sentence(sentence_)); }
  __device__ int sentence() const { return sentence_; }
  __device__ bool ends(const Tokens& tokens) const {  // the sentence
    return tile_ + 1 == static_cast<int>(tokens.tiles_of_sentence);
  }

 private:
  int sentence_, tile_;  // of the sentence
};

template <typename C, typename Rows>
struct Scaled;

// A lane's rows of a matrix (tokens, width): row h is that of the token g + 8 h.
template <typename T>
struct Rows {
  T* own;  // the first one
  int64_t width, stride;
  bool aligned;
  int left;  // tokens that exist from the first row's on

  __device__ Rows(T* tokens, int64_t width, bool aligned, int count, int64_t stride)
      : own(tokens + lane_token() * stride),
        width(width),
        stride(stride),
        aligned(aligned),
        left(count - lane_token()) {}
  __device__ Rows(T* tokens, int64_t width, bool aligned, int count) : Rows(tokens, width, aligned, count, width) {}

  template <int kCount>
  __device__ __forceinline__ Numbers<std::remove_const_t<T>, kCount> load(int h, int64_t column) const {
    return cuda::load<kCount>(own + 8 * h * stride + column, 8 * h < left ? width - column : 0, aligned);
  }
  template <typename C>
  __device__ __forceinline__ Scaled<C, Rows> scaled(const Sum<C>* factors) const {
    return {*this, factors};
  }
  __device__ __forceinline__ void store(int h, int64_t column, const Numbers<T, 8>& numbers) const {
    if (8 * h < left) cuda::store<8>(own + 8 * h * stride + column, numbers, width - column, aligned);
  }
};

// Rows times a factor of each column, in the products' dtype.
template <typename C, typename Rows>
struct Scaled {
  const Rows& rows;
  const Sum<C>* factors;  // as many as padded columns
  int64_t width;

  __device__ Scaled(const Rows& rows, const Sum<C>* factors) : rows(rows), factors(factors), width(rows.width) {}

  template <int kCount>
  __device__ __forceinline__ Numbers<C, kCount> load(int h, int64_t column) const {
    const auto numbers = rows.template load<kCount>(h, column);
    const auto factor = cuda::load<kCount>(factors + column, kCount, true);
    Numbers<C, kCount> found;
#pragma unroll
    for (int i = 0; i < kCount; ++i) found.at[i] = static_cast<C>(static_cast<Sum<C>>(numbers.at[i]) * factor.at[i]);
    return found;
  }
};

// A lane's share of (16, 32) results.
template <typename S>
struct Tile {
  S parts[4][4] = {};  // as the tensor cores leave them

  __device__ __forceinline__ S& at(int h, int column) { return parts[column % 4][2 * h + column / 4]; }
};

// tile += rows · weightsᵀ over the terms [term, term + 32): of the rows' columns and of `weights` (32, stride).
template <typename C, typename AnyRows>
__device__ __forceinline__ void multiply(
    Tile<Sum<C>>& tile, const AnyRows& rows, int64_t term, const C* weights, int64_t stride) {
  if constexpr (kIsHalf<C>) {
    const int64_t own = term + lane_column();
    const uint4 first = bytes_as<uint4>(rows.template load<8>(0, own)),
                second = bytes_as<uint4>(rows.template load<8>(1, own));
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint4 w = bytes_as<uint4>(load<8>(weights + (4 * lane_token() + i) * stride + own, 8, true));
      tensor_core_product<C>(tile.parts[i], {first.x, second.x, first.y, second.y}, {w.x, w.y});
      tensor_core_product<C>(tile.parts[i], {first.z, second.z, first.w, second.w}, {w.z, w.w});
    }
  } else {
    constexpr int kTerms = 16 / sizeof(C);
    weights += lane_column() * stride;
#pragma unroll 1
    for (int64_t at = term; at < term + kStep; at += kTerms) {
      const auto first = rows.template load<kTerms>(0, at), second = rows.template load<kTerms>(1, at);
#pragma unroll
      for (int column = 0; column < 8; ++column) {
        const auto w = load<kTerms>(weights + column * stride + at, kTerms, true);
#pragma unroll
        for (int i = 0; i < kTerms; ++i) {
          tile.at(0, column) += static_cast<C>(first.at[i]) * w.at[i];
          tile.at(1, column) += static_cast<C>(second.at[i]) * w.at[i];
        }
      }
    }
  }
}

// visit(column, tile) for every 32 columns of (16, width) = rows · weightsᵀ, shared out among the warps, and among
// `shares` blocks of which this is one; `terms` and the rows of `weights` (padded(width), terms) are padded.
template <typename C, typename T, typename Visit>
__device__ __forceinline__ void expand(
    const Rows<T>& rows, int64_t terms, const C* weights, int64_t width, const Visit& visit, int share = 0,
    int shares = 1) {
  const int64_t step = int64_t{shares} * kWarps * kStep;
  for (int64_t column = (share * kWarps + warp_of_block()) * kStep; column < width; column += step) {
    Tile<Sum<C>> tile;
    for (int64_t term = 0; term < terms; term += kStep) multiply(tile, rows, term, weights + column * terms, terms);
    visit(column, tile);
  }
}

// Memory of `shrink`, in shared memory: a partial sum of each warp, in the order in which a lane holds neighbours; rows
// that four lanes fill begin in different banks.
template <typename S, int kTall = 1>
struct Partial {
  static constexpr int kApart = 8;
  alignas(16) S of[kWarps][kTokens * kTall][kStep + kApart];

  // The unit of a place in a row.
  static __device__ int unit(int place) { return place % 8 / 2 * 8 + place % 2 * 4 + place / 8; }
  __device__ __forceinline__ void store(Tile<S> (&tile)[kTall]) {
#pragma unroll
    for (int h = 0; h < 2 * kTall; ++h) {
      S* const row = of[warp_of_block()][lane_token() + 8 * h] + lane_column() / 4;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const S(&part)[4] = tile[h / 2].parts[j];
        *reinterpret_cast<Numbers<S, 2>*>(row + 8 * j) = {{part[h % 2 * 2], part[h % 2 * 2 + 1]}};
      }
    }
  }
};

// What a tile's tokens have become, (16, units) in shared memory: an operand of the next product.
template <typename C>
struct Units {
  C* numbers;
  int64_t units;

  static constexpr int kApart = 8;  // numbers between rows, so that the rows begin in different banks
  __host__ __device__ static int64_t bytes(int64_t units) {
    return kTokens * (units + kApart) * static_cast<int64_t>(sizeof(C));
  }

  __device__ C& at(int token, int64_t unit) const { return numbers[token * (units + kApart) + unit]; }
  __device__ Rows<const C> rows() const { return {numbers, units, true, kTokens, units + kApart}; }
};

// finish(token, unit, sum) by one thread each, of the warps' parts of the products of units [unit, unit + 32). The
// threads meet before they add up.
template <typename S, int kTall, typename Finish>
__device__ __forceinline__ void add_up(
    Tile<S> (&tile)[kTall], Partial<S, kTall>& partial, int unit, const Finish& finish) {
  const int lane = lane_of_warp(), place = lane % 16 * 2, own = partial.unit(place);
  partial.store(tile);
  __syncthreads();
#pragma unroll 1
  for (int token = 2 * warp_of_block() + lane / 16; token < kTokens * kTall; token += 2 * kWarps) {
    S sums[2] = {};
#pragma unroll
    for (int warp = 0; warp < kWarps; ++warp) {
      const auto part = *reinterpret_cast<const Numbers<S, 2>*>(&partial.of[warp][token][place]);
#pragma unroll
      for (int i = 0; i < 2; ++i) sums[i] += part.at[i];
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) finish(token, unit + own + 4 * i, sums[i]);
  }
}

// The products add(tile, unit) of units [unit, unit + 32), added up.
template <typename S, typename Add, typename Finish>
__device__ __forceinline__ void shrink(int units, Partial<S>& partial, const Add& add, const Finish& finish) {
#pragma unroll 1
  for (int unit = 0; unit < units; unit += kStep) {
    Tile<S> tile[1];
    add(tile[0], unit);
    add_up(tile, partial, unit, finish);
    __syncthreads();
  }
}

// A warp's share of tile += rows · weightsᵀ over all columns of the rows; `weights` (units, padded(width)).
template <typename C, typename AnyRows>
__device__ __forceinline__ void add_products(Tile<Sum<C>>& tile, const AnyRows& rows, const C* weights, int64_t unit) {
  const int64_t terms = padded(rows.width);
  for (int64_t term = warp_of_block() * kStep; term < terms; term += kWarps * kStep) {
    multiply(tile, rows, term, weights + unit * terms, terms);
  }
}

}  // namespace hyperloader::cuda
