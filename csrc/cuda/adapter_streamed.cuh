// The adapter's forward in half precision where a group's weights do not fit into shared memory: they pass through it,
// once for a block's tokens.
#pragma once

#include "adapter_forward.cuh"
#include "streamed.cuh"

namespace hyperloader::cuda {

template <typename C, int kTall>
StreamedRoom streamed_room(int64_t bottleneck, bool norm) {
  const int64_t columns = bottleneck + 1, few = norm ? Few<float>::bytes(columns, kTokens * kTall) : 0;
  const int64_t moments = norm ? columns * columns * static_cast<int64_t>(sizeof(float)) : 0;
  return StreamedRoom::of<C, kTall>(bottleneck, few, /*after=*/few + moments);
}

template <typename X, bool kNorm, int kTall>
__global__ void __launch_bounds__(kThreads, kTall == 1 ? 2 : 1)
    streamed_adapter_kernel(const __grid_constant__ Forward<X, X> call, const __grid_constant__ StreamedRoom room) {
  constexpr int kHeight = kTokens * kTall;
  __shared__ OuterNorms<float, kHeight> norms;
  unsigned char* const shared = dynamic_shared<unsigned char>();
  const Walk tile(call.tokens, static_cast<int>(blockIdx.x));
  const int64_t first = tile.first(call.tokens);
  const int count = tile.count(call.tokens);
  const LaidOut<float, X> weights = call.weights.of_group(tile.group(call.tokens));
  const int hidden = static_cast<int>(weights.hidden), wide = static_cast<int>(weights.wide());
  const int thin = static_cast<int>(weights.thin());
  X* const a = reinterpret_cast<X*>(shared + room.units);
  const Few<float> few(reinterpret_cast<float*>(shared + room.few), weights.columns());
  float* const pre = call.pre + first * weights.bottleneck;
  shrink_streamed<kTall>(
      call.z + first * hidden, hidden, count, Blocked<X>{weights.shrink, wide}, thin,
      Pieces<X, kTall>(reinterpret_cast<X*>(shared + room.shared), kUnitSteps),
      *reinterpret_cast<Partial<float, kTall>*>(shared + room.shared),
      [](Terms(&terms)[kTall], const auto& held, int) {
#pragma unroll
        for (int m = 0; m < kTall; ++m) terms[m] = held(m);
      },
      [&](int token, int unit, float sum) {
        finish_unit<kNorm>(
            call, weights, pre, count, token, unit, sum,
            [&](int token, int unit) -> X& { return tile_of_rows(a, thin, token / kTokens).at(token % kTokens, unit); },
            few);
      });
  if constexpr (kNorm) {
    const int columns = static_cast<int>(weights.columns());
    const Few<float> moments_a(reinterpret_cast<float*>(shared + room.shared), columns);
    const float* const moments = hold(moments_a.of(kHeight), weights.moments, columns * columns);
    norms.find(few, moments_a, moments, weights, call.eps);
  }
  const Pieces<X, kTall> pieces(reinterpret_cast<X*>(shared + room.expand), thin / kStep);
  X* const y = call.y + (first + lane_token()) * hidden + lane_column();
  expand_streamed<kTall>(
      call.x + first * hidden, true, hidden, count, Blocked<X>{weights.expand, thin}, pieces, a,
      [&](int column, Tile<float>(&tiles)[kTall], int place) {
        if (column + lane_column() >= hidden) return;
#pragma unroll
        for (int h = 0; h < 2 * kTall; ++h) {
          const int token = lane_token() + 8 * h;
          float v[8];
#pragma unroll
          for (int i = 0; i < 8; ++i) v[i] = tiles[h / 2].at(h % 2, i);
          const auto result = finish_columns<kNorm, X, X>(
              weights, norms, token, column + lane_column(), v,
              pieces.rows(place, h / 2).template load<8>(h % 2, lane_column()));
          if (token < count) store<8>(y + 8 * h * hidden + column, result, 8, true);
        }
      });
}

template <typename C>
int streamed_tiles(const Tokens& tokens, int64_t hidden, int64_t bottleneck, bool norm) {
  return streamed_tiles(tokens, hidden, padded(bottleneck), bottleneck, [&]<int kTall>() {
    return streamed_room<C, kTall>(bottleneck, norm);
  });
}

template <typename X>
void run_streamed(Forward<X, X> call, int tall, bool norm) {
  with_tiles(call.tokens, tall, [&]<int kTall>(const Tokens& tokens) {
    call.tokens = tokens;
    const StreamedRoom room = streamed_room<X, kTall>(call.weights.bottleneck, norm);
    const auto kernel = norm ? streamed_adapter_kernel<X, true, kTall> : streamed_adapter_kernel<X, false, kTall>;
    launch(kernel, dim3(tokens.tiles()), dim3(kThreads), room.bytes, call, room);
  });
}

}  // namespace hyperloader::cuda
