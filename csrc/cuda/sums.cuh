// Sums over the tokens of each group: gradients of weights, in two passes and a fixed order.
#pragma once

#include "tiles.cuh"

namespace hyperloader::cuda {

constexpr int kUnitSums = 9, kReductions = 24;  // of one launch

// Units are padded with zeros to whole columns of the tensor cores' products.
__host__ __device__ constexpr int64_t padded_units(int64_t rank) { return (rank + 7) / 8 * 8; }

// parts[group][split] (count, width) = Σ over the tokens of a group and split: units(token)ᵀ · numbers(token).
template <typename X, typename C>
struct UnitSums {
  struct Of {
    const C* units;  // (tokens, stride), from the first unit on
    int64_t count;
    const X* numbers;  // (tokens, width)
    int64_t width;
    Sum<X>* parts;
  };
  Tokens tokens;
  Of of[kUnitSums];
  int count = 0;
  int64_t stride;
  int64_t splits = 1;
  bool aligned;
};

// The blocks for the sums of `count` units and `width` numbers.
int64_t sum_blocks(int64_t count, int64_t width);

// Into how many parts the tokens are cut, so that sums of so many `blocks` in all take every multiprocessor once.
int64_t sum_splits(const Tokens& tokens, int64_t blocks);

template <typename X, typename C>
void sum_units(const UnitSums<X, C>& sums);

// to[group] (rows, columns) = Σ over the parts of `from` (rows, columns) that belong to the group.
struct Reduction {
  const void* from;  // in the dtype of sums
  int64_t parts, part_stride, group_stride;
  const int* owners;  // the group of each part; null where every group has all of them, `group_stride` apart
  int64_t rows, columns;
  AnyResults to;
  bool transposed;  // (columns, rows) are written
};

struct Reductions {
  Reduction of[kReductions];
  int count = 0;
  int64_t groups;

  void add(const Reduction& reduction) {
    TORCH_INTERNAL_ASSERT(count < kReductions);
    of[count++] = reduction;
  }
};

template <typename S>
void reduce(const Reductions& reductions);

}  // namespace hyperloader::cuda
