// The adapter's backward in half precision where a group's weights fit into shared memory.
#pragma once

#include "adapter_backward.cuh"
#include "resident.cuh"

namespace hyperloader::cuda {

// Where what a block holds begins in its shared memory, in bytes.
struct BackwardRoom {
  int64_t shrink, expand, norm_weight, moments, numbers, units, stages_begin, pre, stage;
  int stages;  // none where it does not fit

  template <typename C>
  static BackwardRoom of(int64_t hidden, int64_t bottleneck) {
    constexpr int64_t kStatic = 22 << 10, kNumber = sizeof(float);
    const int64_t wide = padded(hidden), thin = padded(bottleneck), columns = bottleneck + 1;
    SharedPlaces places;
    BackwardRoom room{};
    room.shrink = places.take(padded(columns + 1) * wide * static_cast<int64_t>(sizeof(C)));
    room.expand = places.take(wide * thin * static_cast<int64_t>(sizeof(C)));
    room.norm_weight = places.take(wide * kNumber);
    room.moments = places.take(columns * (columns + 1) * kNumber);  // and the means
    room.numbers = places.take(TileNumbers<float>::bytes(columns, kTokens));
    room.units = places.take(HeldRows<C>::bytes(thin));
    room.stages_begin = places.bytes;
    room.pre = HeldRows<C>::bytes(wide);
    room.stage = room.pre + kTokens * bottleneck * kNumber;
    room.stages = stages_for(room.stages_begin, room.stage, kStatic);
    return room;
  }
  int64_t bytes() const { return stages_begin + stages * stage; }
};

// A block walks over neighbouring tiles with its group's weights in shared memory.
template <typename X, bool kNorm>
__global__ void __launch_bounds__(kThreads, 2)
    resident_backward_kernel(const __grid_constant__ Backward<X, X> call, const __grid_constant__ BackwardRoom room) {
  __shared__ Partial<float> partial;
  unsigned char* const shared = dynamic_shared<unsigned char>();
  X *const shrink = reinterpret_cast<X*>(shared + room.shrink), *const expand =
                                                                    reinterpret_cast<X*>(shared + room.expand);
  float* const norm_weight = reinterpret_cast<float*>(shared + room.norm_weight);
  float* const moments = reinterpret_cast<float*>(shared + room.moments);
  const int hidden = static_cast<int>(call.weights.hidden), bottleneck = static_cast<int>(call.weights.bottleneck);
  const int columns = bottleneck + 1;
  const int wide = static_cast<int>(call.weights.wide()), thin = static_cast<int>(call.weights.thin());
  float* const few = reinterpret_cast<float*>(shared + room.numbers);
  const TileNumbers<float> numbers(
      few, few + TileNumbers<float>::bytes_of_p(columns, kTokens) / sizeof(float), columns, kTokens);
  const HeldRows<X> units(reinterpret_cast<X*>(shared + room.units), thin);
  const auto stage = [&](int slot) { return shared + room.stages_begin + slot * static_cast<int>(room.stage); };

  const auto rows = [&](int slot) { return HeldRows<X>(reinterpret_cast<X*>(stage(slot)), wide); };
  __shared__ Arrival arrivals[kMostStages];
  const auto begin = [&](const Walk& tile, int slot) {
    const int64_t first = tile.first(call.tokens);
    const int count = tile.count(call.tokens);
    const X* const grad = call.grad + first * hidden;
    const float* const pre = call.pre + first * bottleneck;
    float* const to = reinterpret_cast<float*>(stage(slot) + room.pre);
    if (copies_rows()) {
      const int bytes = count * bottleneck * static_cast<int>(sizeof(float));
      if (threadIdx.x == 0) {
        arrivals[slot].expect(bytes + count * hidden * static_cast<int>(sizeof(X)));
        arrivals[slot].copy(to, pre, bytes);
      }
      return rows(slot).fetch_rows(grad, hidden, count, arrivals[slot]);
    }
    rows(slot).fetch(grad, hidden, count);
    for (int i = threadIdx.x * 4; i < count * bottleneck; i += kThreads * 4) copy_async_16(to + i, pre + i, true);
  };
  if (copies_rows()) {
    for (int slot = 0; slot < room.stages; ++slot) rows(slot).clear_padding(hidden);
  }
  int group = -1;
  LaidOut<float, X> weights;
  const auto copy = [&](X* to, const X* from, int64_t count) {
    for (int64_t i = threadIdx.x * 8; i < count; i += kThreads * 8) copy_async_16(to + i, from + i, true);
  };
  const auto change = [&](const Walk& tile) {
    const int own = tile.group(call.tokens);
    if (own == group) return false;
    group = own;
    weights = call.weights.of_group(group);
    copy(shrink, weights.shrink, weights.units * wide);
    copy(expand, weights.expand, int64_t{thin} * wide);
    if constexpr (kNorm) {
      for (int i = threadIdx.x; i < wide; i += kThreads) norm_weight[i] = weights.norm_weight[i];
      for (int i = threadIdx.x; i < columns * columns; i += kThreads) moments[i] = weights.moments[i];
      for (int i = threadIdx.x; i < columns; i += kThreads) moments[columns * columns + i] = weights.means[i];
    }
    return true;
  };
  each_tile(call.tokens, room.stages, arrivals, begin, change, [&](const Walk& tile, int slot) {
    const int64_t first = tile.first(call.tokens);
    const int count = tile.count(call.tokens);
    X* const grad_x = call.grad_x + (first + lane_token()) * hidden;
    backward_tile<kNorm>(
        call, weights, Blocked<X>{shrink, wide}, Blocked<X>{expand, thin}, norm_weight,
        NormWeights<float>{moments, moments + columns * columns}, first, count, rows(slot),
        reinterpret_cast<const float*>(stage(slot) + room.pre), units, numbers, partial,
        [&](int h, int column, const Numbers<X, 8>& result) {
          if (lane_token() + 8 * h < count && column < hidden)
            store<8>(grad_x + 8 * h * hidden + column, result, 8, true);
        });
  });
}

}  // namespace hyperloader::cuda
