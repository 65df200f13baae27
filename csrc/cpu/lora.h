// What the forward and the backward of lora_linear share on the CPU.
#pragma once

#include "workers.h"

namespace hyperloader::cpu {

struct LoraCall {
  Tensor x;           // (tokens, in_features)
  Tensor grad;        // (tokens, out_features), in the backward
  Tensor start, out;  // out = start + update, (tokens, features); undefined where not wanted
  Tensor lora_A, lora_B;
  Tensor grad_A, grad_B;  // undefined where not wanted
  double scaling;
  const Tokens& tokens;
};

// One group's lora_A, and its lora_B with a row per unit of the rank.
template <typename T>
struct Factors {
  int64_t in, out, rank;
  std::vector<const T*> A, B;

  Factors(const LoraCall& call, Arena<T>& arena)
      : in(call.lora_A.size(-1)),
        out(call.lora_B.size(-2)),
        rank(call.lora_A.size(-2)),
        A(rank),
        transposed_(addresses(arena.take(rank * out), rank, out)) {}

  void prepare(const LoraCall& call, int64_t group) {
    const T* first = call.lora_A.const_data_ptr<T>() + group * rank * in;
    for (int64_t i = 0; i < rank; ++i) A[i] = first + i * in;
    kernels<T>().transpose(call.lora_B.const_data_ptr<T>() + group * rank * out, out, rank, transposed_.data());
    B.assign(transposed_.begin(), transposed_.end());
  }

  // shrunk = scaling · rows · factorᵀ, (count, rank).
  void shrink(
      const T* const* rows, int64_t count, const std::vector<const T*>& factor, int64_t width, double scaling,
      T* shrunk, const std::vector<const T*>& next) const {
    kernels<T>().dot(
        rows, count, factor.data(), rank, width, shrunk, rank, next.data(), static_cast<int64_t>(next.size()));
    for (int64_t i = 0; i < count * rank; ++i) shrunk[i] *= T(scaling);
  }

 private:
  std::vector<T*> transposed_;
};

// out = start + scaling · (x · lora_Aᵀ) · lora_Bᵀ.
template <typename T>
class LoraForward {
 public:
  LoraForward(const LoraCall& call, Arena<T>& arena)
      : call_(call),
        factors_(call, arena),
        shrunk_(arena.take(kTile * factors_.rank)),
        x_(call.x, factors_.in, arena.take(Rows<T>::buffered(call.x, factors_.in))),
        start_(call.start, factors_.out, arena.take(Rows<T>::buffered(call.start, factors_.out))),
        out_(call.out, factors_.out, arena.take(Rows<T>::buffered(call.out, factors_.out))) {}

  void prepare(int64_t group) { factors_.prepare(call_, group); }

  void tile(int64_t begin, int64_t count, int64_t ahead) {
    int64_t rows[2 * kTile];
    call_.tokens.rows(begin, begin + count + ahead, rows);
    next_.clear();
    x_.ahead(rows + count, ahead, next_);
    factors_.shrink(x_.read(rows, count), count, factors_.A, factors_.in, call_.scaling, shrunk_, next_);
    kernels<T>().accumulate(
        out_.write(rows, count), start_.read(rows, count), count, shrunk_, factors_.rank, 1, factors_.B.data(),
        factors_.rank, factors_.out);
    out_.wrote(rows, count);
  }

 private:
  const LoraCall& call_;
  Factors<T> factors_;
  T* shrunk_;
  Rows<T> x_, start_, out_;
  std::vector<const T*> next_;
};

// With s = scaling · grad · lora_B: out = start + s · lora_A, grad_A = Σ sᵀ x, grad_B = Σ gradᵀ (scaling · x ·
// lora_Aᵀ).
template <typename T>
class LoraBackward {
 public:
  LoraBackward(const LoraCall& call, Arena<T>& arena)
      : call_(call),
        factors_(call, arena),
        sums_(arena.take(size(call))),
        shrunk_grad_(arena.take(kTile * factors_.rank)),
        shrunk_(arena.take(kTile * factors_.rank)),
        x_(call.x, factors_.in, arena.take(Rows<T>::buffered(call.x, factors_.in))),
        grad_(call.grad, factors_.out, arena.take(Rows<T>::buffered(call.grad, factors_.out))) {
    if (call.out.defined()) {
      start_.emplace(call.start, factors_.in, arena.take(Rows<T>::buffered(call.start, factors_.in)));
      out_.emplace(call.out, factors_.in, arena.take(Rows<T>::buffered(call.out, factors_.in)));
    }
    if (sums_ == nullptr) return;
    const int64_t of_A = call.grad_A.defined() ? factors_.rank * factors_.in : 0;
    if (call.grad_A.defined()) sum_A_ = addresses(sums_, factors_.rank, factors_.in);
    if (call.grad_B.defined()) sum_B_ = addresses(sums_ + of_A, factors_.rank, factors_.out);
  }

  // How many numbers are summed for each group.
  static int64_t size(const LoraCall& call) {
    const int64_t rank = call.lora_A.size(-2);
    return (call.grad_A.defined() ? rank * call.lora_A.size(-1) : 0) +
           (call.grad_B.defined() ? rank * call.lora_B.size(-2) : 0);
  }

  void prepare(int64_t group) { factors_.prepare(call_, group); }

  T* sums() { return sums_; }

  void tile(int64_t begin, int64_t count, int64_t ahead) {
    const auto& k = kernels<T>();
    const int64_t rank = factors_.rank, in = factors_.in, out = factors_.out;
    int64_t rows[2 * kTile];
    call_.tokens.rows(begin, begin + count + ahead, rows);
    const T* const* grad = grad_.read(rows, count);
    next_.clear();
    grad_.ahead(rows + count, ahead, next_);
    if (out_ || !sum_A_.empty()) {
      factors_.shrink(grad, count, factors_.B, out, call_.scaling, shrunk_grad_, next_);
    }
    if (out_) {
      k.accumulate(
          out_->write(rows, count), start_->read(rows, count), count, shrunk_grad_, rank, 1, factors_.A.data(), rank,
          in);
      out_->wrote(rows, count);
    }
    if (sums_ == nullptr) return;
    const T* const* x = x_.read(rows, count);
    next_.clear();
    x_.ahead(rows + count, ahead, next_);
    if (!sum_A_.empty()) k.accumulate(sum_A_.data(), sum_A_.data(), rank, shrunk_grad_, 1, rank, x, count, in);
    if (!sum_B_.empty()) {
      factors_.shrink(x, count, factors_.A, in, call_.scaling, shrunk_, next_);
      k.accumulate(sum_B_.data(), sum_B_.data(), rank, shrunk_, 1, rank, grad, count, out);
    }
  }

  void finish(int64_t group) {
    const int64_t rank = factors_.rank, in = factors_.in, out = factors_.out;
    if (!sum_A_.empty()) std::copy_n(sum_A_[0], rank * in, call_.grad_A.mutable_data_ptr<T>() + group * rank * in);
    if (!sum_B_.empty()) {
      const std::vector<T*> to = addresses(call_.grad_B.mutable_data_ptr<T>() + group * rank * out, out, rank);
      kernels<T>().transpose(sum_B_[0], rank, out, to.data());
    }
  }

 private:
  const LoraCall& call_;
  Factors<T> factors_;
  T *sums_, *shrunk_grad_, *shrunk_;
  std::vector<T*> sum_A_, sum_B_;
  Rows<T> x_, grad_;
  std::optional<Rows<T>> start_, out_;
  std::vector<const T*> next_;
};

}  // namespace hyperloader::cpu
