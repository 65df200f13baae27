// Mean and variance of a tile's tokens whose columns a block's warps hold in registers.
#pragma once

#include "tiles.cuh"

namespace hyperloader::cuda {

// The means and variances of a tile's tokens over columns that eight warps share: each warp's own, put together as
// those of parts are (Chan, Golub and LeVeque, 1979), so that the threads meet once.
struct SharedMoments {
  static constexpr int kPart = 2, kStride = kPart * kWarps + 4;  // rows of 16 bytes that begin in different banks
  float columns[kWarps];                                         // of each warp
  alignas(16) float of[kTokens][kStride];  // of each warp the mean and the sum of squares about it

  __device__ void count(int hidden) {
    if (threadIdx.x >= kWarps) return;
    const int left = hidden % (kWarps * kStep) - static_cast<int>(threadIdx.x) * kStep;
    columns[threadIdx.x] = hidden / (kWarps * kStep) * kStep + (left < 0 ? 0 : left < kStep ? left : kStep);
  }
  // What a lane has found of its two tokens, and then of all columns: means and 1 / sqrt(variance + eps).
  template <typename EachSquared>
  __device__ __forceinline__ void add_up(
      float (&mean)[2], float (&rstd)[2], float inverse_hidden, float eps, const EachSquared& each_squared) {
    const float own_columns = columns[warp_of_block()], inverse = own_columns > 0 ? 1 / own_columns : 0;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      mean[h] += __shfl_xor_sync(kAllLanes, mean[h], 1);
      mean[h] += __shfl_xor_sync(kAllLanes, mean[h], 2);
      mean[h] *= inverse;
    }
    float squares[2] = {};
    each_squared(mean, squares);
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      squares[h] += __shfl_xor_sync(kAllLanes, squares[h], 1);
      squares[h] += __shfl_xor_sync(kAllLanes, squares[h], 2);
      float* const to = &of[lane_token() + 8 * h][kPart * warp_of_block()];
      if (lane_column() == 0) {
        to[0] = mean[h];
        to[1] = squares[h];
      }
    }
    __syncthreads();
    const auto count = load<kWarps>(columns, kWarps, true);
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const auto parts = load<kPart * kWarps>(of[lane_token() + 8 * h], kPart * kWarps, true);
      float all = 0, variance = 0;
#pragma unroll
      for (int warp = 0; warp < kWarps; ++warp) all += count.at[warp] * parts.at[2 * warp];
      mean[h] = all * inverse_hidden;
#pragma unroll
      for (int warp = 0; warp < kWarps; ++warp) {
        const float apart = parts.at[2 * warp] - mean[h];
        variance += parts.at[2 * warp + 1] + count.at[warp] * apart * apart;
      }
      rstd[h] = inverse_root(variance * inverse_hidden + eps);
    }
  }
};

}  // namespace hyperloader::cuda
