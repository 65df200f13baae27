// The adapter's backward in half precision where a group's weights do not fit into shared memory: they pass through it,
// once for a block's tokens.
#pragma once

#include "adapter_backward.cuh"
#include "streamed.cuh"

namespace hyperloader::cuda {

template <typename C, int kTall>
StreamedRoom streamed_backward_room(int64_t bottleneck) {
  constexpr int kHeight = kTokens * kTall;
  const int64_t columns = bottleneck + 1;
  const int64_t moments = columns * columns * static_cast<int64_t>(sizeof(float));
  return StreamedRoom::of<C, kTall>(
      bottleneck, TileNumbers<float>::bytes_of_p(columns, kHeight),
      TileNumbers<float>::bytes_of_others(columns, kHeight) + moments);
}

template <typename X, bool kNorm, int kTall>
__global__ void __launch_bounds__(kThreads, kTall == 1 ? 2 : 1)
    streamed_backward_kernel(const __grid_constant__ Backward<X, X> call, const __grid_constant__ StreamedRoom room) {
  unsigned char* const shared = dynamic_shared<unsigned char>();
  const Walk tile(call.tokens, static_cast<int>(blockIdx.x));
  const int64_t first = tile.first(call.tokens);
  const int count = tile.count(call.tokens);
  const LaidOut<float, X> weights = call.weights.of_group(tile.group(call.tokens));
  const int hidden = static_cast<int>(weights.hidden), wide = static_cast<int>(weights.wide());
  const int thin = static_cast<int>(weights.thin()), columns = static_cast<int>(weights.columns());
  X* const units = reinterpret_cast<X*>(shared + room.units);
  const TileNumbers<float> numbers(
      reinterpret_cast<float*>(shared + room.few), reinterpret_cast<float*>(shared + room.shared), columns,
      kTokens * kTall);
  const X* const grad = call.grad + first * hidden;
  shrink_streamed<kTall>(
      grad, hidden, count, Blocked<X>{weights.shrink, wide}, static_cast<int>(weights.units),
      Pieces<X, kTall>(reinterpret_cast<X*>(shared + room.shared), kUnitSteps),
      *reinterpret_cast<Partial<float, kTall>*>(shared + room.shared),
      [&](Terms(&terms)[kTall], const auto& held, int column) {
        if constexpr (kNorm) {
          const Factors factors(weights.norm_weight + column);
#pragma unroll
          for (int m = 0; m < kTall; ++m) terms[m] = factors.template scale<X>(held(m));
        } else {
#pragma unroll
          for (int m = 0; m < kTall; ++m) terms[m] = held(m);
        }
      },
      [&](int token, int unit, float sum) {
        if (unit <= columns) numbers.p.of(token)[unit] = sum;
      });
  const float* moments = nullptr;
  if constexpr (kNorm) moments = hold(numbers.moments_a.of(kTokens * kTall), weights.moments, columns * columns);
  backward_units<kNorm, kTall>(
      call, weights, NormWeights<float>{moments, weights.means}, first, count, call.pre + first * weights.bottleneck,
      numbers,
      [&](int token, int unit) -> X& { return tile_of_rows(units, thin, token / kTokens).at(token % kTokens, unit); });
  const Pieces<X, kTall> pieces(reinterpret_cast<X*>(shared + room.expand), thin / kStep);
  X* const grad_x = call.grad_x + (first + lane_token()) * hidden + lane_column();
  expand_streamed<kTall>(
      grad, call.residual, hidden, count, Blocked<X>{weights.expand, thin}, pieces, units,
      [&](int column, Tile<float>(&tiles)[kTall], int place) {
        if (column + lane_column() >= hidden) return;
#pragma unroll
        for (int h = 0; h < 2 * kTall; ++h) {
          float through[8];
#pragma unroll
          for (int i = 0; i < 8; ++i) through[i] = tiles[h / 2].at(h % 2, i);
          const auto beside = pieces.rows(place, h / 2).template load<8>(h % 2, lane_column());
          const auto result = backward_columns(call.residual, beside, through);
          if (lane_token() + 8 * h < count) store<8>(grad_x + 8 * h * hidden + column, result, 8, true);
        }
      });
}

template <typename C>
int streamed_backward_tiles(const Tokens& tokens, const AdapterOptions& options) {
  const int64_t bottleneck = options.bottleneck, units = padded(bottleneck + (has_outer(options.norm) ? 2 : 1));
  return streamed_tiles(tokens, options.hidden, units, bottleneck, [&]<int kTall>() {
    return streamed_backward_room<C, kTall>(bottleneck);
  });
}

template <typename X>
void run_streamed(Backward<X, X> call, int tall, bool norm) {
  with_tiles(call.tokens, tall, [&]<int kTall>(const Tokens& tokens) {
    call.tokens = tokens;
    const StreamedRoom room = streamed_backward_room<X, kTall>(call.weights.bottleneck);
    const auto kernel = norm ? streamed_backward_kernel<X, true, kTall> : streamed_backward_kernel<X, false, kTall>;
    launch(kernel, dim3(tokens.tiles()), dim3(kThreads), room.bytes, call, room);
  });
}

}  // namespace hyperloader::cuda
