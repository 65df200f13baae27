// From dtypes to templates: X is the tokens' dtype, C that of products. C is X where all matrices have it too; beside a
// half-precision X with float32 matrices C is float.
#pragma once

#include "numbers.cuh"

namespace hyperloader::cuda {

template <typename Tokens, typename Products>
struct Types {
  using X = Tokens;
  using C = Products;
};

// function(Types<X, C>()).

template <typename Function>
void with_types(at::ScalarType x, bool same, const Function& function) {
  switch (x) {
    case at::kDouble: return function(Types<double, double>());
    case at::kHalf: return same ? function(Types<Half, Half>()) : function(Types<Half, float>());
    case at::kBFloat16: return same ? function(Types<BFloat16, BFloat16>()) : function(Types<BFloat16, float>());
    default: return function(Types<float, float>());
  }
}

}  // namespace hyperloader::cuda
