// The arguments of `adapter`, its weights and its options.
#pragma once

#include <array>
#include <string_view>
#include <utility>
#include <vector>

#include "activation.h"
#include "ops.h"

namespace hyperloader {

enum class Norm { kPost, kPre, kBoth, kNone };

inline bool has_inner(Norm norm) { return norm == Norm::kPre || norm == Norm::kBoth; }
inline bool has_outer(Norm norm) { return norm == Norm::kPost || norm == Norm::kBoth; }

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

  std::array<Tensor*, 8> all() {
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

// What forward and backward have in common.
struct AdapterParameters {
  const Tensor& down_weight;
  const Tensor& down_bias;
  const Tensor& up_weight;
  const Tensor& up_bias;
  const Optional& norm_weight;
  const Optional& norm_bias;
  const Optional& pre_norm_weight;
  const Optional& pre_norm_bias;
  const Optional& group;
  std::string_view norm;
  std::string_view activation;
  double eps;

  auto flat() const {
    return in_order(
        down_weight, down_bias, up_weight, up_bias, norm_weight, norm_bias, pre_norm_weight, pre_norm_bias, group, norm,
        activation, eps);
  }

  AdapterWeights weights() const {
    return {
        down_weight,
        down_bias,
        up_weight,
        up_bias,
        or_undefined(norm_weight),
        or_undefined(norm_bias),
        or_undefined(pre_norm_weight),
        or_undefined(pre_norm_bias)};
  }
};

struct AdapterArguments {
  static constexpr const char* kName = "adapter";
  using Result = std::tuple<Tensor, Tensor>;  // y and pre, the pre-activation (..., bottleneck)

  const Tensor& x;  // (..., hidden)
  AdapterParameters parameters;

  auto flat() const { return std::tuple_cat(in_order(x), parameters.flat()); }
};

struct AdapterBackwardArguments {
  static constexpr const char* kName = "adapter_backward";
  using Result = std::vector<Tensor>;  // the gradients of x and of every weight that is there

  const Tensor& grad;
  const Tensor& x;
  const Tensor& pre;
  AdapterParameters parameters;

  auto flat() const { return std::tuple_cat(in_order(grad, x, pre), parameters.flat()); }
};

// What the checks find out.
struct AdapterOptions {
  int64_t hidden;
  int64_t bottleneck;
  int64_t groups;  // 1 without `group`
  Norm norm;
  Activation activation;
};

AdapterOptions check(const AdapterArguments& arguments);
AdapterOptions check(const AdapterBackwardArguments& arguments);

}  // namespace hyperloader
