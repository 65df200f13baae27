// Half-precision numbers, to T and back.
// A part of implementation.h, which includes it once for every instruction set.

HYPERLOADER_INLINE uint32_t bits_of(float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof bits);
  return bits;
}

HYPERLOADER_INLINE float of_bits(uint32_t bits) {
  float value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}

// float16 numbers through their exponent's place in a float32: scaling by 2¹¹² brings subnormal ones right, too.
HYPERLOADER_INLINE float of_half(uint16_t half) {
  const uint32_t magnitude = half & 0x7FFFU;
  const float finite = of_bits(magnitude << 13) * 0x1p112F;
  const uint32_t bits = magnitude >= 0x7C00U ? 0x7F800000U | (magnitude << 13) : bits_of(finite);
  return of_bits(bits | uint32_t(half & 0x8000U) << 16);
}

HYPERLOADER_INLINE uint16_t to_half(float value) {
  const uint32_t bits = bits_of(value), magnitude = bits & 0x7FFFFFFFU;
  uint32_t half;
  if (magnitude > 0x7F800000U) {
    half = 0x7E00U;  // not a number
  } else if (magnitude >= 0x477FF000U) {
    half = 0x7C00U;  // rounds to infinity
  } else if (magnitude < 0x38800000U) {
    half = bits_of(of_bits(magnitude) + 0.5F) - 0x3F000000U;  // subnormal: the sum rounds at 2⁻²⁴
  } else {
    half = (magnitude + 0xC8000FFFU + ((magnitude >> 13) & 1U)) >> 13;
  }
  return uint16_t(half | ((bits >> 16) & 0x8000U));
}

HYPERLOADER_INLINE float of_bfloat16(uint16_t value) { return of_bits(uint32_t(value) << 16); }

HYPERLOADER_INLINE uint16_t to_bfloat16(float value) {
  const uint32_t bits = bits_of(value);
  const uint32_t rounded = (bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16;
  return uint16_t((bits & 0x7FFFFFFFU) > 0x7F800000U ? 0x7FC0U : rounded);
}

template <typename T>
void widen(const void* from, Half dtype, T* to, int64_t count) {
  const auto* numbers = static_cast<const uint16_t*>(from);
  if (dtype == Half::kBFloat16) {
    for (int64_t i = 0; i < count; ++i) to[i] = of_bfloat16(numbers[i]);
  } else {
    for (int64_t i = 0; i < count; ++i) to[i] = of_half(numbers[i]);
  }
}

template <typename T>
void narrow(const T* from, void* to, Half dtype, int64_t count) {
  auto* numbers = static_cast<uint16_t*>(to);
  if (dtype == Half::kBFloat16) {
    for (int64_t i = 0; i < count; ++i) numbers[i] = to_bfloat16(float(from[i]));
  } else {
    for (int64_t i = 0; i < count; ++i) numbers[i] = to_half(float(from[i]));
  }
}
