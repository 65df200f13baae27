// What the operators share on every device: their options, their weights, and the checks of their arguments.
#pragma once

#include <ATen/core/List.h>
#include <ATen/core/Tensor.h>

#include <c10/core/impl/LocalDispatchKeySet.h>

#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "activation.h"

namespace hyperloader {

using at::Tensor;

enum class Norm { kPost, kPre, kBoth, kNone };

inline bool has_inner(Norm norm) { return norm == Norm::kPre || norm == Norm::kBoth; }
inline bool has_outer(Norm norm) { return norm == Norm::kPost || norm == Norm::kBoth; }

// An undefined tensor where there is none, and back.
inline Tensor or_undefined(const std::optional<Tensor>& tensor) { return tensor.value_or(Tensor()); }
inline std::optional<Tensor> or_none(const Tensor& tensor) {
  return tensor.defined() ? std::optional<Tensor>(tensor) : std::nullopt;
}

// One set of weights, or with groups a stack of them along a first dimension.
struct AdapterWeights {
  Tensor down_weight;  // (bottleneck, hidden)
  Tensor down_bias;    // (bottleneck)
  Tensor up_weight;    // (hidden, bottleneck)
  Tensor up_bias;      // (hidden)
  Tensor norm_weight;  // (hidden), and so the next three; undefined where the norm has none
  Tensor norm_bias;
  Tensor pre_norm_weight;
  Tensor pre_norm_bias;

  std::vector<Tensor*> all() {
    return {&down_weight, &down_bias, &up_weight, &up_bias, &norm_weight, &norm_bias, &pre_norm_weight, &pre_norm_bias};
  }

  template <typename Function>
  AdapterWeights map(Function function) const {
    AdapterWeights mapped = *this;
    for (Tensor* weight : mapped.all()) {
      if (weight->defined()) *weight = function(*weight);
    }
    return mapped;
  }

  // Weight and bias of the norm before the down projection: with norm "pre" the only pair, with "both" the second.
  std::pair<Tensor&, Tensor&> inner_norm(Norm norm) {
    if (norm == Norm::kPre) return {norm_weight, norm_bias};
    return {pre_norm_weight, pre_norm_bias};
  }
};

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
};

struct AdapterOptions {
  int64_t hidden;
  int64_t bottleneck;
  int64_t groups;  // 1 without `group`
  Norm norm;
  Activation activation;
};

// Each raises ValueError, TypeError or IndexError with "<argument> must <requirement>, got <value>". A kernel calls its
// check first, once, and trusts it from then on. Group indices are looked at where they lie on the CPU.
void check_condition(const ConditionWeights& weights, at::ArrayRef<double> scales, double eps);
void check_condition_backward(const Tensor& grad, const ConditionWeights& weights);
void check_generate(
    const Tensor& condition, at::TensorList weights, at::TensorList biases, const c10::List<bool>& has_bias,
    std::optional<at::ScalarType> dtype);
void check_generate_backward(
    at::TensorList grads, const Tensor& condition, at::TensorList weights, const c10::List<bool>& has_bias);
AdapterOptions check_adapter(
    const Tensor& x, const AdapterWeights& weights, const std::optional<Tensor>& group, std::string_view norm,
    std::string_view activation, double eps);
void check_adapter_backward(const Tensor& grad, const Tensor& x, const Tensor& pre, const AdapterOptions& options);
int64_t check_lora_linears(  // returns the number of groups, 1 without `group`
    const Tensor& x, at::TensorList weights, at::TensorList biases, at::TensorList lora_A, at::TensorList lora_B,
    const std::optional<Tensor>& group);
void check_lora_linears_backward(
    at::TensorList grads, const Tensor& x, at::TensorList weights, const c10::List<bool>& needed);

namespace cpu {
// Whether lora_linear adds its update to a copy of the weight, not to the product, on the CPU; `half`: it multiplies in
// half precision.
bool lora_folds(int64_t tokens, int64_t in_features, int64_t out_features, bool grouped, bool half);
}  // namespace cpu

// Sums are taken in float64 for float64, else in float32.
inline at::ScalarType accumulate_dtype(at::ScalarType dtype) {
  return dtype == at::kDouble ? at::kDouble : at::kFloat;
}

// The operators choose their dtypes themselves: while this lives, autocast does not reach the products inside.
struct WithoutAutocast {
  c10::impl::ExcludeDispatchKeyGuard guard{c10::autocast_dispatch_keyset};
};

}  // namespace hyperloader
