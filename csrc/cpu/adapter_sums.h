// What the adapter's backward sums over the tokens of a group, and the weights' gradients that follow.
#pragma once

#include "adapter.h"

namespace hyperloader::cpu::adapter {

// Sums over the tokens of one group or of a part of it.
template <typename T>
struct Sums {
  T* numbers;              // all of the below, in one stretch, the large ones first
  std::vector<T*> down;    // (bottleneck, hidden)
  std::vector<T*> table;   // (terms, hidden)
  std::vector<T*> second;  // (bottleneck + 1, stride): Σ w a aᵀ, with an outer norm
  T *bias, *inner_weight, *inner_bias, *outer_weight, *outer_bias;

  static int64_t size(const Sizes<T>& sizes) {
    return (sizes.bottleneck + sizes.terms + (sizes.inner ? 2 : 0) + (sizes.direct ? 2 : 0)) * sizes.hidden +
           (sizes.bottleneck + 2) * sizes.stride;
  }

  Sums(const Sizes<T>& sizes, T* memory) : numbers(memory) {
    if (memory == nullptr) return;
    const auto take = [&](int64_t rows, int64_t width) {
      T* taken = memory;
      memory += rows * width;
      return taken;
    };
    down = addresses(take(sizes.bottleneck, sizes.hidden), sizes.bottleneck, sizes.hidden);
    table = addresses(take(sizes.terms, sizes.hidden), sizes.terms, sizes.hidden);
    second = addresses(take(sizes.bottleneck + 1, sizes.stride), sizes.bottleneck + 1, sizes.stride);
    bias = take(1, sizes.stride);
    inner_weight = take(sizes.inner ? 1 : 0, sizes.hidden);
    inner_bias = take(sizes.inner ? 1 : 0, sizes.hidden);
    outer_weight = take(sizes.direct ? 1 : 0, sizes.hidden);
    outer_bias = take(sizes.direct ? 1 : 0, sizes.hidden);
  }
};

// Turns the sums over a group's tokens into its weights' gradients, which are of Row.
template <typename T, typename Row>
class Finish {
 public:
  Finish(const Sizes<T>& sizes, Arena<T>& arena)
      : sizes_(sizes),
        up_(addresses(arena.take((sizes.bottleneck + 1) * sizes.hidden), sizes.bottleneck + 1, sizes.hidden)),
        norm_weight_(arena.take(sizes.low_rank ? sizes.hidden : 0)) {
    if constexpr (!std::is_same_v<T, Row>) turned_ = arena.take(sizes.bottleneck * sizes.hidden);
  }

  void run(
      AdapterWeights grads, const AdapterOptions& options, const Weights<T, Row>& weights,
      const Prepared<T, Row>& prepared, const Sums<T>& sums, int64_t group) {
    const int64_t hidden = sizes_.hidden, bottleneck = sizes_.bottleneck;
    const auto of = [&](const Tensor& grad) {
      return static_cast<Row*>(grad.mutable_data_ptr()) + group * (grad.numel() / options.groups);
    };
    write(sums.down[0], bottleneck * hidden, of(grads.down_weight));
    write(sums.bias, bottleneck, of(grads.down_bias));
    if (sizes_.inner) {
      const auto [weight, bias] = grads.inner_norm(options.norm);
      write(sums.inner_weight, hidden, of(weight));
      write(sums.inner_bias, hidden, of(bias));
    }
    const std::vector<T*>* up = &sums.table;
    if (sizes_.direct) {
      write(sums.outer_weight, hidden, of(grads.norm_weight));
      write(sums.outer_bias, hidden, of(grads.norm_bias));
    }
    if (sizes_.low_rank) {
      outer(weights, prepared, sums);
      write(norm_weight_, hidden, of(grads.norm_weight));
      write(sums.table.back(), hidden, of(grads.norm_bias));
      up = &up_;
    }
    write_turned((*up)[0], of(grads.up_weight));
    write((*up)[bottleneck], hidden, of(grads.up_bias));
  }

 private:
  static void write(const T* from, int64_t count, Row* to) {
    if constexpr (std::is_same_v<T, Row>) {
      std::copy_n(from, count, to);
    } else {
      loops<T>().narrow(from, to, Half::kBFloat16, count);
    }
  }

  // The transpose of (bottleneck, hidden).
  void write_turned(T* from, Row* to) {
    const auto turn = [&](T* target) {
      const std::vector<T*> rows = addresses(target, sizes_.hidden, sizes_.bottleneck);
      loops<T>().transpose(from, sizes_.bottleneck, sizes_.hidden, rows.data());
    };
    if constexpr (std::is_same_v<T, Row>) {
      turn(to);
    } else {
      turn(turned_);
      write(turned_, sizes_.hidden * sizes_.bottleneck, to);
    }
  }

  // up = center(γ∘table - second · centred), and the norm's weight: the sum over the rows of centred∘table.
  void outer(const Weights<T, Row>& weights, const Prepared<T, Row>& prepared, const Sums<T>& sums) {
    const auto& k = loops<T>();
    const int64_t hidden = sizes_.hidden, rows = sizes_.bottleneck + 1;
    std::fill_n(norm_weight_, hidden, T(0));
    for (int64_t j = 0; j < rows; ++j) {
      k.multiply(prepared.centred[j], sums.table[j], hidden, up_[j]);
      k.add(up_[j], hidden, norm_weight_);
    }
    for (int64_t j = 0; j < rows; ++j) {
      k.multiply(weights.outer_weight, sums.table[j], hidden, up_[j]);
      for (int64_t i = 0; i < rows; ++i) sums.second[j][i] = -sums.second[j][i];
    }
    const std::vector<const T*> centred(prepared.centred.begin(), prepared.centred.end());
    k.accumulate(up_.data(), up_.data(), rows, sums.second[0], sizes_.stride, 1, centred.data(), rows, hidden);
    for (int64_t j = 0; j < rows; ++j) k.centre(up_[j], hidden);
  }

  Sizes<T> sizes_;
  std::vector<T*> up_;
  T *norm_weight_, *turned_ = nullptr;
};

}  // namespace hyperloader::cpu::adapter
