// What -fsanitize=thread calls for every access and every atomic operation.
#include "races.h"

using cuda_host::races::touch;

#define ACCESS(name, bytes, writes) \
  extern "C" void __tsan_##name(void* address) { touch(address, bytes, writes, __builtin_return_address(0)); }
#define ACCESSES(bytes)                       \
  ACCESS(read##bytes, bytes, false)           \
  ACCESS(write##bytes, bytes, true)           \
  ACCESS(unaligned_read##bytes, bytes, false) \
  ACCESS(unaligned_write##bytes, bytes, true)

ACCESSES(1)
ACCESSES(2)
ACCESSES(4)
ACCESSES(8)
ACCESSES(16)

extern "C" {
void __tsan_init() {}
void __tsan_vptr_update(void** to, void*) { touch(to, sizeof(void*), true, __builtin_return_address(0)); }
void __tsan_vptr_read(void** from) { touch(from, sizeof(void*), false, __builtin_return_address(0)); }
void __tsan_read_range(void* from, unsigned long bytes) { touch(from, bytes, false, __builtin_return_address(0)); }
void __tsan_write_range(void* to, unsigned long bytes) { touch(to, bytes, true, __builtin_return_address(0)); }
void __tsan_atomic_thread_fence(int) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
void __tsan_atomic_signal_fence(int) {}
}

// Of PyTorch's reference counts; an atomic access is part of no race.
#define ATOMIC(bits, T)                                                                                              \
  extern "C" T __tsan_atomic##bits##_load(const volatile T* a, int) { return __atomic_load_n(a, __ATOMIC_SEQ_CST); } \
  extern "C" void __tsan_atomic##bits##_store(volatile T* a, T v, int) { __atomic_store_n(a, v, __ATOMIC_SEQ_CST); } \
  extern "C" T __tsan_atomic##bits##_exchange(volatile T* a, T v, int) {                                             \
    return __atomic_exchange_n(a, v, __ATOMIC_SEQ_CST);                                                              \
  }                                                                                                                  \
  extern "C" int __tsan_atomic##bits##_compare_exchange_strong(volatile T* a, T* expected, T v, int, int) {          \
    return __atomic_compare_exchange_n(a, expected, v, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);                       \
  }                                                                                                                  \
  extern "C" int __tsan_atomic##bits##_compare_exchange_weak(volatile T* a, T* expected, T v, int, int) {            \
    return __atomic_compare_exchange_n(a, expected, v, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);                       \
  }                                                                                                                  \
  FETCH(bits, T, add) FETCH(bits, T, sub) FETCH(bits, T, and) FETCH(bits, T, or) FETCH(bits, T, xor)
#define FETCH(bits, T, operation)                                                 \
  extern "C" T __tsan_atomic##bits##_fetch_##operation(volatile T* a, T v, int) { \
    return __atomic_fetch_##operation(a, v, __ATOMIC_SEQ_CST);                    \
  }

ATOMIC(8, unsigned char)
ATOMIC(16, unsigned short)
ATOMIC(32, unsigned)
ATOMIC(64, unsigned long)
