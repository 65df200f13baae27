// What the forward and the backward of lora_linear share on CUDA devices: the factors of several updates of the same
// x, and the two kernels that read the tokens.
//
// The frozen products are the library's, and each is added to what it finds (beta = 1). So the low-rank part comes
// first: one kernel reads x once for all updates, multiplies it with their lora_A (the tile's units stay in shared
// memory), and writes bias + scaling · lora_B · units where the product will be. Nothing of the size of an output is
// read by us, and the sum is rounded once, by the product. The gradient of x is made the same way. Of a forward with
// T tokens, n layers, R units in all (ranks in steps of 8) and b bytes a number, beside the frozen products:
//
//     memory               b · T · in, where x is not in the second cache yet
//     second cache         b · (T · (in + 2 Σ out) + T / height · R · (in + out)): x, results written by us and read by
//                          the products; the factors once for each tile of `height` (16, 32) tokens
//     operations           4 · T · R · (in + out) at most
//     launches             1; with results beyond `kCached`, 1 for each layer, right before its product
//
// and of a backward in two passes (x and the gradients of the outputs twice, the second time from the second cache;
// once: `lora_linear_resident.cuh`):
//
//     memory               b · T · (in + Σ out), and once more what of it the second cache has lost
//     second cache         b · T · (4 in + 2 Σ out) + 2 b · T / height · R · (in + out) + b · T · R · (in + out) / 64
//     launches             3
//
// Factors that are no whole steps, contiguous and of the products' dtype are laid out first, in one launch more.
#pragma once

#include "../lora_linear.h"
#include "dispatch.h"
#include "sums.cuh"
#include "weights.cuh"
#include "workspace.h"

namespace hyperloader::cuda {

constexpr int kProjections = 8;                 // of one launch
constexpr int64_t kCached = int64_t{24} << 20;  // bytes that surely stay in the second cache of a large GPU

// One layer. All layers' units stand side by side; what is padded is zero.
template <typename X, typename C>
struct Projection {
  const C *A, *B;              // of each group (units, padded in_features), (padded out_features, units)
  int64_t A_stride, B_stride;  // between groups
  int first, units, out;
  const X* grad;    // (tokens, out)
  void* result;     // (tokens, out); null where it is not wanted
  AnyNumbers bias;  // (out); null where there is none
};

// shrunk = scaling · x · Aᵀ and result = bias + shrunk · Bᵀ; with grads shrunk_grad = scaling · grad · B and
// grad_x = Σ shrunk_grad · A.
template <typename X, typename C>
struct LowRank {
  Tokens tokens;
  Projection<X, C> of[kProjections];
  int count = 0;
  int in_features, units;
  bool reads_x, reads_grads, aligned;
  bool wide;   // results and grad_x hold the dtype of sums, not X
  const X* x;  // (tokens, in_features)
  C* shrunk;   // (tokens, units), as the next; null where it is not wanted, and read where x is not
  C* shrunk_grad;
  void* grad_x;  // (tokens, in_features); null where it is not wanted
  Sum<X> scaling;
};

template <typename X, typename C>
void run_low_rank(LowRank<X, C> call);

// The factors of up to kProjections layers.
class Updates {
 public:
  Updates(at::TensorList lora_A, at::TensorList lora_B, bool grouped, int64_t groups)
      : A_(lora_A), B_(lora_B), grouped_(grouped), groups_(groups) {}

  int64_t groups() const { return groups_; }
  int64_t rank(size_t i) const { return A_[i].size(-2); }
  // Whether all factors have the dtype of x.
  bool same_dtypes(const Tensor& x) const {
    const auto same = [&](const Tensor& factor) { return factor.scalar_type() == x.scalar_type(); };
    return std::all_of(A_.begin(), A_.end(), same) && std::all_of(B_.begin(), B_.end(), same);
  }
  int64_t units() const {
    int64_t found = 0;
    for (const Tensor& factor : A_) found += padded_units(factor.size(-2));
    return found;
  }

  // The layers, whose factors are laid out in `memory` where they cannot be read as they are; `kept` is that memory.
  template <typename X, typename C>
  LowRank<X, C> call(const Tensor& x, double scaling, Workspace& kept) const {
    LowRank<X, C> call{};
    call.tokens = Tokens{};
    call.in_features = static_cast<int>(x.size(-1));
    call.scaling = static_cast<Sum<X>>(scaling);
    std::vector<std::pair<Factor<C>, Factor<C>>> factors;
    for (size_t i = 0; i < A_.size(); ++i) {
      const int64_t units = padded_units(rank(i)), out = B_[i].size(-2);
      factors.emplace_back(
          Factor<C>(A_[i], grouped_, groups_, units, padded(call.in_features), kept),
          Factor<C>(B_[i], grouped_, groups_, padded(out), units, kept));
    }
    kept.allocate(x);
    Layouts layouts;
    for (const auto& [A, B] : factors) {
      Projection<X, C>& layer = call.of[call.count];
      layer.first = call.units;
      layer.units = static_cast<int>(padded_units(rank(call.count)));
      layer.out = static_cast<int>(B_[call.count++].size(-2));
      call.units += layer.units;
      layer.A = A.at(kept, layouts, layer.A_stride);
      layer.B = B.at(kept, layouts, layer.B_stride);
    }
    if (layouts.count > 0) lay_out<C>(layouts, groups_);
    return call;
  }

 private:
  template <typename C>
  class Factor {
   public:
    Factor(const Tensor& tensor, bool grouped, int64_t groups, int64_t rows, int64_t columns, Workspace& memory)
        : tensor_(tensor), grouped_(grouped), rows_(rows), columns_(columns), as_it_is_(fits()) {
      if (!as_it_is_) place_ = memory.reserve<C>(groups * rows * columns);
    }
    const C* at(const Workspace& memory, Layouts& layouts, int64_t& group_stride) const {
      group_stride = as_it_is_ ? (grouped_ ? tensor_.stride(0) : 0) : rows_ * columns_;
      if (as_it_is_) return tensor_.const_data_ptr<C>();
      layouts.add(Matrix{tensor_, grouped_}.layout(memory[place_], false, rows_, columns_));
      return memory[place_];
    }

   private:
    bool fits() const {
      constexpr int64_t kTogether = 16 / sizeof(C);
      return tensor_.scalar_type() == c10::CppTypeToScalarType<C>::value && tensor_.size(-2) == rows_ &&
             tensor_.size(-1) == columns_ && tensor_.stride(-2) == columns_ && tensor_.stride(-1) == 1 &&
             (!grouped_ || tensor_.stride(0) % kTogether == 0) &&
             reinterpret_cast<uintptr_t>(tensor_.const_data_ptr()) % 16 == 0;
    }

    const Tensor& tensor_;
    bool grouped_;
    int64_t rows_, columns_;
    bool as_it_is_;
    Workspace::Place<C> place_{};
  };

  at::TensorList A_, B_;
  bool grouped_;
  int64_t groups_;
};

// The dtype of the frozen product: that of x and weight, float32 where a float32 weight stands beside a half x.
inline at::ScalarType product_dtype(const Tensor& x, const Tensor& weight) {
  return x.scalar_type() == weight.scalar_type() ? x.scalar_type() : accumulate_dtype(x.scalar_type());
}

inline Tensor as_matrix(const Tensor& tensor) {
  return tensor.dim() == 2
             ? tensor
             : tensor.reshape({c10::multiply_integers(tensor.sizes().slice(0, tensor.dim() - 1)), tensor.size(-1)});
}

// Whether a product that starts in `tensor` may be accessed 16 bytes at a time.
inline bool rows_aligned(const Tensor& tensor) {
  return reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) % 16 == 0 &&
         tensor.size(-1) * tensor.element_size() % 16 == 0;
}

}  // namespace hyperloader::cuda
