// What the operators share on every device.
#pragma once

#include <c10/core/impl/LocalDispatchKeySet.h>

#include "flat.h"

namespace hyperloader {

// An undefined tensor where there is none, and back.
inline Tensor or_undefined(const Optional& tensor) { return tensor.value_or(Tensor()); }
inline Optional or_none(const Tensor& tensor) { return tensor.defined() ? Optional(tensor) : std::nullopt; }

// Sums are taken in float64 for float64, else in float32.
inline at::ScalarType accumulate_dtype(at::ScalarType dtype) { return dtype == at::kDouble ? at::kDouble : at::kFloat; }

// The operators choose their dtypes themselves: while this lives, autocast does not reach the products inside.
struct WithoutAutocast {
  c10::impl::ExcludeDispatchKeyGuard guard{c10::autocast_dispatch_keyset};
};

}  // namespace hyperloader
