// What the forward and the backward of weight generation share on CUDA devices: the table of heads, and loads of 16
// bytes into shared memory. Sums are taken in float32 (float64 for float64), never in TF32.
#pragma once

#include "../generate.h"
#include "launch.h"
#include "numbers.cuh"

namespace hyperloader::cuda {

constexpr int kHeads = 48;    // of one launch
constexpr int kOutputs = 64;  // of a head, a block
constexpr int kGenerateThreads = 256;

struct Head {
  AnyNumbers weight, given;  // (outputs, terms); the bias, in the backward the gradient (rows, outputs)
  AnyResults result, bias;   // (rows, outputs), in the backward the weight's gradient, and its bias's
  int64_t outputs;
  int64_t first;  // of its blocks of outputs
};

// A table among a kernel's arguments.
struct Heads {
  Head of[kHeads];
  int count = 0;
  int64_t blocks = 0;
  int64_t rows, terms;
  AnyNumbers condition;

  explicit Heads(const Tensor& rows_of_condition)
      : of{},
        rows(rows_of_condition.size(0)),
        terms(rows_of_condition.size(1)),
        condition{rows_of_condition.const_data_ptr(), rows_of_condition.scalar_type()} {}

  void add(Head head) {
    head.first = blocks;
    blocks += (head.outputs + kOutputs - 1) / kOutputs;
    of[count++] = head;
  }

  // The head of a block of outputs.
  __device__ const Head& find(int64_t block) const {
    int low = 0, high = count - 1;
    while (low < high) {
      const int middle = (low + high + 1) / 2;
      if (of[middle].first <= block) {
        low = middle;
      } else {
        high = middle - 1;
      }
    }
    return of[low];
  }
};

// Whether eight numbers from any multiple of eight on, in any row, may be accessed 16 bytes at a time.
__device__ __forceinline__ bool in_eights(const void* data, int64_t columns) {
  return reinterpret_cast<uintptr_t>(data) % 16 == 0 && columns % 8 == 0;
}

// place(row, column, eight numbers) for the part (kHeight, kWidth) of a matrix (rows, columns) from `row` and `column`
// on; what lies beside the matrix is zero.
template <typename S, int kHeight, int kWidth, typename Place>
__device__ __forceinline__ void fetch(
    const AnyNumbers& from, int64_t row, int64_t rows, int64_t column, int64_t columns, const Place& place) {
  const bool aligned = in_eights(from.data, columns);
#pragma unroll
  for (int i = threadIdx.x; i < kHeight * kWidth / 8; i += kGenerateThreads) {
    const int at_row = i / (kWidth / 8), at = i % (kWidth / 8) * 8;
    const int64_t valid = row + at_row < rows ? columns - column - at : 0;
    place(at_row, at, from.load<S, 8>((row + at_row) * columns + column + at, valid, aligned));
  }
}

inline AnyNumbers numbers_of(const Tensor& tensor) { return {tensor.const_data_ptr(), tensor.scalar_type()}; }
inline AnyResults results_of(const Tensor& tensor) { return {tensor.mutable_data_ptr(), tensor.scalar_type()}; }

}  // namespace hyperloader::cuda
