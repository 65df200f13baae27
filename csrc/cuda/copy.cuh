// Asynchronous copies from global to shared memory, and stores of 16 bytes.
#pragma once

#include <cstdint>

namespace hyperloader::cuda {

// 16 bytes between addresses of whole 16; where they are not `valid`, nothing is read and zeros are written. A thread
// sees its own copies after `copy_wait`, those of others after a barrier that follows it.
__device__ __forceinline__ void copy_async_16(void* shared, const void* global, bool valid) {
  const uint32_t to = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(valid ? 16 : 0) : "memory");
}

// Closes this thread's copies since the last one as a batch, which may be empty.
__device__ __forceinline__ void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until all batches but the latest kBatches have arrived.
template <int kBatches>
__device__ __forceinline__ void copy_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kBatches) : "memory");
}

// To an address of global memory that is a whole 16, in one access: of a struct's copy the compiler makes four where it
// likes, or eight.
__device__ __forceinline__ void store_16(void* global, const uint4& words) {
  asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(global)), "r"(words.x),
               "r"(words.y), "r"(words.z), "r"(words.w)
               : "memory");
}

}  // namespace hyperloader::cuda
