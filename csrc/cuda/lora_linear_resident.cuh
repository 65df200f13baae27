// The backward of lora_linear in half precision where the factors of all layers and two tiles of x and of all
// gradients fit into a block's shared memory.
//
// A block walks over neighbouring tiles of 16 tokens and reads each number of x and of the gradients once: a tile's
// numbers become units, and then, still in shared memory, meet those units in the sums over the tokens for lora_A and
// lora_B. A warp keeps the sums of every eighth 16 columns of each matrix in registers until the walk ends or comes to
// another group, and then writes them as one part; `reduce` adds the parts up. Of T tokens, and P parts of R · (in + Σ
// out / layers) float32 sums:
//
//     memory         b · T · (2 in + Σ out) + 4 · P · R · (in + Σ out / layers)
//     operations     2 · T · R · (3 in + 2 Σ out / layers)
//     launches       2, with the sum of the parts
#pragma once

#include "lora_linear_room.cuh"

namespace hyperloader::cuda {

// What a block sees of a call.
template <typename X>
class HeldBlock {
 public:
  const LowRank<X, X>& call;
  const LowRankRoom& room;

  __device__ HeldBlock(const LowRank<X, X>& call, const LowRankRoom& room)
      : call(call),
        room(room),
        shared_(dynamic_shared<unsigned char>()),
        A_(reinterpret_cast<X*>(shared_ + room.A)),
        B_(reinterpret_cast<X*>(shared_ + room.B)),
        units_of_x_(reinterpret_cast<X*>(shared_ + room.units)),
        units_of_grad_(units_of_x_ + kTokens * kUnitsApart),
        scratch_(reinterpret_cast<float*>(shared_ + room.scratch)),
        wide_(static_cast<int>(padded(call.in_features))),
        A_stride_(static_cast<int>(apart(wide_))) {
#pragma unroll
    for (int u = 0; u < kHeldTiles; ++u) {
      outs_[u] = u < room.tiles ? call.of[room.of_tile[u].layer].out : 0;
      strides_[u] = static_cast<int>(apart(padded(outs_[u])));
      rows_[u] = u < room.tiles ? room.of_tile[u].rows : 0;
    }
  }

  // What no copy brings: columns and units that do not exist.
  __device__ void clear_padding() const {
    if (copies_rows()) {
      for (int slot = 0; slot < room.stages; ++slot) {
        each_matrix(slot, [](const HeldRows<X>& rows, const X*, int width) { rows.clear_padding(width); });
      }
    }
    const int end = 8 * kHeldTiles * A_stride_;
    for (int i = call.units * A_stride_ + static_cast<int>(threadIdx.x); i < end; i += kThreads) A_[i] = X(0);
  }

  // Begins to copy a tile's rows.
  __device__ __forceinline__ void begin(int64_t first, int count, int slot, Arrival& arrival) const {
    if (copies_rows() && threadIdx.x == 0) {
      int width = call.in_features;
      for (int i = 0; i < call.count; ++i) width += call.of[i].out;
      arrival.expect(count * width * static_cast<int>(sizeof(X)));
    }
    each_matrix(slot, [&](const HeldRows<X>& rows, const X* from, int width) {
      if (copies_rows()) {
        rows.fetch_rows(from + first * width, width, count, arrival);
      } else {
        rows.fetch(from + first * width, width, count);
      }
    });
  }

  // Begins to copy a group's factors.
  __device__ void copy_factors(int group) const {
    for (int i = 0; i < call.count; ++i) {
      const Projection<X, X>& layer = call.of[i];
      const X* const from = layer.A + group * layer.A_stride;
      for (int at = threadIdx.x * 8; at < layer.units * wide_; at += kThreads * 8) {
        copy_async_16(A_ + (layer.first + at / wide_) * A_stride_ + at % wide_, from + at, true);
      }
    }
    for (int u = 0; u < room.tiles; ++u) {
      const Projection<X, X>& layer = call.of[room.of_tile[u].layer];
      const X* const from = layer.B + group * layer.B_stride + room.of_tile[u].first;
      for (int row = threadIdx.x; row < padded(layer.out); row += kThreads) {
        copy_async_16(B_ + (u * room.tall + row) * 8, from + row * layer.units, true);
      }
    }
  }

  // Zeros for the tokens that do not exist: what another tile has left would be summed.
  __device__ void clear_tokens(int slot, int count) const {
    each_matrix(slot, [&](const HeldRows<X>& rows, const X*, int) {
      for (int i = threadIdx.x; i < (kTokens - count) * rows.width; i += kThreads) {
        rows.at(count + i / rows.width, i % rows.width) = X(0);
      }
    });
    write_before_rows();
    __syncthreads();
  }

  // A tile's numbers to units, those of x and those of the gradients. The threads meet before and after they add up.
  __device__ __forceinline__ void shrink(int slot) const {
    const X* const tile = x_of(slot).numbers;
    const int lane = lane_of_warp();
    float found[2][kHeldTiles][4] = {};
#pragma unroll
    for (int t = 0; t < kHeldColumns; ++t) {
      const int column = held_column(t);
      if (column < call.in_features) {
        const uint4 a = as_rows(tile, A_stride_, column);
        const uint4 w = load_matrices(A_ + (lane % 8 + lane / 16 * 8) * A_stride_ + column + lane / 8 % 2 * 8);
        tensor_core_product<X>(found[0][0], {a.x, a.y, a.z, a.w}, {w.x, w.y});
        tensor_core_product<X>(found[0][1], {a.x, a.y, a.z, a.w}, {w.z, w.w});
      }
      if (column < room.tall) {
        const uint4 w = load_matrices_across(B_ + (lane / 16 * room.tall + column + lane % 16) * 8);
#pragma unroll
        for (int u = 0; u < kHeldTiles; ++u) {
          if (column >= outs_[u]) continue;
          const uint4 a = as_rows(tile + rows_[u], strides_[u], column);
          tensor_core_product<X>(found[1][u], {a.x, a.y, a.z, a.w}, {u == 0 ? w.x : w.z, u == 0 ? w.y : w.w});
        }
      }
    }
    float* const own = own_scratch() + lane_token() * kScratchApart + lane_column() / 4;
#pragma unroll
    for (int of = 0; of < 2; ++of) {
#pragma unroll
      for (int u = 0; u < kHeldTiles; ++u) {
        const float (&sums)[4] = found[of][u];
        float* const to = own + 8 * (kHeldTiles * of + u);
        *reinterpret_cast<Numbers<float, 2>*>(to) = {{sums[0], sums[1]}};
        *reinterpret_cast<Numbers<float, 2>*>(to + 8 * kScratchApart) = {{sums[2], sums[3]}};
      }
    }
    __syncthreads();
    static_assert(2 * kThreads == kTokens * 2 * 8 * kHeldTiles);
    const int token = static_cast<int>(threadIdx.x) / 16, place = static_cast<int>(threadIdx.x) % 16 * 2;
    float sums[2] = {};
#pragma unroll
    for (int warp = 0; warp < kWarps; ++warp) {
      const auto part = load<2>(scratch_ + (warp * kTokens + token) * kScratchApart + place, 2, true);
      sums[0] += part.at[0];
      sums[1] += part.at[1];
    }
    X* const to = place < 8 * kHeldTiles ? units_of_x_ + place : units_of_grad_ + place - 8 * kHeldTiles;
    *reinterpret_cast<uint32_t*>(to + token * kUnitsApart) = pack<X>(call.scaling * sums[0], call.scaling * sums[1]);
    __syncthreads();
  }

  // Units to the sums over the tokens, and to what reaches x, whose rows begin at `to`.
  __device__ __forceinline__ void add(HeldSums& sums, int slot, int count, X* to) const {
    const X* const tile = x_of(slot).numbers;
    const int lane = lane_of_warp(), of_units = lane % 16 * kUnitsApart + lane / 16 * 8;
    const uint4 x_terms = load_matrices_across(units_of_x_ + of_units);
    const uint4 grad_terms = load_matrices_across(units_of_grad_ + of_units);
    const uint4 rows = load_matrices(units_of_grad_ + of_units);
    to += lane / 2 * call.in_features + lane % 2 * 8;
#pragma unroll
    for (int t = 0; t < kHeldColumns; ++t) {
      const int column = held_column(t);
      if (column < call.in_features) {
        const uint4 a = as_columns(tile, A_stride_, column);
        tensor_core_product<X>(sums.A[t][0], {a.x, a.y, a.z, a.w}, {grad_terms.x, grad_terms.y});
        tensor_core_product<X>(sums.A[t][1], {a.x, a.y, a.z, a.w}, {grad_terms.z, grad_terms.w});
        const uint4 w = load_matrices_across(A_ + lane % 16 * A_stride_ + column + lane / 16 * 8);
        float through[2][4] = {};
        tensor_core_product<X>(through[0], {rows.x, rows.y, rows.z, rows.w}, {w.x, w.y});
        tensor_core_product<X>(through[1], {rows.x, rows.y, rows.z, rows.w}, {w.z, w.w});
        const uint4 result = in_rows(through);
        if (lane / 2 < count && column + lane % 2 * 8 < call.in_features) store_16(to + column, result);
      }
#pragma unroll
      for (int u = 0; u < kHeldTiles; ++u) {
        if (column >= outs_[u]) continue;
        const uint4 a = as_columns(tile + rows_[u], strides_[u], column);
        tensor_core_product<X>(
            sums.B[t][u], {a.x, a.y, a.z, a.w}, {u == 0 ? x_terms.x : x_terms.z, u == 0 ? x_terms.y : x_terms.w});
      }
    }
  }

 private:
  __device__ float* own_scratch() const { return scratch_ + warp_of_block() * kTokens * kScratchApart; }
  __device__ HeldRows<X> x_of(int slot) const {
    return {reinterpret_cast<X*>(shared_ + room.stages_begin + slot * static_cast<int>(room.stage)), wide_};
  }
  // visit(rows, where they come from, their width) of x and of the gradients, which follow each other in a stage.
  template <typename Visit>
  __device__ __forceinline__ void each_matrix(int slot, const Visit& visit) const {
    HeldRows<X> rows = x_of(slot);
    visit(rows, call.x, call.in_features);
    for (int i = 0; i < call.count; ++i) {
      rows = HeldRows<X>(rows.numbers + kTokens * rows.stride, static_cast<int>(padded(call.of[i].out)));
      visit(rows, call.of[i].grad, call.of[i].out);
    }
  }
  // 16 columns as the tensor cores' first operand: (tokens, columns), and (columns, tokens).
  static __device__ __forceinline__ uint4 as_rows(const X* numbers, int stride, int column) {
    const int lane = lane_of_warp();
    return load_matrices(numbers + lane % 16 * stride + column + lane / 16 * 8);
  }
  static __device__ __forceinline__ uint4 as_columns(const X* numbers, int stride, int column) {
    const int lane = lane_of_warp();
    return load_matrices_across(numbers + (lane % 8 + lane / 16 * 8) * stride + column + lane / 8 % 2 * 8);
  }
  // Of two neighbouring results (tokens, 8) 8 columns for each lane: the row lane / 2, by way of the warp's scratch.
  __device__ __forceinline__ uint4 in_rows(const float (&results)[2][4]) const {
    constexpr int kStagedApart = kTogether + 8;
    X* const staged = reinterpret_cast<X*>(own_scratch());
    const int lane = lane_of_warp();
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const auto& own = results[i % 2];
      const int token = lane_token() + i / 2 * 8, at = lane_column() / 4 + i % 2 * 8;
      *reinterpret_cast<uint32_t*>(staged + token * kStagedApart + at) = pack<X>(own[i / 2 * 2], own[i / 2 * 2 + 1]);
    }
    __syncwarp();
    const uint4 found = *reinterpret_cast<const uint4*>(staged + lane / 2 * kStagedApart + lane % 2 * 8);
    __syncwarp();
    return found;
  }

  unsigned char* shared_;
  X *A_, *B_, *units_of_x_, *units_of_grad_;
  float* scratch_;
  int wide_, A_stride_;
  int outs_[kHeldTiles], strides_[kHeldTiles], rows_[kHeldTiles];  // of the gradients' rows, and where they begin
};

template <typename X>
__global__ void __launch_bounds__(kThreads, 1) resident_low_rank_kernel(
    const __grid_constant__ LowRank<X, X> call, const __grid_constant__ LowRankRoom room, const LowRankParts parts) {
  const HeldBlock<X> block(call, room);
  __shared__ Arrival arrivals[kMostStages];
  block.clear_padding();
  HeldSums sums;
  sums.clear();
  int group = -1;
  int64_t place = 0;
  const auto end_part = [&] {
    if (threadIdx.x == 0) parts.owners[place] = group;
    write_part(call, room, parts.sums + place * room.part, sums);
    sums.clear();
  };
  const auto begin = [&](const Walk& tile, int slot) {
    block.begin(tile.first(call.tokens), tile.count(call.tokens), slot, arrivals[slot]);
  };
  const auto change = [&](const Walk& tile) {
    const int own = tile.group(call.tokens);
    if (own == group) return false;
    if (group >= 0) end_part();
    group = own;
    place = blockIdx.x + tile.sentence();
    block.copy_factors(group);
    return true;
  };
  each_tile(call.tokens, room.stages, arrivals, begin, change, [&](const Walk& tile, int slot) {
    const int count = tile.count(call.tokens);
    if (copies_rows() && count < kTokens) block.clear_tokens(slot, count);
    if (threadIdx.x == 0 && tile.ends(call.tokens)) parts.owners[blockIdx.x + tile.sentence() + 1] = -1;
    block.shrink(slot);
    block.add(sums, slot, count, static_cast<X*>(call.grad_x) + tile.first(call.tokens) * call.in_features);
  });
  end_part();
}

}  // namespace hyperloader::cuda
