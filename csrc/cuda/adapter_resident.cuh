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

#include "given_matrix.cuh"
#include "shared_moments.cuh"

namespace hyperloader::cuda {

// With v of a tile in kKept parts of 32 columns a warp, two blocks of few hidden units share a multiprocessor.
constexpr int kFewKept = 2, kMostKept = 4;
constexpr int64_t kept_columns(int kept) { return int64_t{kept} * kWarps * kStep; }

// Where what a block holds begins in its shared memory, in bytes.
struct Room {
  int64_t down, up, a, vectors, tiles, tile;
  int stages;  // none where it does not fit

  template <typename X>
  static Room of(int64_t hidden, int64_t bottleneck) {
    constexpr int64_t kStatic = 22 << 10, kNumber = sizeof(float);
    const int64_t wide = padded(hidden), thin = padded(bottleneck);
    const int64_t matrix = wide * thin * static_cast<int64_t>(sizeof(X));
    SharedPlaces places;
    Room room{};
    room.down = places.take(matrix);
    room.up = places.take(matrix);
    room.a = places.take(HeldRows<X>::bytes(thin));
    room.vectors = places.take((3 * wide + thin) * kNumber);  // the last of them is short
    room.tiles = places.bytes;
    room.tile = HeldRows<X>::bytes(wide);
    room.stages = stages_for(room.tiles, room.tile, kStatic);
    return room;
  }
  int64_t bytes() const { return tiles + stages * tile; }
};

enum Vector { kUpBias, kNormWeight, kNormBias, kDownBias, kVectors };

template <typename X>
struct Resident {
  Tokens tokens;
  int hidden, bottleneck;
  const X* x;
  X* y;
  float* pre;
  GivenMatrix down, up;
  Given vectors[kVectors];
  Activation activation;
  float eps;
  Room room;
};

template <typename X, bool kNorm, int kKept>
__global__ void __launch_bounds__(kThreads, kKept == kFewKept ? 2 : 1)
    resident_adapter_kernel(const __grid_constant__ Resident<X> call) {
  __shared__ Partial<float> partial;
  __shared__ SharedMoments moments;
  unsigned char* const shared = dynamic_shared<unsigned char>();
  const Room& room = call.room;
  X* const down = reinterpret_cast<X*>(shared + room.down);
  X* const up = reinterpret_cast<X*>(shared + room.up);
  const int hidden = call.hidden, bottleneck = call.bottleneck;
  const int wide = static_cast<int>(padded(hidden)), thin = static_cast<int>(padded(bottleneck));
  const HeldRows<X> a(reinterpret_cast<X*>(shared + room.a), thin);
  float* const vectors = reinterpret_cast<float*>(shared + room.vectors);
  const float *const up_bias = vectors + kUpBias * wide, *const norm_weight = vectors + kNormWeight * wide,
                     *const norm_bias = vectors + kNormBias * wide, *const down_bias = vectors + kDownBias * wide;
  const float inverse_hidden = 1.0f / static_cast<float>(hidden);
  const auto rows = [&](int slot) {
    return HeldRows<X>(reinterpret_cast<X*>(shared + room.tiles + slot * static_cast<int>(room.tile)), wide);
  };

  __shared__ Arrival arrivals[kMostStages];
  const auto begin = [&](const Walk& tile, int slot) {
    const X* const from = call.x + tile.first(call.tokens) * hidden;
    const int count = tile.count(call.tokens);
    if (!copies_rows()) return rows(slot).fetch(from, hidden, count);
    if (threadIdx.x == 0) arrivals[slot].expect(count * hidden * static_cast<int>(sizeof(X)));
    rows(slot).fetch_rows(from, hidden, count, arrivals[slot]);
  };
  int group = -1;
  const auto change = [&](const Walk& tile) {
    const int own = tile.group(call.tokens);
    if (own == group) return false;
    group = own;
    call.down.template copy<X>(down, group);
    call.up.template copy<X>(up, group);
#pragma unroll 1
    for (int i = threadIdx.x * 8; i < kDownBias * wide + thin; i += kThreads * 8) {
      const int vector = i < kDownBias * wide ? i / wide : kDownBias, column = i - vector * wide;
      const int width = vector == kDownBias ? bottleneck : hidden;
      if (call.vectors[vector].from.data == nullptr) continue;
      store_shared(vectors + i, call.vectors[vector].template load_8<float>(group, 0, column, width - column));
    }
    return true;
  };
  moments.count(hidden);
  if (copies_rows()) {
    for (int slot = 0; slot < room.stages; ++slot) rows(slot).clear_padding(hidden);
  }

  each_tile(call.tokens, room.stages, arrivals, begin, change, [&](const Walk& tile, int slot) {
    const HeldRows<X> x = rows(slot);
    const int64_t first = tile.first(call.tokens);
    const int count = tile.count(call.tokens);
    float* const pre = call.pre + first * bottleneck;
    shrink(
        thin, partial, [&](Tile<float>& sum, int unit) { add_products(sum, x, Blocked<X>{down, wide}, unit); },
        [&](int token, int unit, float sum) {
          sum += down_bias[unit];
          if (token < count && unit < bottleneck) pre[token * bottleneck + unit] = sum;
          a.at(token, unit) = static_cast<X>(activate(call.activation, sum).value);
        });

    Tile<float> v[kKept];
    float mean[2] = {}, rstd[2] = {};
    const auto each_kept = [&](const auto& visit) {
#pragma unroll
      for (int k = 0; k < kKept; ++k) {
        const int column = (k * kWarps + warp_of_block()) * kStep;
        if (column + lane_column() >= hidden) break;
        visit(v[k], column + lane_column());
      }
    };
    const Blocked<X> matrix{up, thin};
    const Expand<X> products(a, matrix);
#pragma unroll
    for (int k = 0; k < kKept; ++k) {
      const int column = (k * kWarps + warp_of_block()) * kStep;
      if (column >= hidden) break;
      const auto bias = load<8>(up_bias + column + lane_column(), 8, true);
#pragma unroll
      for (int h = 0; h < 2; ++h) {
#pragma unroll
        for (int i = 0; i < 8; ++i) v[k].at(h, i) = bias.at[i];
      }
      products.add(v[k], column);
    }
    if constexpr (kNorm) {
      each_kept([&](Tile<float>& own, int) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
#pragma unroll
          for (int i = 0; i < 8; ++i) mean[h] += own.at(h, i);
        }
      });
      moments.add_up(mean, rstd, inverse_hidden, call.eps, [&](const float (&mean)[2], float (&squares)[2]) {
        each_kept([&](Tile<float>& own, int) {
#pragma unroll
          for (int h = 0; h < 2; ++h) {
#pragma unroll
            for (int i = 0; i < 8; ++i) squares[h] += (own.at(h, i) - mean[h]) * (own.at(h, i) - mean[h]);
          }
        });
      });
    }
    X* const y = call.y + (first + lane_token()) * hidden;
    const float shift[2] = {-mean[0] * rstd[0], -mean[1] * rstd[1]};
    each_kept([&](Tile<float>& own, int column) {
      if constexpr (kNorm) {
        const auto weight = load<8>(norm_weight + column, 8, true), bias = load<8>(norm_bias + column, 8, true);
#pragma unroll
        for (int h = 0; h < 2; ++h) {
#pragma unroll
          for (int i = 0; i < 8; ++i) {
            own.at(h, i) = (own.at(h, i) * rstd[h] + shift[h]) * weight.at[i] + bias.at[i];
          }
        }
      }
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const auto residual = widened(x.template load<8>(h, column));
        Numbers<X, 8> result;
#pragma unroll
        for (int i = 0; i < 8; ++i) result.at[i] = static_cast<X>(residual.at[i] + own.at(h, i));
        if (lane_token() + 8 * h < count) store<8>(y + 8 * h * hidden + column, result, 8, true);
      }
    });
  });
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
  call.down = given_matrix<X>(weights.down_weight, given.down, grouped);
  call.up = given_matrix<X>(weights.up_weight, given.up, grouped);
  call.vectors[kUpBias] = given.up_bias;
  call.vectors[kNormWeight] = given.norm_weight;
  call.vectors[kNormBias] = given.norm_bias;
  call.vectors[kDownBias] = given.down_bias;
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
