// Stands in for csrc/cuda/workspace.h: each place is memory of its own, so that AddressSanitizer sees what is beyond
// it.
#pragma once

#include <vector>

#include "launch.h"

namespace hyperloader::cuda {

class Workspace {
 public:
  template <typename T>
  struct Place {
    size_t number;
  };

  template <typename T>
  Place<T> reserve(int64_t count) {
    bytes_.push_back(count * static_cast<int64_t>(sizeof(T)));
    return {bytes_.size() - 1};
  }

  // A place without bytes has an address, too.
  void allocate(const Tensor& like) {
    const auto options = like.options().dtype(at::kByte);
    for (const int64_t bytes : bytes_) places_.push_back(at::empty({std::max<int64_t>(bytes, 1)}, options));
  }

  template <typename T>
  T* operator[](Place<T> place) const {
    return reinterpret_cast<T*>(places_.at(place.number).mutable_data_ptr());
  }

 private:
  std::vector<int64_t> bytes_;
  std::vector<Tensor> places_;
};

}  // namespace hyperloader::cuda
