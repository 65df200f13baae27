// Stands in for csrc/cuda/workspace.h: each place is memory of its own, so that AddressSanitizer sees what is beyond
// it, and holds what nobody may take for a result: numbers that are none, or integers that could be a group.
#pragma once

#include <type_traits>
#include <vector>

#include <ATen/ops/full.h>

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
    reserved_.push_back({count * static_cast<int64_t>(sizeof(T)), std::is_integral_v<T> ? 0 : 0xff});
    return {reserved_.size() - 1};
  }

  // A place without bytes has an address, too.
  void allocate(const Tensor& like) {
    const auto options = like.options().dtype(at::kByte);
    for (const auto& [bytes, each] : reserved_) {
      places_.push_back(at::full({std::max<int64_t>(bytes, 1)}, each, options));
    }
  }

  template <typename T>
  T* operator[](Place<T> place) const {
    return reinterpret_cast<T*>(places_.at(place.number).mutable_data_ptr());
  }

 private:
  struct Reserved {
    int64_t bytes, each;
  };
  std::vector<Reserved> reserved_;
  std::vector<Tensor> places_;
};

}  // namespace hyperloader::cuda
