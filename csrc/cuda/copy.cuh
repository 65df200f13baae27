// Asynchronous copies from global to shared memory, 16 bytes at a time or whole rows at once, and stores of 16 bytes.
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

// Whether the device copies whole rows by itself (TMA, from compute capability 9.0 on): one thread asks for a row, and
// the threads wait for bytes, not for their own copies.
__device__ __forceinline__ constexpr bool copies_rows() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  return true;
#else
  return false;
#endif
}

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
#define HYPERLOADER_ROWS_ASM(...) asm volatile(__VA_ARGS__)
#else
#define HYPERLOADER_ROWS_ASM(...)  // nobody comes here
#endif

// Where threads wait for rows, in shared memory; one use after the other, of alternate phases 0, 1, 0 ..
struct Arrival {
  uint64_t state;

  __device__ __forceinline__ uint32_t address() const {
    return static_cast<uint32_t>(__cvta_generic_to_shared(&state));
  }
  // By one thread, before the first use and a barrier of the block.
  __device__ __forceinline__ void prepare() {
    HYPERLOADER_ROWS_ASM("mbarrier.init.shared.b64 [%0], 1;" ::"r"(address()) : "memory");
    HYPERLOADER_ROWS_ASM("fence.proxy.async.shared::cta;" :: : "memory");
  }
  // By one thread a use: so many bytes come.
  __device__ __forceinline__ void expect(int bytes) {
    HYPERLOADER_ROWS_ASM("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(address()), "r"(bytes) : "memory");
  }
  // Whole 16 bytes between addresses of whole 16.
  __device__ __forceinline__ void copy(void* shared, const void* global, int bytes) {
    const uint32_t to = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
    HYPERLOADER_ROWS_ASM(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to),
        "l"(__cvta_generic_to_global(global)), "r"(bytes), "r"(address()) : "memory");
  }
  // Every thread that reads what has come.
  __device__ __forceinline__ void wait(int phase) const {
    HYPERLOADER_ROWS_ASM(
        "{\n"
        ".reg .pred arrived;\n"
        "again:\n"
        "mbarrier.try_wait.parity.shared.b64 arrived, [%0], %1;\n"
        "@arrived bra there;\n"
        "bra again;\n"
        "there:\n"
        "}" ::"r"(address()),
        "r"(phase) : "memory");
  }
};

// Orders this thread's own writes to shared memory before rows that are copied to the same places after a barrier.
__device__ __forceinline__ void write_before_rows() {
  HYPERLOADER_ROWS_ASM("fence.proxy.async.shared::cta;" :: : "memory");
}

#undef HYPERLOADER_ROWS_ASM

// To an address of global memory that is a whole 16, in one access: of a struct's copy the compiler makes four where it
// likes, or eight.
__device__ __forceinline__ void store_16(void* global, const uint4& words) {
  asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(global)), "r"(words.x),
               "r"(words.y), "r"(words.z), "r"(words.w)
               : "memory");
}

}  // namespace hyperloader::cuda
