// Sums over the tokens of each group: gradients of weights, in two passes and a fixed order.
#pragma once

#include "tiles.cuh"

namespace hyperloader::cuda {

constexpr int kProducts = 16, kReductions = 24;  // of one launch

// parts[group][split] (units, width) = Σ over the tokens of a group and split: units(token)ᵀ · x(token).
template <typename X>
struct TokenProduct {
  const Sum<X>* units;  // (tokens, stride), from the first unit on
  int64_t stride, count;
  const X* x;  // (tokens, width)
  int64_t width;
  bool aligned;
  Sum<X>* parts;
};

template <typename X>
struct TokenProducts {
  TokenProduct<X> of[kProducts];
  int count = 0;
  int64_t splits = 1;
  Tokens tokens;

  void add(const TokenProduct<X>& product) {
    TORCH_INTERNAL_ASSERT(count < kProducts);
    of[count++] = product;
  }
};

// How many parts a sum over tokens is cut into, so that `results` numbers of each group fill a GPU.
int64_t splits_for(const Tokens& tokens, int64_t results);

template <typename X, typename C>
void sum_products(const TokenProducts<X>& products);

// to[group] (rows, columns) = Σ over the parts of `from` (rows, columns) that belong to the group.
struct Reduction {
  const void* from;  // in the dtype of sums
  int64_t parts, part_stride, group_stride;
  bool by_tile;  // part i is of tile i, and so of that tile's group
  int64_t rows, columns;
  AnyResults to;
  bool transposed;  // (columns, rows) are written
};

struct Reductions {
  Reduction of[kReductions];
  int count = 0;
  Tokens tokens;

  void add(const Reduction& reduction) {
    TORCH_INTERNAL_ASSERT(count < kReductions);
    of[count++] = reduction;
  }
};

template <typename S>
void reduce(const Reductions& reductions);

}  // namespace hyperloader::cuda
