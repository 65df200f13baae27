// The adapter's forward in half precision where a group's weights fit into shared memory: one launch, whatever the
// number of tokens. x is read and y is written once; the weights are read as they are, once a block and group.
//
// The eight warps share the hidden units of a tile. v = up · a + up_bias of a tile stays in registers until its mean
// and variance are known, so that `up` is read once a tile.
//
// From memory: 2 tokens hidden numbers, and tokens bottleneck float32 for the backward. From the second cache: the two
// matrices, once a block and group. Shared memory for t5-base (768, 24 as 32): 96 KiB of matrices, 9 of vectors, 18 of
// partial sums, 25 a tile, so one block a multiprocessor of sm_90 with three tiles; MiniLM (384): two blocks.
#pragma once

#include "adapter.cuh"
#include "resident.cuh"

namespace hyperloader::cuda {

// A matrix of each group as it is given; `whole`: its rows are whole 16 bytes of X.
struct GivenMatrix {
  Given given;
  bool whole;

  // Eight numbers of a row to shared memory, zeros from `rows` and `columns` on.
  template <typename X>
  __device__ __forceinline__ void copy(X* to, int64_t group, int row, int column, int rows, int columns) const {
    if (whole) {
      const X* const from = static_cast<const X*>(given.from.data);
      const bool valid = row < rows && column < columns;
      const int64_t at = group * given.group_stride + row * given.row_stride + column;
      copy_async_16(to, from + (valid ? at : 0), valid);
      return;
    }
    for (int i = 0; i < 8; ++i) {
      const bool valid = row < rows && column + i < columns;
      to[i] = static_cast<X>(valid ? given.template load<float>(group, row, column + i) : 0.0f);
    }
  }
};

// With v of a tile in kKept parts of 32 columns a warp, two blocks of few hidden units share a multiprocessor.
constexpr int kFewKept = 2, kMostKept = 4;
constexpr int64_t kept_columns(int kept) { return int64_t{kept} * kWarps * kStep; }

// Where what a block holds begins in its shared memory, in bytes.
struct Room {
  int64_t down, up, a, down_bias, vectors, tiles, tile;
  int stages;  // none where it does not fit

  template <typename X>
  static Room of(int64_t hidden, int64_t bottleneck) {
    constexpr int64_t kStatic = 18 << 10, kNumber = sizeof(float);
    const int64_t wide = padded(hidden), thin = padded(bottleneck);
    const int64_t matrix = wide * thin * static_cast<int64_t>(sizeof(X));
    SharedPlaces places;
    Room room{};
    room.down = places.take(matrix);
    room.up = places.take(matrix);
    room.a = places.take(HeldRows<X>::bytes(thin));
    room.down_bias = places.take(thin * kNumber);
    room.vectors = places.take(3 * wide * kNumber);
    room.tiles = places.bytes;
    room.tile = HeldRows<X>::bytes(wide);
    room.stages = stages_for(room.tiles, room.tile, kStatic);
    return room;
  }
  int64_t bytes() const { return tiles + stages * tile; }
};

template <typename X>
struct Resident {
  Tokens tokens;
  int hidden, bottleneck;
  const X* x;
  X* y;
  float* pre;
  GivenMatrix down, up;
  Given down_bias, up_bias, norm_weight, norm_bias;
  Activation activation;
  float eps;
  Room room;
};

// Sums of a lane's two tokens over all lanes and warps that share them.
__device__ __forceinline__ void sum_over_block(float (&own)[2], float (&kept)[kWarps][kTokens]) {
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    own[h] += __shfl_xor_sync(kAllLanes, own[h], 1);
    own[h] += __shfl_xor_sync(kAllLanes, own[h], 2);
    if (lane_column() == 0) kept[warp_of_block()][lane_token() + 8 * h] = own[h];
  }
  __syncthreads();
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    own[h] = 0;
#pragma unroll
    for (int warp = 0; warp < kWarps; ++warp) own[h] += kept[warp][lane_token() + 8 * h];
  }
}

template <typename X, bool kNorm, int kKept>
__global__ void __launch_bounds__(kThreads, kKept == kFewKept ? 2 : 1)
    resident_adapter_kernel(const __grid_constant__ Resident<X> call) {
  __shared__ Partial<float> partial;
  __shared__ float sums[2][kWarps][kTokens];
  unsigned char* const shared = dynamic_shared<unsigned char>();
  const Room& room = call.room;
  X* const down = reinterpret_cast<X*>(shared + room.down);
  X* const up = reinterpret_cast<X*>(shared + room.up);
  const int hidden = call.hidden, bottleneck = call.bottleneck;
  const int wide = static_cast<int>(padded(hidden)), thin = static_cast<int>(padded(bottleneck));
  const HeldRows<X> a(reinterpret_cast<X*>(shared + room.a), thin);
  float* const down_bias = reinterpret_cast<float*>(shared + room.down_bias);
  float* const up_bias = reinterpret_cast<float*>(shared + room.vectors);
  float *const norm_weight = up_bias + wide, *const norm_bias = norm_weight + wide;
  const auto rows = [&](int slot) {
    return HeldRows<X>(reinterpret_cast<X*>(shared + room.tiles + slot * room.tile), wide);
  };

  const auto begin = [&](int64_t tile, int slot) {
    rows(slot).fetch(call.x + call.tokens.first(tile) * hidden, hidden, call.tokens.count(tile));
  };
  int64_t group = -1;
  const auto change = [&](int64_t tile) {
    const int64_t own = call.tokens.group_of_tile(tile);
    if (own == group) return false;
    group = own;
    for (int unit = warp_of_block(); unit < thin; unit += kWarps) {
      for (int column = threadIdx.x % 32 * 8; column < wide; column += 32 * 8) {
        call.down.copy(down + fragment(unit, column, wide), group, unit, column, bottleneck, hidden);
      }
    }
    for (int i = threadIdx.x; i < wide * thin / 8; i += kThreads) {
      const int column = i / (thin / 8), unit = i % (thin / 8) * 8;
      call.up.copy(up + fragment(column, unit, thin), group, column, unit, hidden, bottleneck);
    }
    for (int i = threadIdx.x; i < thin; i += kThreads)
      down_bias[i] = i < bottleneck ? call.down_bias.template load<float>(group, 0, i) : 0;
    for (int i = threadIdx.x; i < wide; i += kThreads) {
      up_bias[i] = i < hidden ? call.up_bias.template load<float>(group, 0, i) : 0;
      if constexpr (kNorm) {
        norm_weight[i] = i < hidden ? call.norm_weight.template load<float>(group, 0, i) : 0;
        norm_bias[i] = i < hidden ? call.norm_bias.template load<float>(group, 0, i) : 0;
      }
    }
    return true;
  };

  each_tile(call.tokens.tiles(), room.stages, begin, change, [&](int64_t tile, int slot) {
    const HeldRows<X> x = rows(slot);
    const int64_t first = call.tokens.first(tile);
    const int count = call.tokens.count(tile);
    shrink(
        thin, partial, [&](Tile<float>(&sum)[1], int64_t unit) { add_products(sum, x, Blocked<X>{down, wide}, unit); },
        [&](int token, int64_t unit, float sum) {
          sum += down_bias[unit];
          if (token < count && unit < bottleneck) call.pre[(first + token) * bottleneck + unit] = sum;
          a.at(token, unit) = static_cast<X>(activate(call.activation, sum).value);
        });

    Tile<float> v[kKept];
    float mean[2] = {};
#pragma unroll
    for (int k = 0; k < kKept; ++k) {
      const int column = (k * kWarps + warp_of_block()) * kStep;
      if (column >= hidden) break;
#pragma unroll 1
      for (int term = 0; term < thin; term += kStep) {
        multiply(v[k], a, term, Blocked<X>{up, thin}, column);
      }
      const auto bias = load<8>(up_bias + column + lane_column(), 8, true);
#pragma unroll
      for (int h = 0; h < 2; ++h) {
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          v[k].at(h, i) += bias.at[i];
          mean[h] += v[k].at(h, i);
        }
      }
    }
    float rstd[2] = {};
    if constexpr (kNorm) {
      sum_over_block(mean, sums[0]);
#pragma unroll
      for (int h = 0; h < 2; ++h) mean[h] /= hidden;
#pragma unroll
      for (int k = 0; k < kKept; ++k) {
        if ((k * kWarps + warp_of_block()) * kStep + lane_column() >= hidden) break;
#pragma unroll
        for (int h = 0; h < 2; ++h) {
#pragma unroll
          for (int i = 0; i < 8; ++i) {
            v[k].at(h, i) -= mean[h];
            rstd[h] += v[k].at(h, i) * v[k].at(h, i);
          }
        }
      }
      sum_over_block(rstd, sums[1]);
#pragma unroll
      for (int h = 0; h < 2; ++h) rstd[h] = 1 / ::sqrt(rstd[h] / hidden + call.eps);
    }
#pragma unroll
    for (int k = 0; k < kKept; ++k) {
      const int column = (k * kWarps + warp_of_block()) * kStep, own = column + lane_column();
      if (own >= hidden) break;
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        if constexpr (kNorm) {
          const auto weight = load<8>(norm_weight + own, 8, true), bias = load<8>(norm_bias + own, 8, true);
#pragma unroll
          for (int i = 0; i < 8; ++i) v[k].at(h, i) = v[k].at(h, i) * rstd[h] * weight.at[i] + bias.at[i];
        }
        Numbers<X, 8> result = x.template load<8>(h, own);
#pragma unroll
        for (int i = 0; i < 8; ++i) result.at[i] = static_cast<X>(static_cast<float>(result.at[i]) + v[k].at(h, i));
        const int token = lane_token() + 8 * h;
        if (token < count) store<8>(call.y + (first + token) * hidden + own, result, 8, true);
      }
    }
  });
}

// Whether the rows of a matrix are whole 16 bytes, for asynchronous copies.
template <typename X>
bool rows_whole(const Tensor& matrix, bool grouped) {
  constexpr int64_t kTogether = 16 / sizeof(X);
  return matrix.stride(-1) == 1 && matrix.size(-1) % kTogether == 0 && matrix.stride(-2) % kTogether == 0 &&
         (!grouped || matrix.stride(0) % kTogether == 0) &&
         reinterpret_cast<uintptr_t>(matrix.const_data_ptr()) % 16 == 0;
}

// The room that the block needs, with as many tiles as fit; none where the weights must be read from the second cache.
template <typename X>
std::optional<Room> resident_room(const Tensor& x, const Tensor& y, const AdapterOptions& options) {
  if (has_inner(options.norm) || options.hidden > kept_columns(kMostKept)) return std::nullopt;
  if (!rows_aligned(x.const_data_ptr<X>(), options.hidden) || !rows_aligned(y.const_data_ptr<X>(), options.hidden)) {
    return std::nullopt;
  }
  const Room room = Room::of<X>(options.hidden, options.bottleneck);
  return room.stages > 0 ? std::optional(room) : std::nullopt;
}

template <typename X>
void run_resident(
    const Room& room, const Tensor& x, const AdapterWeights& weights, const Optional& group,
    const AdapterOptions& options, double eps, const Tensor& y, const Tensor& pre) {
  const bool grouped = group.has_value(), norm = has_outer(options.norm);
  Resident<X> call{};
  call.tokens = tokens_of(x, group, options.groups);
  call.hidden = static_cast<int>(options.hidden);
  call.bottleneck = static_cast<int>(options.bottleneck);
  call.x = x.const_data_ptr<X>();
  call.y = y.mutable_data_ptr<X>();
  call.pre = pre.mutable_data_ptr<float>();
  const GivenAdapter given(weights, options, grouped);
  call.down = {given.down, rows_whole<X>(weights.down_weight, grouped)};
  call.up = {given.up, rows_whole<X>(weights.up_weight, grouped)};
  call.down_bias = given.down_bias;
  call.up_bias = given.up_bias;
  call.norm_weight = given.norm_weight;
  call.norm_bias = given.norm_bias;
  call.activation = options.activation;
  call.eps = static_cast<float>(eps);
  call.room = room;
  const bool few = options.hidden <= kept_columns(kFewKept);
  const auto kernel =
      norm  ? few ? resident_adapter_kernel<X, true, kFewKept> : resident_adapter_kernel<X, true, kMostKept>
      : few ? resident_adapter_kernel<X, false, kFewKept>
            : resident_adapter_kernel<X, false, kMostKept>;
  const int64_t blocks = std::min(call.tokens.tiles(), blocks_at_once(kernel, kThreads, room.bytes()));
  launch(kernel, dim3(blocks), dim3(kThreads), room.bytes(), call);
}

}  // namespace hyperloader::cuda
