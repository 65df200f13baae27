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

// The part (kHeight, kWidth) of a matrix (rows, columns) from `row` and `column` on to shared memory, where `to` has
// the 16 bytes from a row and column on: to.piece(row, column). What lies beside the matrix is zero. It is there after
// `fetched` and a barrier: all loads of a thread are on their way together, or asynchronous copies.
template <typename S, int kHeight, int kWidth, typename To>
__device__ __forceinline__ void fetch(
    const AnyNumbers& from, int64_t row, int64_t rows, int64_t column, int64_t columns, const To& to) {
  constexpr int kTogether = 16 / sizeof(S);
  const bool aligned = in_eights(from.data, columns);
  const int rows_left = static_cast<int>(rows - row < kHeight ? rows - row : kHeight);
  const int left = static_cast<int>(columns - column < kWidth ? columns - column : kWidth);
  if (aligned && from.dtype == c10::CppTypeToScalarType<S>::value) {
    const S* const data = static_cast<const S*>(from.data) + row * columns + column;
#pragma unroll
    for (int i = threadIdx.x; i < kHeight * kWidth / kTogether; i += kGenerateThreads) {
      const int own = i / (kWidth / kTogether), at = i % (kWidth / kTogether) * kTogether;
      const bool exists = own < rows_left && at < left;
      copy_async_16(to.piece(own, at), exists ? data + own * columns + at : data, exists);
    }
    return;
  }
  constexpr int kEights = kHeight * kWidth / 8, kLoads = (kEights + kGenerateThreads - 1) / kGenerateThreads;
  from.visit([&](const auto* data) {
    using T = std::remove_const_t<std::remove_pointer_t<decltype(data)>>;
    constexpr int kWhole = std::min<int>(8, 16 / sizeof(T));
    data += row * columns + column;
    const auto place_of = [](int load) { return static_cast<int>(threadIdx.x) + load * kGenerateThreads; };
    constexpr int kBatch = sizeof(T) > 4 ? 1 : kLoads;  // on their way together
#pragma unroll 1
    for (int first = 0; first < kLoads; first += kBatch) {
      Numbers<T, kWhole> found[kBatch][8 / kWhole];
#pragma unroll
      for (int n = 0; n < kBatch; ++n) {
        const int own = place_of(first + n) / (kWidth / 8), at = place_of(first + n) % (kWidth / 8) * 8;
        const int valid = own < rows_left ? left - at : 0;
#pragma unroll
        for (int i = 0; i < 8 / kWhole; ++i) {
          const T* const start = data + own * columns + at + i * kWhole;
          found[n][i] = aligned ? load_whole<kWhole>(start, valid > 0) : load<kWhole>(start, valid - i * kWhole, false);
        }
      }
#pragma unroll
      for (int n = 0; n < kBatch; ++n) {
        if (place_of(first + n) >= kEights) continue;
        const int own = place_of(first + n) / (kWidth / 8), at = place_of(first + n) % (kWidth / 8) * 8;
#pragma unroll
        for (int i = 0; i < 8; i += kTogether) {
          Numbers<S, kTogether> some;
#pragma unroll
          for (int j = 0; j < kTogether; ++j) {
            some.at[j] = static_cast<S>(found[n][(i + j) / kWhole].at[(i + j) % kWhole]);
          }
          store_shared(to.piece(own, at + i), some);
        }
      }
    }
  });
}

// Waits for this thread's copies.
__device__ __forceinline__ void fetched() {
  copy_commit();
  copy_wait<0>();
}

inline AnyNumbers numbers_of(const Tensor& tensor) { return {tensor.const_data_ptr(), tensor.scalar_type()}; }
inline AnyResults results_of(const Tensor& tensor) { return {tensor.mutable_data_ptr(), tensor.scalar_type()}; }

}  // namespace hyperloader::cuda
