// The arguments of `condition`.
#pragma once

#include <vector>

#include "ops.h"

namespace hyperloader {

// Of the network that makes the conditions of a hypernetwork.
struct ConditionWeights {
  const Tensor& task_embedding;      // (tasks, E)
  const Tensor& layer_embedding;     // (any, E), of which the rows `layers` are used
  const Tensor& position_embedding;  // (any, E), of which the rows `positions` are used
  const Tensor& layers;              // int64
  const Tensor& positions;           // int64
  const Tensor& first_weight;        // (hidden, 3 E)
  const Tensor& first_bias;          // (hidden)
  const Tensor& second_weight;       // (condition_dim, hidden)
  const Tensor& second_bias;         // (condition_dim), and so the next two
  const Tensor& norm_weight;
  const Tensor& norm_bias;

  auto flat() const {
    return in_order(
        task_embedding, layer_embedding, position_embedding, layers, positions, first_weight, first_bias, second_weight,
        second_bias, norm_weight, norm_bias);
  }
};

struct ConditionArguments {
  static constexpr const char* kName = "condition";
  using Result = Tensor;

  ConditionWeights weights;
  at::ArrayRef<double> scales;
  double eps;

  auto flat() const { return std::tuple_cat(weights.flat(), in_order(scales, eps)); }
};

struct ConditionBackwardArguments {
  static constexpr const char* kName = "condition_backward";
  using Result = std::vector<Tensor>;

  const Tensor& grad;
  ConditionArguments forward;

  auto flat() const { return std::tuple_cat(in_order(grad), forward.flat()); }
};

void check(const ConditionArguments& arguments);
void check(const ConditionBackwardArguments& arguments);

}  // namespace hyperloader
