// The low-rank part of lora_linear: a block takes a tile of tokens, multiplies its rows with the factors that make them
// units, and the units with those that make them rows again.
//
// A block's warps share the columns of the first product, and add up what each of them found in shared memory; they
// share the columns of the second one, which needs no sum. A lane reads and writes 16 bytes of a row at a time, and a
// weight once for all rows of its tile: 32 tokens where they fill the GPU, else 16; where they are few, several blocks
// share a tile's results (slices), each of which computes the units for itself. The last tiles come first, so that a
// product that begins at the first token finds its input and its result in the second cache.
#include "lora_linear_block.cuh"

namespace hyperloader::cuda {
namespace {

template <typename X, typename C, int kRows>
__device__ __forceinline__ void write(
    const LowRank<X, C>& call, const Block<X, C, kRows>& block, Tile<Sum<X>> (&tile)[kRows], void* to, int width,
    int column, const AnyNumbers& bias) {
  using S = Sum<X>;
  const int own = column + lane_column(), left = width - own;
  Numbers<S, 8> start{};
  if (bias.data != nullptr) start = bias.load<S, 8>(own, left, bias.begins_whole(own));
#pragma unroll
  for (int m = 0; m < kRows; ++m) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int token = kTokens * m + 8 * h + lane_token();
      if (token >= block.count) continue;
      const int64_t at = (block.first + token) * width + own;
      Numbers<S, 8> sums;
      Numbers<X, 8> numbers;
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        sums.at[i] = start.at[i] + tile[m].at(h, i);
        numbers.at[i] = static_cast<X>(sums.at[i]);
      }
      if (call.wide) {
        store<8>(static_cast<S*>(to) + at, sums, left, call.aligned);
      } else {
        store<8>(static_cast<X*>(to) + at, numbers, left, call.aligned);
      }
    }
  }
}

// The units of x, and every layer's bias and update.
template <typename X, typename C, int kRows>
__device__ __forceinline__ void forward(const LowRank<X, C>& call, const Block<X, C, kRows>& block) {
  if (call.reads_x) {
    const auto weights = [&](int unit) {
      int i = 0;
      while (unit >= call.of[i].first + call.of[i].units) ++i;
      return call.of[i].A + block.group * call.of[i].A_stride + (unit - call.of[i].first) * padded(call.in_features);
    };
    shrink<false>(call, block, call.x, call.in_features, 0, call.units, weights, call.shrunk);
  } else {
    for (int i = threadIdx.x; i < block.count * call.units; i += kThreads) {
      block.units[i / call.units * block.units_stride + i % call.units] = call.shrunk[block.first * call.units + i];
    }
    __syncthreads();
  }
  const int step = static_cast<int>(gridDim.y) * kWarps * kStep;
  int column = (static_cast<int>(blockIdx.y) * kWarps + warp_of_block()) * kStep;
  for (int i = 0; i < call.count; ++i) {
    const Projection<X, C>& layer = call.of[i];
    if (layer.result == nullptr) continue;
    const C* const B = layer.B + block.group * layer.B_stride;
    for (; column < padded(layer.out); column += step) {
      Tile<Sum<X>> tile[kRows];
      for (int unit = 0; unit < layer.units; unit += 16) {
        add_units<false>(
            tile, block.units + layer.first + unit, block.units_stride, B + column * layer.units + unit, layer.units,
            unit + 8 < layer.units);
      }
      write(call, block, tile, layer.result, layer.out, column, layer.bias);
    }
    column -= static_cast<int>(padded(layer.out));
  }
}

// The units of all outputs' gradients, and what reaches x through them.
template <typename X, typename C, int kRows>
__device__ __forceinline__ void backward(const LowRank<X, C>& call, const Block<X, C, kRows>& block) {
  for (int i = 0; i < call.count; ++i) {
    const Projection<X, C>& layer = call.of[i];
    const auto weights = [&](int unit) { return layer.B + block.group * layer.B_stride + unit - layer.first; };
    shrink<true>(call, block, layer.grad, layer.out, layer.first, layer.units, weights, call.shrunk_grad);
  }
  if (call.grad_x == nullptr) return;
  const int width = static_cast<int>(padded(call.in_features)), step = static_cast<int>(gridDim.y) * kWarps * kStep;
  for (int column = (static_cast<int>(blockIdx.y) * kWarps + warp_of_block()) * kStep; column < width; column += step) {
    Tile<Sum<X>> tile[kRows];
    for (int i = 0; i < call.count; ++i) {
      const Projection<X, C>& layer = call.of[i];
      const C* const A = layer.A + block.group * layer.A_stride + column;
      for (int unit = 0; unit < layer.units; unit += 16) {
        add_units<true>(
            tile, block.units + layer.first + unit, block.units_stride, A + unit * width, width,
            unit + 8 < layer.units);
      }
    }
    write(call, block, tile, call.grad_x, call.in_features, column, AnyNumbers{});
  }
}

template <typename X, typename C, int kRows>
__global__ void __launch_bounds__(kThreads, 2) low_rank_kernel(const __grid_constant__ LowRank<X, C> call) {
  const Block<X, C, kRows> block(call);
  if (call.reads_grads && blockIdx.z == 0) {
    backward(call, block);
  } else if (blockIdx.y == 0 || !call.reads_grads) {
    forward(call, block);
  }
}

template <int kRows, typename X, typename C>
void run(LowRank<X, C>& call, int64_t columns) {
  call.tokens.height = Block<X, C, kRows>::kHeight;
  call.tokens.tiles_of_sentence = Block<X, C, kRows>::tiles_of(call.tokens);
  const int64_t tiles = call.tokens.tiles();
  if (tiles == 0) return;
  const int64_t roles = call.reads_grads && call.reads_x ? 2 : 1;
  const int64_t most = std::max<int64_t>((columns / kStep + kWarps - 1) / kWarps, 1);
  const dim3 grid(tiles, std::clamp<int64_t>(multiprocessors() / (tiles * roles), 1, most), roles);
  launch(low_rank_kernel<X, C, kRows>, grid, dim3(kThreads), Block<X, C, kRows>::bytes(call.units), call);
}

}  // namespace

template <typename X, typename C>
void run_low_rank(LowRank<X, C> call) {
  int64_t columns = call.grad_x == nullptr ? 0 : padded(call.in_features);
  for (int i = 0; i < call.count; ++i) columns += call.of[i].result == nullptr ? 0 : padded(call.of[i].out);
  if constexpr (kIsHalf<C>) {
    const int64_t tiles = call.tokens.sentences * (call.tokens.tokens / (2 * kTokens));
    const int64_t roles = call.reads_grads && call.reads_x ? 2 : 1;
    if (call.aligned && tiles * roles >= 2 * multiprocessors()) return run<2>(call, columns);
  }
  run<1>(call, columns);
}

template void run_low_rank(LowRank<BFloat16, BFloat16>);
template void run_low_rank(LowRank<BFloat16, float>);
template void run_low_rank(LowRank<Half, Half>);
template void run_low_rank(LowRank<Half, float>);
template void run_low_rank(LowRank<float, float>);
template void run_low_rank(LowRank<double, double>);

}  // namespace hyperloader::cuda
