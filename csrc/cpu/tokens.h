// The tokens of a batch in the order of their groups, shared out among threads, and read and written tile by tile.
#pragma once

#include <algorithm>
#include <optional>
#include <type_traits>

#include "../ops.h"
#include "loops/loops.h"

namespace hyperloader::cpu {

constexpr int64_t kTile = 32;  // tokens: two or three tiles and the weights fit the second cache

// Tokens [begin, end) of a group; `whole` if they are all of the group's.
struct Piece {
  int64_t group, begin, end;
  bool whole;
};

// Tokens are counted along their groups: first all of group 0, then all of group 1. A sentence keeps its tokens
// together.
class Tokens {
 public:
  Tokens(const Tensor& x, const std::optional<Tensor>& group, int64_t groups);

  int64_t count() const { return first_.back(); }
  int64_t groups() const { return static_cast<int64_t>(first_.size()) - 1; }
  int64_t groups_present() const;
  bool empty(int64_t group) const { return first_[group] == first_[group + 1]; }

  // The rows of x that tokens [begin, end) are.
  void rows(int64_t begin, int64_t end, int64_t* rows) const;

  // Nearly equal shares, one a thread, each cut at the groups' bounds; few where `work` multiplications a token make
  // few worth a thread.
  std::vector<std::vector<Piece>> share(int64_t work) const;

 private:
  int64_t per_sentence_;
  std::vector<int64_t> sentences_;  // ordered by group; empty where x is in order as it is
  std::vector<int64_t> first_;      // (groups + 1) the number of each group's first token
};

// Memory for one thread, handed out piece by piece. Without memory it counts how much it would take.
template <typename T>
class Arena {
 public:
  explicit Arena(T* memory) : memory_(memory) {}

  T* take(int64_t count) {
    constexpr int64_t kAligned = 64 / sizeof(T);
    T* taken = memory_ == nullptr || count == 0 ? nullptr : memory_ + used_;
    used_ += (count + kAligned - 1) / kAligned * kAligned;
    return taken;
  }
  T* take_zeros(int64_t count) {
    T* taken = take(count);
    if (taken != nullptr) std::fill_n(taken, count, T(0));
    return taken;
  }
  int64_t used() const { return used_; }

 private:
  T* memory_;
  int64_t used_ = 0;
};

// The dtype of rows that are read as they lie.
template <typename Row>
constexpr at::ScalarType dtype_of = c10::CppTypeToScalarType<Row>::value;
template <>
inline constexpr at::ScalarType dtype_of<BFloat16> = at::kBFloat16;

// The rows of a tensor (tokens, width) as numbers of Row, whatever its dtype is: where they lie, or through a buffer of
// one tile. Those of bfloat16 always lie in the tensor.
template <typename Row>
class Rows {
 public:
  template <typename T>
  Rows(const Tensor& tensor, int64_t width, Arena<T>& arena)
      : data_(static_cast<char*>(const_cast<void*>(tensor.const_data_ptr()))),
        dtype_(tensor.scalar_type()),
        step_(width * static_cast<int64_t>(tensor.element_size())),
        width_(width) {
    if constexpr (std::is_same_v<T, Row>) {
      if (dtype_ != dtype_of<Row>) buffer_ = arena.take(kTile * width);
    }
  }

  const Row* const* read(const int64_t* rows, int64_t count) {
    find(rows, count);
    if constexpr (std::is_floating_point_v<Row>) {
      for (int64_t i = 0; buffer_ != nullptr && i < count; ++i) {
        loops<Row>().widen(data_ + rows[i] * step_, half(), addresses_[i], width_);
      }
    }
    return addresses_;
  }

  // What was read last.
  const Row* const* found() const { return addresses_; }

  // Adds the addresses of rows that are soon to be read, as far as they are read where they lie.
  void ahead(const int64_t* rows, int64_t count, std::vector<const Row*>& next) const {
    for (int64_t i = 0; buffer_ == nullptr && i < count; ++i) {
      next.push_back(reinterpret_cast<const Row*>(data_ + rows[i] * step_));
    }
  }

  // Where to write these rows; `wrote` brings them to the tensor.
  Row* const* write(const int64_t* rows, int64_t count) {
    find(rows, count);
    return addresses_;
  }
  void wrote(const int64_t* rows, int64_t count) {
    if constexpr (std::is_floating_point_v<Row>) {
      for (int64_t i = 0; buffer_ != nullptr && i < count; ++i) {
        loops<Row>().narrow(addresses_[i], data_ + rows[i] * step_, half(), width_);
      }
    }
  }

 private:
  Half half() const { return dtype_ == at::kBFloat16 ? Half::kBFloat16 : Half::kFloat16; }

  void find(const int64_t* rows, int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
      addresses_[i] = buffer_ == nullptr ? reinterpret_cast<Row*>(data_ + rows[i] * step_) : buffer_ + i * width_;
    }
  }

  char* data_;
  at::ScalarType dtype_;
  int64_t step_, width_;
  Row* buffer_ = nullptr;  // none where the tensor holds such numbers
  Row* addresses_[kTile];
};

// Rows of T as numbers of Row: those of a matrix of T themselves, or rounded copies.
template <typename T, typename Row>
class Packed {
 public:
  Packed(int64_t rows, int64_t width, Arena<T>& arena) : width_(width) {
    if constexpr (!std::is_same_v<T, Row>) {
      copies_ = reinterpret_cast<Row*>(arena.take((rows * width * sizeof(Row) + sizeof(T) - 1) / sizeof(T)));
    }
  }

  const Row* row(int64_t i, const T* from) {
    if constexpr (std::is_same_v<T, Row>) {
      return from;
    } else {
      loops<T>().narrow(from, copies_ + i * width_, Half::kBFloat16, width_);
      return copies_ + i * width_;
    }
  }

 private:
  int64_t width_;
  Row* copies_ = nullptr;
};

inline bool is_bfloat16(const Tensor& tensor) { return tensor.scalar_type() == at::kBFloat16; }

// The numbers of a call: T is what is summed, Row what the products read: T, or bfloat16 where they lie, if this
// processor has such products and everything is bfloat16. Weights of float32 keep their digits.
template <typename Number, typename Stored>
struct Numbers {
  using T = Number;
  using Row = Stored;
};

// Calls run(Numbers<T, Row>()).
template <typename Run>
void with_numbers(at::ScalarType accumulated, bool reads_bfloat16, const Run& run) {
  if (accumulated == at::kDouble) {
    run(Numbers<double, double>());
  } else if (reads_bfloat16) {
    run(Numbers<float, BFloat16>());
  } else {
    run(Numbers<float, float>());
  }
}

// The addresses of the rows of a matrix.
template <typename T>
std::vector<T*> addresses(T* matrix, int64_t rows, int64_t stride) {
  std::vector<T*> found(rows, nullptr);
  for (int64_t i = 0; matrix != nullptr && i < rows; ++i) found[i] = matrix + i * stride;
  return found;
}

// The tensor in another dtype, where need be. Between float32 and half precision without the dispatcher: a call of an
// operator with small weights converts a dozen of them.
Tensor as_dtype(const Tensor& tensor, at::ScalarType dtype);

// The tensor as T and contiguous: itself wherever it is so already.
inline Tensor contiguous_as(const Tensor& tensor, at::ScalarType dtype) {
  if (!tensor.defined()) return tensor;
  return as_dtype(tensor, dtype).contiguous();
}

inline Tensor contiguous(const Tensor& tensor) { return tensor.is_contiguous() ? tensor : tensor.contiguous(); }

inline int64_t round_up(int64_t count, int64_t step) { return (count + step - 1) / step * step; }

}  // namespace hyperloader::cpu
