// Temporary memory of one call: what it needs is counted first, then allocated at once.
#pragma once

#include "launch.h"

namespace hyperloader::cuda {

class Workspace {
 public:
  template <typename T>
  struct Place {
    int64_t offset;
  };

  template <typename T>
  Place<T> reserve(int64_t count) {
    constexpr int64_t kAligned = 256;
    const int64_t offset = bytes_;
    bytes_ += (count * static_cast<int64_t>(sizeof(T)) + kAligned - 1) / kAligned * kAligned;
    return {offset};
  }

  void allocate(const Tensor& like) {
    if (bytes_ > 0) memory_ = at::empty({bytes_}, like.options().dtype(at::kByte));
  }

  template <typename T>
  T* operator[](Place<T> place) const {
    if (bytes_ == 0) return nullptr;
    return reinterpret_cast<T*>(static_cast<char*>(memory_.mutable_data_ptr()) + place.offset);
  }

 private:
  int64_t bytes_ = 0;
  Tensor memory_;
};

}  // namespace hyperloader::cuda
