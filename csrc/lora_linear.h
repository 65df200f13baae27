// The arguments of `lora_linear` and `lora_linears`.
#pragma once

#include <vector>

#include "ops.h"

namespace hyperloader {

// One layer alone.
struct LoraLinearArguments {
  static constexpr const char* kName = "lora_linear";
  using Result = Tensor;

  const Tensor& x;
  const Tensor& weight;
  const Optional& bias;
  const Tensor& lora_A;
  const Tensor& lora_B;
  const Optional& group;
  double scaling;

  auto flat() const { return in_order(x, weight, bias, lora_A, lora_B, group, scaling); }
};

// Several layers that read the same x; with groups every lora_A and lora_B is a stack along a first dimension.
struct LoraLinearsArguments {
  static constexpr const char* kName = "lora_linears";
  using Result = std::vector<Tensor>;

  const Tensor& x;         // (..., in_features)
  at::TensorList weights;  // one (out_features, in_features) per layer
  at::TensorList biases;   // one (out_features) per layer, or none at all
  at::TensorList lora_A;   // one (rank, in_features) per layer
  at::TensorList lora_B;   // one (out_features, rank) per layer
  const Optional& group;
  double scaling;

  auto flat() const { return in_order(x, weights, biases, lora_A, lora_B, group, scaling); }
};

struct LoraLinearsBackwardArguments {
  static constexpr const char* kName = "lora_linears_backward";
  using Result = std::vector<Tensor>;  // what `needed` asks for, in its order

  at::TensorList grads;
  const Tensor& x;
  at::TensorList weights;
  at::TensorList lora_A;
  at::TensorList lora_B;
  const Optional& group;
  double scaling;
  const c10::List<bool>& needed;

  auto flat() const { return in_order(grads, x, weights, lora_A, lora_B, group, scaling, needed); }
  LoraLinearsArguments forward() const { return {x, weights, {}, lora_A, lora_B, group, scaling}; }
};

// Whose gradients are wanted.
struct LoraNeeded {
  bool x, weights, biases, lora_A, lora_B;

  static LoraNeeded from(const c10::List<bool>& flags) {
    auto next = flags.begin();
    const auto take = [&] { return static_cast<bool>(*next++); };
    return {take(), take(), take(), take(), take()};
  }
  c10::List<bool> flags() const { return c10::List<bool>({x, weights, biases, lora_A, lora_B}); }
};

// Each returns the number of groups, 1 without `group`.
int64_t check(const LoraLinearsArguments& arguments);
int64_t check(const LoraLinearsBackwardArguments& arguments);

namespace cpu {
// Whether lora_linear adds its update to a copy of the weight, not to the product, on the CPU; `half`: it multiplies in
// half precision.
bool lora_folds(int64_t tokens, int64_t in_features, int64_t out_features, bool grouped, bool half);
}  // namespace cpu

}  // namespace hyperloader
