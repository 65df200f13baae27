// What lays an adapter's weights out is told, and its matrices in blocks (resident.cuh).
#pragma once

#include "adapter.cuh"
#include "resident.cuh"

namespace hyperloader::cuda {

template <typename S, typename C>
struct LayOut {
  GivenAdapter given;
  LaidOut<S, C> sizes;
  bool outer, inner, blocked;
  bool up_in_rows, up_aligned;  // its rows are contiguous and of C; and whole 16 bytes
  int chunks;                   // of the columns, for their products: none where no moments are asked for
  int copying;                  // blocks that share the hidden units of a unit
  C *shrink, *expand;
  S *down_bias, *up_bias, *norm_weight, *norm_bias, *centred, *moments, *means;
};

// The matrices in blocks, by `blocks` blocks of which this is one: a thread takes 8 terms of a row at a time, which lie
// side by side in a block, and its neighbours what lies beside those in the tensor, or beside each of them. Blocks are
// for matrices of the products' dtype.
template <bool kForward, typename S, typename C>
__device__ __forceinline__ void lay_out_blocks(const LayOut<S, C>& call, int64_t group, int block, int blocks) {
  const int hidden = static_cast<int>(call.sizes.hidden), bottleneck = static_cast<int>(call.sizes.bottleneck);
  const int wide = static_cast<int>(call.sizes.wide()), thin = static_cast<int>(call.sizes.thin());
  const int units = static_cast<int>(call.sizes.units);
  const GivenAdapter& given = call.given;
  // of a matrix the numbers (row + i · down, column + i · across), zeros where there are none
  const auto take = [&](const Given& matrix, int rows, int columns, int row, int column, int down, int across) {
    const C* const from = static_cast<const C*>(matrix.from.data) + group * matrix.group_stride;
    Numbers<C, 8> found;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int own = row + i * down, at = column + i * across;
      const bool exists = own < rows && at < columns;
      found.at[i] = exists ? from[own * matrix.row_stride + at * matrix.column_stride] : C(0);
    }
    return found;
  };
  const auto weigh = [&](Numbers<C, 8>& numbers, int h, int across) {  // with the inner norm's weight
    if (!call.inner) return;
    Numbers<S, 8> weight;
    if (across == 1) {
      weight = given.inner_weight.template load_8<S>(group, 0, h, hidden - h);
    } else {
      const S own = h < hidden ? given.inner_weight.template load<S>(group, 0, h) : S(0);
#pragma unroll
      for (int i = 0; i < 8; ++i) weight.at[i] = own;
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) numbers.at[i] = static_cast<C>(static_cast<S>(numbers.at[i]) * weight.at[i]);
  };
  const int of_shrink = units * (wide / 8), all = of_shrink + wide * (thin / 8);
  for (int i = block * kThreads + static_cast<int>(threadIdx.x); i < all; i += blocks * kThreads) {
    const bool shrinks = i < of_shrink;
    const int own = shrinks ? i : i - of_shrink;
    int row, term;
    Numbers<C, 8> eight;
    if constexpr (kForward) {  // both matrices by their rows
      const int width = shrinks ? wide : thin;
      row = own / (width / 8), term = own % (width / 8) * 8;
      if (shrinks) {
        eight = take(given.down, bottleneck, hidden, row, term, 0, 1);
        weigh(eight, term, 1);
      } else {
        eight = take(given.up, hidden, bottleneck, row, term, 0, 1);
      }
    } else {  // both across: [up, up_bias, 1] and `down`
      const int height = shrinks ? units : wide;
      row = own % height, term = own / height * 8;
      if (shrinks) {
        eight = take(given.up, hidden, bottleneck, term, row, 1, 0);
        if (row == bottleneck || (row == bottleneck + 1 && call.outer)) {
          Numbers<S, 8> bias;
          if (row == bottleneck) bias = given.up_bias.template load_8<S>(group, 0, term, hidden - term);
#pragma unroll
          for (int j = 0; j < 8; ++j) {
            const S one = term + j < hidden ? S(1) : S(0);
            eight.at[j] = static_cast<C>(row == bottleneck ? bias.at[j] : one);
          }
        }
      } else {
        eight = take(given.down, bottleneck, hidden, term, row, 1, 0);
        weigh(eight, row, 0);
      }
    }
    C* const to = shrinks ? call.shrink + group * units * wide + fragment(row, term, wide)
                          : call.expand + group * wide * thin + fragment(row, term, thin);
    store<8>(to, eight, 8, true);
  }
}

}  // namespace hyperloader::cuda
