// Launching kernels: the current stream, dynamic shared memory, what the device has room for.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <ATen/cuda/CUDAContext.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <map>
#include <mutex>
#include <tuple>

namespace hyperloader::cuda {

using Guard = c10::cuda::CUDAGuard;

inline const cudaDeviceProp& device_properties() { return *at::cuda::getCurrentDeviceProperties(); }

inline int64_t multiprocessors() { return device_properties().multiProcessorCount; }

// The most shared memory that a block may have, in bytes.
inline int64_t most_shared_memory() { return static_cast<int64_t>(device_properties().sharedMemPerBlockOptin); }

// A kernel on a device. What the driver has been told of it, or has said, is kept: asking takes as long as a launch.
struct OnDevice {
  const void* kernel;
  c10::DeviceIndex device;
  int64_t shared;

  bool operator<(const OnDevice& other) const {
    return std::tie(kernel, device, shared) < std::tie(other.kernel, other.device, other.shared);
  }
};

template <typename... Parameters>
void allow_shared_memory(void (*kernel)(Parameters...), int64_t shared) {
  constexpr int64_t kWithoutAsking = 8 << 10;  // of the 48 KiB that every kernel may have, 40 are for static memory
  if (shared <= kWithoutAsking) return;
  static std::mutex lock;  // what is allowed holds for all threads: less would take it from another
  static std::map<OnDevice, int64_t> allowed;
  const std::lock_guard<std::mutex> locked(lock);
  int64_t& most = allowed[{reinterpret_cast<const void*>(kernel), c10::cuda::current_device(), 0}];
  if (shared <= most) return;
  const bool fits = cudaFuncSetAttribute(
                        kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)) == cudaSuccess;
  if (!fits) cudaGetLastError();  // the next call shall not find it
  TORCH_CHECK_VALUE(
      fits, "sizes must be smaller for this GPU: bottleneck, rank or embeddings take ", shared,
      " bytes of shared memory");
  most = shared;
}

// How many blocks of the kernel run at the same time on the whole device.
template <typename... Parameters>
int64_t blocks_at_once(void (*kernel)(Parameters...), int threads, int64_t shared) {
  allow_shared_memory(kernel, shared);
  thread_local std::map<OnDevice, int> known;
  const OnDevice key{reinterpret_cast<const void*>(kernel), c10::cuda::current_device(), shared};
  auto found = known.find(key);
  if (found == known.end()) {
    int blocks = 0;
    C10_CUDA_CHECK(
        cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, threads, static_cast<size_t>(shared)));
    found = known.emplace(key, blocks).first;
  }
  return multiprocessors() * found->second;
}

// Nothing is launched for a grid without blocks. Neither this nor anything around it waits for the device.
template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, int64_t shared, const Arguments&... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  allow_shared_memory(kernel, shared);
  kernel<<<grid, block, static_cast<size_t>(shared), c10::cuda::getCurrentCUDAStream()>>>(arguments...);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

template <typename T>
__device__ T* dynamic_shared() {
  extern __shared__ __align__(16) unsigned char shared_bytes[];
  return reinterpret_cast<T*>(shared_bytes);
}

}  // namespace hyperloader::cuda
