// The arguments of `generate`.
#pragma once

#include <vector>

#include "ops.h"

namespace hyperloader {

struct GenerateArguments {
  static constexpr const char* kName = "generate";
  using Result = std::vector<Tensor>;

  const Tensor& condition;          // (rows, condition_dim)
  at::TensorList weights;           // one (n, condition_dim) per head
  at::TensorList biases;            // one (n) per head that has one
  const c10::List<bool>& has_bias;  // one entry per head
  std::optional<at::ScalarType> dtype;

  auto flat() const { return in_order(condition, weights, biases, has_bias, dtype); }
};

struct GenerateBackwardArguments {
  static constexpr const char* kName = "generate_backward";
  using Result = std::vector<Tensor>;

  at::TensorList grads;  // one (rows, n) per head
  const Tensor& condition;
  at::TensorList weights;
  const c10::List<bool>& has_bias;

  auto flat() const { return in_order(grads, condition, weights, has_bias); }
};

void check(const GenerateArguments& arguments);
void check(const GenerateBackwardArguments& arguments);

}  // namespace hyperloader
