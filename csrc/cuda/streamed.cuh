// A block of 16 kTall tokens whose weights do not stay in shared memory, in half precision: they pass through it. A
// warp takes every eighth piece of 32 columns, of the tokens' rows and of the blocks of a matrix (resident.cuh), and
// its next piece arrives while it multiplies. Warps meet only for what they add up.
#pragma once

#include "resident.cuh"

#include <algorithm>

namespace hyperloader::cuda {

constexpr int kPlaces = 2;     // for a warp's pieces
constexpr int kUnitSteps = 2;  // of 32 units, whose sums a warp has at once
constexpr int kTallest = 4;    // tiles of 16 tokens of a block

// A warp's places.
template <typename C, int kTall>
class Pieces {
 public:
  // `memory` of the block, for pieces with so many blocks of a matrix.
  __device__ Pieces(C* memory, int blocks)
      : size_(kOfTokens + blocks * kBlock), own_(memory + warp_of_block() * kPlaces * size_) {}
  static int64_t bytes(int64_t blocks) {
    return kWarps * kPlaces * (kOfTokens + blocks * kBlock) * static_cast<int64_t>(sizeof(C));
  }

  __device__ __forceinline__ HeldRows<C> rows(int place, int m) const {
    return HeldRows<C>(own_ + place * size_ + m * kOfTile, kStep);
  }
  // What a lane asks for of a block.
  __device__ __forceinline__ C* block(int place, int i) const {
    return own_ + place * size_ + kOfTokens + i * kBlock + lane_of_warp() * 8;
  }

  // Begins to copy the columns [column, column + 32) of `count` rows of `width` numbers.
  __device__ __forceinline__ void fetch(int place, const C* from, int width, int column, int count) const {
    const int lane = lane_of_warp(), own = column + lane % 4 * 8;
#pragma unroll 2  // not all: their addresses would fill the registers
    for (int i = 0; i < 2 * kTall; ++i) {
      const int token = lane / 4 + 8 * i;
      const bool exists = token < count && own < width;
      C* const to = &rows(place, i / 2).at(token % kTokens, lane % 4 * 8);
      copy_async_16(to, exists ? from + int64_t{token} * width + own : from, exists);
    }
  }
  // And a block, `from` as a lane asks for it.
  __device__ __forceinline__ void fetch_block(int place, int i, const C* from) const {
#pragma unroll
    for (int j = 0; j < 4; ++j) copy_async_16(block(place, i) + 256 * j, from + 256 * j, true);
  }

 private:
  static constexpr int kOfTile = kTokens * static_cast<int>(apart(kStep)), kOfTokens = kTall * kOfTile;
  int size_;
  C* own_;
};

// Where what a block holds begins in its shared memory, in bytes.
struct StreamedRoom {
  int64_t units;   // rows of the second product
  int64_t few;     // what a token's first product leaves
  int64_t shared;  // pieces of that product and partial sums in turn, and what comes after them
  int64_t expand;  // pieces of the second one: `few` is behind us
  int64_t bytes;

  // `few` and `after`: the bytes of what is there while the first product is made, and after it.
  template <typename C, int kTall>
  static StreamedRoom of(int64_t bottleneck, int64_t few, int64_t after) {
    const int64_t thin = padded(bottleneck), partial = sizeof(Partial<float, kTall>);
    SharedPlaces places;
    StreamedRoom room{};
    room.units = places.take(kTall * HeldRows<C>::bytes(thin));
    room.few = room.expand = places.take(few);
    room.shared = places.bytes;
    const int64_t shrinking = std::max({Pieces<C, kTall>::bytes(kUnitSteps), partial, after});
    room.bytes = std::max(room.shared + shrinking, room.expand + Pieces<C, kTall>::bytes(thin / kStep));
    return room;
  }
  bool fits() const {
    constexpr int64_t kReserved = 2 << 10;  // of static memory
    return bytes + kReserved <= most_shared_memory();
  }
};

// Tiles of 16 tokens of a block: as many as make the busiest multiprocessor read least, of those that there is room
// for; none where there is no room for one. Of a block that is both matrices, and the rows for every 64 `units` of the
// first product, for the result and beside it. room_of<kTall>() is that of a block.
template <typename RoomOf>
int streamed_tiles(const Tokens& tokens, int64_t hidden, int64_t units, int64_t bottleneck, const RoomOf& room_of) {
  int best = 0;
  int64_t least = 0;
  const auto consider = [&]<int kTall>() {
    if (!room_of.template operator()<kTall>().fits()) return;
    constexpr int64_t kHeight = kTokens * kTall;
    const int64_t blocks = tokens.sentences * ((tokens.tokens + kHeight - 1) / kHeight);
    const int64_t passes = (units + kUnitSteps * kStep - 1) / (kUnitSteps * kStep);
    const int64_t read = padded(hidden) * (units + padded(bottleneck) + kHeight * (passes + 2));
    const int64_t busiest = (blocks + multiprocessors() - 1) / multiprocessors() * read;
    if (best == 0 || busiest < least) {
      best = kTall;
      least = busiest;
    }
  };
  consider.template operator()<kTallest>();
  consider.template operator()<2>();
  consider.template operator()<1>();
  return best;
}

// start<kTall>(the tokens in such tiles).
template <typename Start>
void with_tiles(Tokens tokens, int tall, const Start& start) {
  tokens.height = kTokens * tall;
  tokens.tiles_of_sentence = (tokens.tokens + tokens.height - 1) / tokens.height;
  switch (tall) {
    case kTallest: return start.template operator()<kTallest>(tokens);
    case 2: return start.template operator()<2>(tokens);
    default: return start.template operator()<1>(tokens);
  }
}

// For a warp's pieces of `width` columns: begin(column, place) begins to copy one, work(column, place) comes when it is
// there.
template <typename Begin, typename Work>
__device__ __forceinline__ void each_piece(int width, const Begin& begin, const Work& work) {
  constexpr int kShare = kWarps * kStep;
  int column = warp_of_block() * kStep, place = 0;
  if (column < width) begin(column, place);
  copy_commit();
#pragma unroll 1
  for (; column < width; column += kShare, place ^= 1) {
    if (column + kShare < width) begin(column + kShare, place ^ 1);
    copy_commit();
    copy_wait<1>();
    __syncwarp();  // all lanes' copies
    work(column, place);
    __syncwarp();  // the place is free
  }
}

// Numbers that every warp reads, to shared memory. The threads meet before and after.
__device__ __forceinline__ const float* hold(float* to, const float* from, int count) {
  for (int i = threadIdx.x; i < count; i += kThreads) to[i] = from[i];
  __syncthreads();
  return to;
}

// finish(token, unit, sum) of tokens · matrixᵀ for its rows [0, units). `pieces` have kUnitSteps blocks; `partial` may
// lie where they do. terms_of(rows, column) are those of a piece. The threads meet before and after.
template <int kTall, typename C, typename TermsOf, typename Finish>
__device__ __forceinline__ void shrink_streamed(
    const C* tokens, int width, int count, const Blocked<C>& matrix, int units, const Pieces<C, kTall>& pieces,
    Partial<float, kTall>& partial, const TermsOf& terms_of, const Finish& finish) {
#pragma unroll 1
  for (int first = 0; first < units; first += kUnitSteps * kStep) {
    Tile<float> sums[kUnitSteps][kTall];
    const auto each_step = [&](const auto& visit) {
#pragma unroll
      for (int i = 0; i < kUnitSteps; ++i) {
        if (first + i * kStep < units) visit(i, first + i * kStep);
      }
    };
    each_piece(
        width,
        [&](int column, int place) {
          pieces.fetch(place, tokens, width, column, count);
          each_step([&](int i, int unit) { pieces.fetch_block(place, i, matrix.block(unit, column)); });
        },
        [&](int column, int place) {
          Terms terms[kTall];
          terms_of(terms, [&](int m) { return pieces.rows(place, m).terms(0); }, column);
          each_step([&](int i, int) { multiply(sums[i], terms, pieces.block(place, i)); });
        });
    each_step([&](int i, int unit) {
      __syncthreads();
      add_up(sums[i], partial, unit, finish);
    });
    __syncthreads();
  }
}

// visit(column, tiles, place) for every 32 columns of rows · matrixᵀ, `rows` of kTall tiles in shared memory; `pieces`
// have the tokens' columns, where they are read, and matrix.terms / 32 blocks.
template <int kTall, typename C, typename Visit>
__device__ __forceinline__ void expand_streamed(
    const C* tokens, bool reads_tokens, int width, int count, const Blocked<C>& matrix, const Pieces<C, kTall>& pieces,
    C* rows, const Visit& visit) {
  each_piece(
      width,
      [&](int column, int place) {
        if (reads_tokens) pieces.fetch(place, tokens, width, column, count);
        for (int term = 0; term < matrix.terms; term += kStep) {
          pieces.fetch_block(place, term / kStep, matrix.block(column, term));
        }
      },
      [&](int column, int place) {
        Tile<float> tiles[kTall];
#pragma unroll 1
        for (int term = 0; term < matrix.terms; term += kStep) {
          Terms terms[kTall];
#pragma unroll
          for (int m = 0; m < kTall; ++m) terms[m] = tile_of_rows<C>(rows, matrix.terms, m).terms(term);
          multiply(tiles, terms, pieces.block(place, term / kStep));
        }
        visit(column, tiles, place);
      });
}

}  // namespace hyperloader::cuda
