// Dtypes: what sums are taken in, loads of several numbers, loads and stores of a dtype known at run time.
#pragma once

#include <c10/core/ScalarType.h>

#include "copy.cuh"
#include "mma.cuh"

#include <array>

namespace hyperloader::cuda {

using c10::BFloat16;
using c10::Half;

template <typename T>
using Sum = std::conditional_t<std::is_same_v<T, double>, double, float>;

template <typename T>
constexpr bool kIsHalf = std::is_same_v<T, BFloat16> || std::is_same_v<T, Half>;

template <typename T, int kCount>
struct alignas(sizeof(T) * kCount < 16 ? sizeof(T) * kCount : 16) Numbers {
  T at[kCount];
};

// The same bytes as another type.
template <typename To, typename From>
__device__ __forceinline__ To bytes_as(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof(To));
  return to;
}

// What an access of so many bytes gives.
template <size_t kBytes>
using Word = std::conditional_t<kBytes == 16, uint4, std::conditional_t<kBytes == 8, uint2, uint32_t>>;

// `valid` of them lie in memory, and the rest are zero; with `aligned` the address is one of a whole Numbers. Half
// precision is put together in words of two numbers, whichever way it was read: else the compiler takes the numbers of
// a wide access apart as soon as it has begun, and so waits for each before it begins the next.
template <int kCount, typename T>
__device__ __forceinline__ Numbers<T, kCount> load(const T* from, int64_t valid, bool aligned) {
  if constexpr (sizeof(T) == 2 && kCount % 2 == 0) {
    std::array<uint32_t, kCount / 2> words;
    if (aligned && valid >= kCount) {
      const auto word = *reinterpret_cast<const Word<sizeof(words)>*>(from);
      words = bytes_as<decltype(words)>(word);
    } else {
      const auto bits = [&](int i) -> uint32_t { return i < valid ? reinterpret_cast<const uint16_t*>(from)[i] : 0; };
#pragma unroll
      for (int i = 0; i < kCount / 2; ++i) words[i] = bits(2 * i) | bits(2 * i + 1) << 16;
    }
    return bytes_as<Numbers<T, kCount>>(words);
  }
  if (aligned && valid >= kCount) return *reinterpret_cast<const Numbers<T, kCount>*>(from);
  Numbers<T, kCount> found;
#pragma unroll
  for (int i = 0; i < kCount; ++i) found.at[i] = i < valid ? from[i] : T(0);
  return found;
}

// All of them in one access of up to 16 bytes, at an address that is a whole such access, or zeros: no branch, so that
// neighbouring loads are on their way together.
template <int kCount, typename T>
__device__ __forceinline__ Numbers<T, kCount> load_whole(const T* from, bool exists) {
  using Own = Word<sizeof(T) * kCount>;
  const Own word = exists ? *reinterpret_cast<const Own*>(from) : Own{};
  return bytes_as<Numbers<T, kCount>>(word);
}

// To global memory.
template <int kCount, typename T>
__device__ __forceinline__ void store(T* to, const Numbers<T, kCount>& numbers, int64_t valid, bool aligned) {
  if (aligned && valid >= kCount) {
    constexpr int kBytes = sizeof(numbers);
    if constexpr (kBytes % 16 == 0) {
      const auto words = bytes_as<std::array<uint4, kBytes / 16>>(numbers);
#pragma unroll
      for (int i = 0; i < kBytes / 16; ++i) store_16(reinterpret_cast<uint4*>(to) + i, words[i]);
    } else {
      *reinterpret_cast<Numbers<T, kCount>*>(to) = numbers;
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    if (i < valid) to[i] = numbers.at[i];
  }
}

// To shared memory, at an address of whole 16 bytes.
template <int kCount, typename T>
__device__ __forceinline__ void store_shared(T* to, const Numbers<T, kCount>& numbers) {
  const auto words = bytes_as<std::array<uint4, sizeof(numbers) / 16>>(numbers);
#pragma unroll
  for (size_t i = 0; i < words.size(); ++i) reinterpret_cast<uint4*>(to)[i] = words[i];
}

// 1 / sqrt(value).
__device__ __forceinline__ float inverse_root(float value) { return ::rsqrtf(value); }
__device__ __forceinline__ double inverse_root(double value) { return 1 / ::sqrt(value); }

// Whether rows of `width` numbers from `data` on may be read eight numbers at a time, 16 bytes an access.
template <typename T>
bool rows_aligned(const T* data, int64_t width) {
  constexpr int64_t kBytes = 16;
  return reinterpret_cast<uintptr_t>(data) % kBytes == 0 && width * static_cast<int64_t>(sizeof(T)) % kBytes == 0;
}

template <typename T>
__device__ __forceinline__ uint32_t pack(float first, float second) {
  return bytes_as<uint32_t>(Numbers<T, 2>{{static_cast<T>(first), static_cast<T>(second)}});
}

// In the dtype of sums.
template <typename T, int kCount>
__device__ __forceinline__ Numbers<Sum<T>, kCount> widened(const Numbers<T, kCount>& numbers) {
  Numbers<Sum<T>, kCount> found;
  if constexpr (std::is_same_v<T, BFloat16> && kCount % 2 == 0) {  // the upper half of a float32
    const auto words = bytes_as<std::array<uint32_t, kCount / 2>>(numbers);
#pragma unroll
    for (int i = 0; i < kCount / 2; ++i) {
      found.at[2 * i] = bytes_as<float>(words[i] << 16);
      found.at[2 * i + 1] = bytes_as<float>(words[i] & 0xffff0000u);
    }
  } else {
#pragma unroll
    for (int i = 0; i < kCount; ++i) found.at[i] = static_cast<Sum<T>>(numbers.at[i]);
  }
  return found;
}

// Numbers of a dtype that is known at run time.
struct AnyNumbers {
  const void* data;
  at::ScalarType dtype;

  template <typename T>
  __device__ T load(int64_t index) const {
    switch (dtype) {
      case at::kDouble: return static_cast<T>(static_cast<const double*>(data)[index]);
      case at::kHalf: return static_cast<T>(static_cast<const Half*>(data)[index]);
      case at::kBFloat16: return static_cast<T>(static_cast<const BFloat16*>(data)[index]);
      default: return static_cast<T>(static_cast<const float*>(data)[index]);
    }
  }

  // visit(a pointer to them in their dtype): one choice for many accesses, which are then on their way together.
  template <typename Visit>
  __device__ __forceinline__ void visit(const Visit& visit) const {
    switch (dtype) {
      case at::kDouble: return visit(static_cast<const double*>(data));
      case at::kHalf: return visit(static_cast<const Half*>(data));
      case at::kBFloat16: return visit(static_cast<const BFloat16*>(data));
      default: return visit(static_cast<const float*>(data));
    }
  }

  // Whether the number of this index begins a whole 16 bytes.
  __device__ bool begins_whole(int64_t index) const {
    const int64_t size = dtype == at::kDouble ? 8 : dtype == at::kHalf || dtype == at::kBFloat16 ? 2 : 4;
    return (reinterpret_cast<uintptr_t>(data) + index * size) % 16 == 0;
  }

  // Several from `index` on, as `cuda::load` takes them.
  template <typename T, int kCount>
  __device__ Numbers<T, kCount> load(int64_t index, int64_t valid, bool aligned) const {
    switch (dtype) {
      case at::kDouble: return load_as<double, T, kCount>(index, valid, aligned);
      case at::kHalf: return load_as<Half, T, kCount>(index, valid, aligned);
      case at::kBFloat16: return load_as<BFloat16, T, kCount>(index, valid, aligned);
      default: return load_as<float, T, kCount>(index, valid, aligned);
    }
  }

 private:
  template <typename Own, typename T, int kCount>
  __device__ __forceinline__ Numbers<T, kCount> load_as(int64_t index, int64_t valid, bool aligned) const {
    const auto own = cuda::load<kCount>(static_cast<const Own*>(data) + index, valid, aligned);
    Numbers<T, kCount> found;
#pragma unroll
    for (int i = 0; i < kCount; ++i) found.at[i] = static_cast<T>(own.at[i]);
    return found;
  }
};

struct AnyResults {
  void* data;
  at::ScalarType dtype;

  template <typename T>
  __device__ void store(int64_t index, T value) const {
    switch (dtype) {
      case at::kDouble: static_cast<double*>(data)[index] = static_cast<double>(value); break;
      case at::kHalf: static_cast<Half*>(data)[index] = static_cast<Half>(static_cast<float>(value)); break;
      case at::kBFloat16: static_cast<BFloat16*>(data)[index] = static_cast<BFloat16>(static_cast<float>(value)); break;
      default: static_cast<float*>(data)[index] = static_cast<float>(value);
    }
  }

  // Several from `index` on, as `cuda::store` takes them.
  template <typename T, int kCount>
  __device__ void store(int64_t index, const Numbers<T, kCount>& numbers, int64_t valid, bool aligned) const {
    switch (dtype) {
      case at::kDouble: store_as<double>(index, numbers, valid, aligned); break;
      case at::kHalf: store_as<Half>(index, numbers, valid, aligned); break;
      case at::kBFloat16: store_as<BFloat16>(index, numbers, valid, aligned); break;
      default: store_as<float>(index, numbers, valid, aligned);
    }
  }

 private:
  template <typename Own, typename T, int kCount>
  __device__ __forceinline__ void store_as(
      int64_t index, const Numbers<T, kCount>& numbers, int64_t valid, bool aligned) const {
    using Rounded = std::conditional_t<std::is_same_v<Own, double>, double, float>;
    Numbers<Own, kCount> own;
#pragma unroll
    for (int i = 0; i < kCount; ++i) own.at[i] = static_cast<Own>(static_cast<Rounded>(numbers.at[i]));
    cuda::store<kCount>(static_cast<Own*>(data) + index, own, valid, aligned);
  }
};

}  // namespace hyperloader::cuda
