// The adapters' activations and their derivatives.
#pragma once

#include "../activation.h"

namespace hyperloader::cuda {

// S is float or double; the functions of <cmath> are overloaded for both.
template <typename S>
struct Activated {
  S value, slope;
};

template <typename S>
__device__ __forceinline__ Activated<S> activate(Activation activation, S pre) {
  switch (activation) {
    case Activation::kGeluNew: {
      constexpr S kScale = S(0.7978845608028654), kCubic = S(0.044715);  // sqrt(2 / pi)
      const S tanh = ::tanh(kScale * (pre + kCubic * pre * pre * pre));
      const S inner = kScale * (1 + 3 * kCubic * pre * pre);
      return {S(0.5) * pre * (1 + tanh), S(0.5) * (1 + tanh) + S(0.5) * pre * (1 - tanh * tanh) * inner};
    }
    case Activation::kGelu: {
      constexpr S kHalfRoot = S(0.7071067811865476), kDensity = S(0.3989422804014327);  // 1 / sqrt(2), 1 / sqrt(2 pi)
      const S below = S(0.5) * (1 + ::erf(pre * kHalfRoot));
      return {pre * below, below + pre * kDensity * ::exp(S(-0.5) * pre * pre)};
    }
    case Activation::kRelu: return {pre > 0 ? pre : S(0), pre > 0 ? S(1) : S(0)};
    default: {
      const S gate = 1 / (1 + ::exp(-pre));
      return {pre * gate, gate * (1 + pre * (1 - gate))};
    }
  }
}

}  // namespace hyperloader::cuda
