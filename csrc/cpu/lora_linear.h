// What the forward and the backward of lora_linear share on the CPU. Several layers that read the same x share its
// low-rank product: their lora_A stand one below the other.
#pragma once

#include "../lora_linear.h"
#include "workers.h"

namespace hyperloader::cpu::lora_linear {

struct Call {
  Tensor x;                            // (tokens, in_features)
  std::vector<Tensor> lora_A, lora_B;  // as the loops read them: lora_A of Row, lora_B of T
  double scaling;
  const Tokens& tokens;

  // out = start + update: in the forward one of each layer, (tokens, out_features); in the backward one of the layers
  // together, (tokens, in_features), or none.
  std::vector<Tensor> starts, outs;
  // In the backward.
  std::vector<Tensor> grads;           // (tokens, out_features)
  std::vector<Tensor> grad_A, grad_B;  // empty where not wanted
};

// One group's lora_A, and its lora_B with a row per unit of the rank. Row is what the products read: T, or bfloat16
// where x and all weights are that.
template <typename T, typename Row>
struct Factors {
  // One layer's share of the ranks.
  struct Layer {
    int64_t first, rank, out;
    std::vector<T*> turned;  // (rank, out_features)
    Packed<T, Row> packed_B;
    std::vector<const Row*> B;  // (rank, out_features)
  };

  int64_t in, rank = 0;
  std::vector<Layer> layers;
  std::vector<const Row*> A;  // of all layers, (rank, in_features)

  Factors(const Call& call, Arena<T>& arena) : in(call.lora_A.front().size(-1)) {
    for (size_t i = 0; i < call.lora_A.size(); ++i) {
      const int64_t own = call.lora_A[i].size(-2), out = call.lora_B[i].size(-2);
      layers.push_back(
          {rank, own, out, addresses(arena.take(own * out), own, out), Packed<T, Row>(own, out, arena),
           std::vector<const Row*>(own)});
      rank += own;
    }
    A.resize(rank);
  }

  void prepare(const Call& call, int64_t group) {
    for (size_t i = 0; i < layers.size(); ++i) {
      Layer& layer = layers[i];
      const int64_t own = layer.rank, out = layer.out;
      const Row* rows = static_cast<const Row*>(call.lora_A[i].const_data_ptr()) + group * own * in;
      loops<T>().transpose(call.lora_B[i].const_data_ptr<T>() + group * own * out, out, own, layer.turned.data());
      for (int64_t r = 0; r < own; ++r) {
        A[layer.first + r] = rows + r * in;
        layer.B[r] = layer.packed_B.row(r, layer.turned[r]);
      }
    }
  }

  // shrunk = scaling · rows · factorᵀ for the `count` rows of `factor`; shrunk is (tokens, rank).
  void shrink(
      const Row* const* rows, int64_t tokens, const Row* const* factor, int64_t count, int64_t width, double scaling,
      T* shrunk, const std::vector<const Row*>& next) const {
    products<T, Row>().dot(
        rows, tokens, factor, count, width, shrunk, rank, next.data(), static_cast<int64_t>(next.size()));
    for (int64_t i = 0; i < tokens; ++i) {
      for (int64_t r = 0; r < count; ++r) shrunk[i * rank + r] *= T(scaling);
    }
  }
};

// out = start + scaling · (x · lora_Aᵀ) · lora_Bᵀ.
template <typename T, typename Row>
class Forward {
 public:
  Forward(const Call& call, Arena<T>& arena)
      : call_(call), factors_(call, arena), shrunk_(arena.take(kTile * factors_.rank)), x_(call.x, factors_.in, arena) {
    for (size_t i = 0; i < call.outs.size(); ++i) {
      const int64_t out = factors_.layers[i].out;
      starts_.emplace_back(call.starts[i], out, arena);
      outs_.emplace_back(call.outs[i], out, arena);
    }
  }

  void prepare(int64_t group, std::optional<int64_t> /*next*/) { factors_.prepare(call_, group); }

  void tile(int64_t begin, int64_t count, int64_t ahead) {
    int64_t rows[2 * kTile];
    call_.tokens.rows(begin, begin + count + ahead, rows);
    next_.clear();
    for (const auto& start : starts_) start.ahead(rows, count, next_);
    x_.ahead(rows + count, ahead, next_);
    factors_.shrink(
        x_.read(rows, count), count, factors_.A.data(), factors_.rank, factors_.in, call_.scaling, shrunk_, next_);
    for (size_t i = 0; i < outs_.size(); ++i) {
      const auto& layer = factors_.layers[i];
      products<T, Row>().accumulate(
          outs_[i].write(rows, count), starts_[i].read(rows, count), count, shrunk_ + layer.first, factors_.rank, 1,
          layer.B.data(), layer.rank, layer.out);
      outs_[i].wrote(rows, count);
    }
  }

 private:
  const Call& call_;
  Factors<T, Row> factors_;
  T* shrunk_;
  Rows<Row> x_;
  std::vector<Rows<Row>> starts_, outs_;
  std::vector<const Row*> next_;
};

// With s = scaling · grad · lora_B: out = start + s · lora_A, grad_A = Σ sᵀ x, grad_B = Σ gradᵀ (scaling · x ·
// lora_Aᵀ).
template <typename T, typename Row>
class Backward {
 public:
  Backward(const Call& call, Arena<T>& arena)
      : call_(call),
        factors_(call, arena),
        sums_(arena.take(size(call))),
        shrunk_grad_(arena.take(kTile * factors_.rank)),
        shrunk_(arena.take(kTile * factors_.rank)),
        x_(call.x, factors_.in, arena) {
    for (size_t i = 0; i < call.grads.size(); ++i) {
      const int64_t out = factors_.layers[i].out;
      grads_.emplace_back(call.grads[i], out, arena);
    }
    if (!call.outs.empty()) {
      start_.emplace(call.starts[0], factors_.in, arena);
      out_.emplace(call.outs[0], factors_.in, arena);
    }
    if (sums_ == nullptr) return;
    T* from = sums_;
    if (!call.grad_A.empty()) {
      sum_A_ = addresses(from, factors_.rank, factors_.in);
      from += factors_.rank * factors_.in;
    }
    if (call.grad_B.empty()) return;
    for (const auto& layer : factors_.layers) {
      sum_B_.push_back(addresses(from, layer.rank, layer.out));
      from += layer.rank * layer.out;
    }
  }

  // How many numbers are summed for each group.
  static int64_t size(const Call& call) {
    int64_t total = 0;
    for (size_t i = 0; i < call.lora_A.size(); ++i) {
      const int64_t rank = call.lora_A[i].size(-2);
      if (!call.grad_A.empty()) total += rank * call.lora_A[i].size(-1);
      if (!call.grad_B.empty()) total += rank * call.lora_B[i].size(-2);
    }
    return total;
  }

  void prepare(int64_t group, std::optional<int64_t> /*next*/) { factors_.prepare(call_, group); }

  T* sums() { return sums_; }

  void clear() { std::fill_n(sums_, size(call_), T(0)); }

  void tile(int64_t begin, int64_t count, int64_t ahead) {
    const auto& product = products<T, Row>();
    const int64_t rank = factors_.rank, in = factors_.in;
    int64_t rows[2 * kTile];
    call_.tokens.rows(begin, begin + count + ahead, rows);
    const bool shrinks = out_ || !sum_A_.empty();
    for (size_t i = 0; i < grads_.size(); ++i) {
      const auto& layer = factors_.layers[i];
      const Row* const* grad = grads_[i].read(rows, count);
      if (!shrinks) continue;
      next_.clear();
      if (out_ && i == 0) start_->ahead(rows, count, next_);
      grads_[i].ahead(rows + count, ahead, next_);
      factors_.shrink(
          grad, count, layer.B.data(), layer.rank, layer.out, call_.scaling, shrunk_grad_ + layer.first, next_);
    }
    if (out_) {
      product.accumulate(
          out_->write(rows, count), start_->read(rows, count), count, shrunk_grad_, rank, 1, factors_.A.data(), rank,
          in);
      out_->wrote(rows, count);
    }
    if (sums_ == nullptr) return;
    const Row* const* x = x_.read(rows, count);
    if (!sum_A_.empty()) product.sum(sum_A_.data(), sum_A_.data(), rank, shrunk_grad_, 1, rank, x, count, in);
    if (sum_B_.empty()) return;
    next_.clear();
    x_.ahead(rows + count, ahead, next_);
    factors_.shrink(x, count, factors_.A.data(), rank, in, call_.scaling, shrunk_, next_);
    for (size_t i = 0; i < grads_.size(); ++i) {
      const auto& layer = factors_.layers[i];
      product.sum(
          sum_B_[i].data(), sum_B_[i].data(), layer.rank, shrunk_ + layer.first, 1, rank, grads_[i].found(), count,
          layer.out);
    }
  }

  void finish(int64_t group) {
    const int64_t in = factors_.in;
    for (size_t i = 0; i < factors_.layers.size(); ++i) {
      const auto& layer = factors_.layers[i];
      const int64_t rank = layer.rank, out = layer.out;
      if (!sum_A_.empty()) {
        std::copy_n(sum_A_[layer.first], rank * in, call_.grad_A[i].template mutable_data_ptr<T>() + group * rank * in);
      }
      if (!sum_B_.empty()) {
        T* to = call_.grad_B[i].template mutable_data_ptr<T>() + group * rank * out;
        loops<T>().transpose(sum_B_[i][0], rank, out, addresses(to, out, rank).data());
      }
    }
  }

 private:
  const Call& call_;
  Factors<T, Row> factors_;
  T *sums_, *shrunk_grad_, *shrunk_;
  std::vector<T*> sum_A_;
  std::vector<std::vector<T*>> sum_B_;
  Rows<Row> x_;
  std::vector<Rows<Row>> grads_;
  std::optional<Rows<Row>> start_, out_;
  std::vector<const Row*> next_;
};

}  // namespace hyperloader::cpu::lora_linear
