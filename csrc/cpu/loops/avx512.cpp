// The inner loops for AVX-512.
#include "loops.h"

#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push( \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")
#endif

#define HYPERLOADER_ISA avx512
#define HYPERLOADER_NAME "avx512"
#define HYPERLOADER_VECTOR_BYTES 64
#define HYPERLOADER_DOT_COLUMNS 6  // 24 of the 32 registers hold sums
#define HYPERLOADER_SUM_ROWS 6
#define HYPERLOADER_SUM_VECTORS 4
#include "implementation.h"

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
