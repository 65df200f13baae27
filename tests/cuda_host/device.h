// CUDA C++ for kernels that run on the host: what nvcc knows beyond C++.
#pragma once

#include <math.h>

#include <cstring>

#include "runtime.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(bytes) __attribute__((aligned(bytes)))
#if defined(__SANITIZE_ADDRESS__)
#define __shared__ static
#else
#define __shared__ static thread_local  // side by side, so that the runtime finds and fills them
#endif

struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};

template <typename T>
T __ldg(const T* from) {
  return *from;
}

inline float rsqrtf(float value) { return 1 / sqrtf(value); }
inline void __threadfence_block() {}
inline void __syncthreads(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  cuda_host::barrier("__syncthreads", 0, -1, {file, line});
}
inline void __syncwarp(unsigned mask = 0xffffffffu, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  cuda_host::collective("__syncwarp", mask, nullptr, [](const cuda_host::Operands&) {}, true, {file, line});
}

namespace cuda_host {

template <typename T>
struct Shuffle {
  T value;
  int source;
  T result;
};

// The value of another lane, the own where `source` lies outside of the part of `width` lanes.
template <typename T>
T shuffle(const char* name, unsigned mask, T value, int source, int width, Place place) {
  const int begin = lane() / width * width;
  Shuffle<T> own{value, source >= begin && source < begin + width ? source : lane(), value};
  collective(
      name, mask, &own,
      [](const Operands& lanes) {
        for (void* const lane : lanes) {
          if (lane == nullptr) continue;
          auto* const own = static_cast<Shuffle<T>*>(lane);
          const auto* const other = static_cast<const Shuffle<T>*>(lanes[own->source]);
          if (other == nullptr)
            fail("a shuffle reads lane " + std::to_string(own->source) + ", which its mask leaves out");
          own->result = other->value;
        }
      },
      false, place);
  return own.result;
}

struct Vote {
  bool value;
  unsigned result;
};

inline unsigned ballot(const char* name, unsigned mask, bool value, Place place) {
  Vote own{value, 0};
  collective(
      name, mask, &own,
      [](const Operands& lanes) {
        unsigned all = 0;
        for (int i = 0; i < kLanes; ++i) {
          if (lanes[i] != nullptr && static_cast<const Vote*>(lanes[i])->value) all |= 1u << i;
        }
        for (void* const lane : lanes) {
          if (lane != nullptr) static_cast<Vote*>(lane)->result = all;
        }
      },
      false, place);
  return own.result;
}

}  // namespace cuda_host

template <typename T>
T __shfl_sync(
    unsigned mask, T value, int source, int width = 32, const char* file = __builtin_FILE(),
    int line = __builtin_LINE()) {
  const int begin = cuda_host::lane() / width * width;
  return cuda_host::shuffle("__shfl_sync", mask, value, begin + source % width, width, {file, line});
}
template <typename T>
T __shfl_up_sync(
    unsigned mask, T value, unsigned by, int width = 32, const char* file = __builtin_FILE(),
    int line = __builtin_LINE()) {
  return cuda_host::shuffle("__shfl_up_sync", mask, value, cuda_host::lane() - int(by), width, {file, line});
}
template <typename T>
T __shfl_down_sync(
    unsigned mask, T value, unsigned by, int width = 32, const char* file = __builtin_FILE(),
    int line = __builtin_LINE()) {
  return cuda_host::shuffle("__shfl_down_sync", mask, value, cuda_host::lane() + int(by), width, {file, line});
}
template <typename T>
T __shfl_xor_sync(
    unsigned mask, T value, int with, int width = 32, const char* file = __builtin_FILE(),
    int line = __builtin_LINE()) {
  return cuda_host::shuffle("__shfl_xor_sync", mask, value, cuda_host::lane() ^ with, width, {file, line});
}

inline unsigned __ballot_sync(
    unsigned mask, bool value, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  return cuda_host::ballot("__ballot_sync", mask, value, {file, line});
}
inline bool __any_sync(unsigned mask, bool value, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  return cuda_host::ballot("__any_sync", mask, value, {file, line}) != 0;
}
inline bool __all_sync(unsigned mask, bool value, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  return cuda_host::ballot("__all_sync", mask, !value, {file, line}) == 0;
}
