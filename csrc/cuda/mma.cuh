// The tensor cores' product of half-precision numbers, and how they are packed for it.
#pragma once

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <cstdint>
#include <type_traits>

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
#error "hyperloader's CUDA kernels need compute capability 8.0: set TORCH_CUDA_ARCH_LIST to 8.0 or later"
#endif

namespace hyperloader::cuda {

// c += a · b of a warp: a (16, 16) by rows, b (16, 8) by columns, two numbers a register. With g = lane / 4 and
// q = lane % 4, a[0..3] hold the rows g, g + 8, g, g + 8 and of them the columns 2q and 2q + 1 (a[2], a[3]: + 8);
// b[0], b[1] the column g and of it the rows 2q and 2q + 1 (b[1]: + 8); c[0..3] the rows g, g, g + 8, g + 8 and the
// columns 2q, 2q + 1, 2q, 2q + 1.
template <typename T>
__device__ __forceinline__ void tensor_core_product(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  if constexpr (std::is_same_v<T, c10::BFloat16>) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  } else {
    static_assert(std::is_same_v<T, c10::Half>);
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
}

// Four (8, 8) matrices in shared memory, whose rows of 16 bytes begin where the lanes say: the first eight lanes for
// the first matrix, and so on. Of each a lane gets two numbers of the row lane / 4: the columns 2q and 2q + 1, q = lane
// % 4.
__device__ __forceinline__ uint4 load_matrices(const void* row) {
  const uint32_t from = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  uint4 found;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(found.x), "=r"(found.y), "=r"(found.z), "=r"(found.w)
               : "r"(from));
  return found;
}

// The same matrices' columns in the place of rows: a lane gets two numbers of the column lane / 4, of the rows 2q and
// 2q + 1.
__device__ __forceinline__ uint4 load_matrices_across(const void* row) {
  const uint32_t from = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  uint4 found;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(found.x), "=r"(found.y), "=r"(found.z), "=r"(found.w)
               : "r"(from));
  return found;
}

// The lower (0) or upper (1) halves of two registers as one.
__device__ __forceinline__ uint32_t take_halves(uint32_t first, uint32_t second, int half) {
  return __byte_perm(first, second, half == 0 ? 0x5410 : 0x7632);
}

}  // namespace hyperloader::cuda
