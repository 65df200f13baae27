// Weights laid out as the products read them: rows of whole steps, contiguous, padded with zeros, in the products'
// dtype. They are few numbers beside the tokens, and whatever the strides and dtypes of the tensors are, the kernels of
// the tokens see one form.
#pragma once

#include "../ops.h"
#include "tiles.cuh"

namespace hyperloader::cuda {

// One matrix of every group, (rows, columns), to `to` (row_count, column_count) from row `first_row` and column
// `first_column` on; what is beside the matrix becomes zero.
struct Layout {
  AnyNumbers from;
  int64_t group_stride, row_stride, column_stride;  // of `from`
  int64_t rows, columns, first_row, first_column;
  void* to;
  bool sums;  // `to` holds the dtype of sums, not that of products
  int64_t row_count, column_count, to_group_stride, to_row_stride;
  AnyNumbers factor;  // of each column, or with factor_of_rows of each row; null where there is none
  int64_t factor_group_stride, factor_stride;
  bool factor_of_rows;
};

constexpr int kLayouts = 16;  // of one launch

struct Layouts {
  Layout of[kLayouts];
  int count = 0;

  void add(const Layout& layout) {
    TORCH_INTERNAL_ASSERT(count < kLayouts);
    of[count++] = layout;
  }
};

// A matrix or a vector of every group, to a place of (row_count, column_count) in each group.
struct Matrix {
  Tensor tensor;
  bool grouped;
  bool transposed = false;

  Layout layout(void* to, bool sums, int64_t row_count, int64_t column_count) const;
};

inline Optional contiguous(const Optional& group) { return group ? Optional(group->contiguous()) : std::nullopt; }

// The tokens of x, one sentence a row of its first dimension where there are groups.
Tokens tokens_of(const Tensor& x, const Optional& group, int64_t groups, int height = kTokens);

// C is the dtype of products.
template <typename C>
void lay_out(const Layouts& layouts, int64_t groups);

}  // namespace hyperloader::cuda
