// What a block of `resident_low_rank_kernel` holds, in shared memory and in registers, and what it leaves.
#pragma once

#include "lora_linear.cuh"
#include "resident.cuh"

namespace hyperloader::cuda {

constexpr int kHeldTiles = 2;    // tiles of 8 units, of all layers together
constexpr int kHeldColumns = 6;  // of a warp: 16 columns each
constexpr int kTogether = 16;    // columns at a time: the terms of one product of the tensor cores
constexpr int kMostHeld = kTogether * kWarps * kHeldColumns;

// Distances in shared memory, in numbers: rows begin in different banks.
constexpr int kUnitsApart = 8 * kHeldTiles + 8, kScratchApart = 2 * 8 * kHeldTiles + 8;

// A tile of 8 units: its layer, its place among the layer's units, and where the gradient's rows begin in a stage, in
// numbers.
struct UnitTile {
  int layer, first, rows;
};

// Where what a block holds begins in its shared memory, in bytes, and what it leaves.
struct LowRankRoom {
  int64_t A, B, units, scratch, stages_begin, stage;
  int stages;  // none where it does not fit
  int tall;    // rows of B of a tile of units
  int tiles;   // of units that there are
  UnitTile of_tile[kHeldTiles];
  int64_t part, B_part[kProjections];  // numbers of a part, and where in it a layer's sums for lora_B begin

  template <typename X>
  static LowRankRoom of(const Updates& updates, const std::vector<Tensor>& grads, int64_t in_features);
  int64_t bytes() const { return stages_begin + stages * stage; }
};

template <typename X>
LowRankRoom LowRankRoom::of(const Updates& updates, const std::vector<Tensor>& grads, int64_t in_features) {
  constexpr int64_t kStatic = 1 << 10;
  LowRankRoom room{};
  if (updates.units() > 8 * kHeldTiles || in_features > kMostHeld) return room;
  room.part = updates.units() * in_features;
  room.stage = HeldRows<X>::bytes(padded(in_features));
  for (size_t i = 0; i < grads.size(); ++i) {
    const int64_t units = padded_units(updates.rank(i)), out = grads[i].size(-1);
    if (out > kMostHeld) return room;
    for (int64_t first = 0; first < units; first += 8) {
      room.of_tile[room.tiles++] = {
          static_cast<int>(i), static_cast<int>(first), static_cast<int>(room.stage / sizeof(X))};
    }
    room.B_part[i] = room.part;
    room.part += units * out;
    room.stage += HeldRows<X>::bytes(padded(out));
    room.tall = std::max(room.tall, static_cast<int>(padded(out)));
  }
  SharedPlaces places;
  room.A = places.take(8 * kHeldTiles * apart(padded(in_features)) * sizeof(X));
  room.B = places.take(8 * kHeldTiles * room.tall * sizeof(X));
  room.units = places.take(2 * kTokens * kUnitsApart * sizeof(X));
  room.scratch = places.take(kWarps * kTokens * kScratchApart * sizeof(float));
  room.stages_begin = places.bytes;
  room.stages = stages_for(room.stages_begin, room.stage, kStatic);
  return room;
}

// What a launch leaves: a part for every stretch of a block's tiles that have one group, at the place block + sentence
// of its first tile. From a tile to the next one block + sentence grows by 0, 1 or 2, by at least 1 where another
// stretch begins. Where it grows by 2, a block after a sentence, the place between has no owner: the sentence's last
// tile says so, and whoever begins a stretch there says otherwise afterwards.
struct LowRankParts {
  float* sums;  // (places, part): for all lora_A (units, in_features), then for each lora_B (units, out_features)
  int* owners;  // (places): the group, or -1
};

// A block's sums over its tokens.
struct HeldSums {
  float A[kHeldColumns][kHeldTiles][4], B[kHeldColumns][kHeldTiles][4];

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int t = 0; t < kHeldColumns; ++t) {
#pragma unroll
      for (int u = 0; u < kHeldTiles; ++u) {
#pragma unroll
        for (int i = 0; i < 4; ++i) A[t][u][i] = B[t][u][i] = 0;
      }
    }
  }
};

__device__ __forceinline__ int held_column(int t) { return kTogether * (warp_of_block() + kWarps * t); }

// to[unit][column] for the columns that exist, of a lane's sums of (16 columns, 8 units).
__device__ __forceinline__ void write_sums(float* to, int width, int column, const float (&sums)[4]) {
  const int own = column + lane_token(), unit = lane_column() / 4;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int at = own + i / 2 * 8;
    if (at < width) to[(unit + i % 2) * width + at] = sums[i];
  }
}

template <typename X>
__device__ __forceinline__ void write_part(
    const LowRank<X, X>& call, const LowRankRoom& room, float* to, const HeldSums& sums) {
#pragma unroll
  for (int t = 0; t < kHeldColumns; ++t) {
#pragma unroll
    for (int u = 0; u < kHeldTiles; ++u) {
      if (u >= room.tiles) continue;
      const auto& [layer, first, rows] = room.of_tile[u];
      const int out = call.of[layer].out;
      write_sums(to + 8 * u * call.in_features, call.in_features, held_column(t), sums.A[t][u]);
      write_sums(to + room.B_part[layer] + first * out, out, held_column(t), sums.B[t][u]);
    }
  }
}

}  // namespace hyperloader::cuda
