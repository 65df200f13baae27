// Products of small matrices through shared memory, summed outside the tensor cores: (16 kRows, 64) results a block.
#pragma once

#include "numbers.cuh"

namespace hyperloader::cuda {

constexpr int kProductThreads = 256, kDepth = 32, kColumnsOfProduct = 64;

// results = left · rightᵀ over `depth` terms. Thread t holds the rows 4 (t / 16) ... , the columns t % 16 + 16 c.
template <typename S, int kRows>
class Product {
 public:
  static constexpr int kHeight = 16 * kRows;

  struct Memory {
    S left[kHeight][kDepth + 4];  // four apart: rows stay aligned, and do not begin in one bank
    S right[kColumnsOfProduct][kDepth + 4];
  };

  // left(row, term) and right(column, term) give zero where there is none. kAlong: what is stored along the
  // terms, so that neighbouring threads read neighbouring numbers.
  template <bool kLeftAlong, bool kRightAlong, typename Left, typename Right>
  __device__ __forceinline__ void add(Memory& memory, int64_t depth, const Left& left, const Right& right) {
    for (int64_t begin = 0; begin < depth; begin += kDepth) {
      fetch<kLeftAlong, kHeight>(memory.left, begin, left);
      fetch<kRightAlong, kColumnsOfProduct>(memory.right, begin, right);
      __syncthreads();
      multiply(memory);
      __syncthreads();
    }
  }

  template <typename Visit>
  __device__ __forceinline__ void each(const Visit& visit) const {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
#pragma unroll
      for (int c = 0; c < 4; ++c) visit(row(r), column(c), sums_[r][c]);
    }
  }

 private:
  static constexpr int kTogether = 16 / sizeof(S);

  __device__ static int row(int r) { return kRows * (static_cast<int>(threadIdx.x) / 16) + r; }
  __device__ static int column(int c) { return static_cast<int>(threadIdx.x) % 16 + 16 * c; }

  template <bool kAlong, int kCount, typename From>
  __device__ static void fetch(S (&to)[kCount][kDepth + 4], int64_t begin, const From& from) {
#pragma unroll 4
    for (int i = threadIdx.x; i < kCount * kDepth; i += kProductThreads) {
      const int index = kAlong ? i / kDepth : i % kCount, term = kAlong ? i % kDepth : i / kCount;
      to[index][term] = from(index, begin + term);
    }
  }

  __device__ __forceinline__ void multiply(const Memory& memory) {
#pragma unroll
    for (int term = 0; term < kDepth; term += kTogether) {
      Numbers<S, kTogether> left[kRows], right[4];
#pragma unroll
      for (int r = 0; r < kRows; ++r) left[r] = load<kTogether>(&memory.left[row(r)][term], kTogether, true);
#pragma unroll
      for (int c = 0; c < 4; ++c) right[c] = load<kTogether>(&memory.right[column(c)][term], kTogether, true);
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
#pragma unroll
        for (int c = 0; c < 4; ++c) {
#pragma unroll
          for (int i = 0; i < kTogether; ++i) sums_[r][c] += left[r].at[i] * right[c].at[i];
        }
      }
    }
  }

  S sums_[kRows][4] = {};
};

}  // namespace hyperloader::cuda
