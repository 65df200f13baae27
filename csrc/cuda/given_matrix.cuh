// Matrices as they are given, copied to shared memory in the blocks that the tensor cores take (resident.cuh).
#pragma once

#include "adapter.cuh"
#include "resident.cuh"

namespace hyperloader::cuda {

// A matrix of each group as it is given; `together`: so many numbers, 8, 4 or 2, of X begin at a whole access wherever
// a row is cut into as many, 1 where they do not or have another dtype.
struct GivenMatrix {
  Given given;
  int rows, columns, together;

  // Into blocks of 32 rows and columns, all threads.
  template <typename X>
  __device__ __forceinline__ void copy(X* to, int group) const {
    const int lane = lane_of_warp();
    const int across = (columns + kStep - 1) / kStep, blocks = (rows + kStep - 1) / kStep * across;
#pragma unroll 1
    for (int block = warp_of_block(); block < blocks; block += kWarps) {
      const int row = block / across * kStep + lane / 4, column = block % across * kStep + lane % 4 * 8;
      X* const own = to + block * kBlock + (lane / 4 % 4 * 32 + lane % 4 * 8 + lane / 16) * 8;
      if (together == 8) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const bool exists = row + 8 * i < rows && column < columns;
          copy_async_16(own + 16 * i, exists ? place<X>(group, row + 8 * i, column) : given.from.data, exists);
        }
      } else {
#pragma unroll 1
        for (int i = 0; i < 4; ++i) {
          *reinterpret_cast<uint4*>(own + 16 * i) =
              load_8<X>(group, row + 8 * i, column, row + 8 * i < rows ? columns - column : 0);
        }
      }
    }
  }

 private:
  template <typename X>
  __device__ __forceinline__ const X* place(int group, int row, int column) const {
    return static_cast<const X*>(given.from.data) + group * given.group_stride + row * given.row_stride + column;
  }
  template <typename X>
  __device__ __forceinline__ uint4 load_8(int group, int row, int column, int left) const {
    const X* const from = place<X>(group, row, column);
    if (together == 4) {
      const uint2 low = bytes_as<uint2>(load_whole<4>(from, left > 0)),
                  high = bytes_as<uint2>(load_whole<4>(from + 4, left > 4));
      return {low.x, low.y, high.x, high.y};
    }
    if (together == 2) {
      const auto word = [&](int i) { return bytes_as<uint32_t>(load_whole<2>(from + i, left > i)); };
      return {word(0), word(2), word(4), word(6)};
    }
    const auto numbers = given.template load_8<float>(group, row, column, left);
    const auto word = [&](int i) { return pack<X>(numbers.at[i], numbers.at[i + 1]); };
    return {word(0), word(2), word(4), word(6)};
  }
};

template <typename X>
GivenMatrix given_matrix(const Tensor& matrix, const Given& given, bool grouped) {
  const auto whole = [&](int64_t together) {
    return matrix.size(-1) % together == 0 && matrix.stride(-2) % together == 0 &&
           (!grouped || matrix.stride(0) % together == 0) &&
           reinterpret_cast<uintptr_t>(matrix.const_data_ptr()) % (together * sizeof(X)) == 0;
  };
  int together = matrix.stride(-1) == 1 && matrix.scalar_type() == c10::CppTypeToScalarType<X>::value ? 8 : 1;
  while (together > 1 && !whole(together)) together /= 2;
  return {given, static_cast<int>(matrix.size(-2)), static_cast<int>(matrix.size(-1)), together};
}

}  // namespace hyperloader::cuda
