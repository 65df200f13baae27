// The inner loops for AVX2 with FMA.
#include "loops.h"

#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif

#define HYPERLOADER_ISA avx2
#define HYPERLOADER_NAME "avx2"
#define HYPERLOADER_VECTOR_BYTES 32
#define HYPERLOADER_DOT_COLUMNS 2  // 8 of the 16 registers hold sums, 6 operands
#define HYPERLOADER_SUM_ROWS 6
#define HYPERLOADER_SUM_VECTORS 2
#include "implementation.h"

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
