// The products of bfloat16 rows on processors that multiply pairs of them (AVX512-BF16): 32 products an instruction,
// summed in float32, where the loops for AVX-512 widen the rows and do 16.
//
// The instruction adds the products of two neighbours to each lane. In `dot` neighbours are neighbours in the rows. In
// `accumulate` and `sum` they are the numbers of two rows, k and k + 1, in one column: two rows are interleaved as they
// are read, which leaves columns 0-3, 8-11, 16-19, 24-27 of 32 in one vector (`low`) and the others in the next
// (`high`). Sums are kept so and put in order when they are written.
#include "loops.h"

#if defined(HYPERLOADER_AVX512_BF16)
#pragma GCC diagnostic push
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC 12 says it of its own header
#endif
#include <immintrin.h>
#pragma GCC diagnostic pop

#if defined(__clang__)
#pragma clang attribute push( \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")
#endif

#define HYPERLOADER_VECTOR_BYTES 64

namespace hyperloader::cpu::avx512_bfloat16 {
namespace {

#include "vectors.h"
#include "panels.h"

constexpr int kNumbers = 32;      // bfloat16 numbers of a vector
constexpr int64_t kPairs = 4096;  // of coefficients, packed at a time
static_assert(kPairs >= 16 * kMostTerms / 2, "a vector of rows fits");

using Row = BFloat16;

HYPERLOADER_INLINE __mmask32 mask_of(int64_t count) {
  return count >= kNumbers ? ~__mmask32(0) : (__mmask32(1) << count) - 1;
}

HYPERLOADER_INLINE __m512i load_row(const Row* from, __mmask32 mask) { return _mm512_maskz_loadu_epi16(mask, from); }

HYPERLOADER_INLINE __m512 add_products(__m512 sum, __m512i a, __m512i b) {
  return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
}

struct DotTile {
  static constexpr int kColumns = 6;
  static constexpr int64_t kWidth = 2048;

  template <int M, int N>
  static HYPERLOADER_INLINE void run(
      const Row* const* x, const Row* const* b, int64_t begin, int64_t end, float* c, int64_t ldc,
      const Row* const* next) {
    __m512 sums[kDotRows][N] = {};
    for (int64_t h = begin; h < end; h += kNumbers) {
      const __mmask32 mask = mask_of(end - h);
      __m512i rows[M];
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m) rows[m] = load_row(x[m] + h, mask);
#pragma GCC unroll 8
      for (int i = 0; i < kFetched; ++i) __builtin_prefetch(next[i] + h, /*write=*/0, /*second cache=*/2);
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) {
        const __m512i column = load_row(b[n] + h, mask);
#pragma GCC unroll 8
        for (int m = 0; m < M; ++m) sums[m][n] = add_products(sums[m][n], rows[m], column);
      }
    }
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) {
      float found[kDotRows];
      add_lanes<float>(sums[0][n], sums[1][n], sums[2][n], sums[3][n], found);
      for (int m = 0; m < M; ++m) {
        float& to = c[m * ldc + n];
        to = begin == 0 ? found[m] : to + found[m];
      }
    }
  }
};

void dot(
    const Row* const* x, int64_t rows, const Row* const* b, int64_t columns, int64_t width, float* c, int64_t ldc,
    const Row* const* next, int64_t next_rows) {
  dot_in_panels<DotTile>(x, rows, b, columns, width, c, ldc, next, next_rows);
}

// ---- sums of rows ----

// 32 neighbouring sums, their columns dealt out as two interleaved rows are.
struct Sums {
  __m512 low, high;
};

HYPERLOADER_INLINE Sums load_sums(const Row* from, __mmask32 mask) {
  const __m512i row = load_row(from, mask), zero = _mm512_setzero_si512();
  return {_mm512_castsi512_ps(_mm512_unpacklo_epi16(zero, row)), _mm512_castsi512_ps(_mm512_unpackhi_epi16(zero, row))};
}

HYPERLOADER_INLINE void store_sums(Row* to, __mmask32 mask, Sums sums) {
  const __m512i in_order = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
  const __m512i rounded = (__m512i)_mm512_cvtne2ps_pbh(sums.high, sums.low);
  _mm512_mask_storeu_epi16(to, mask, _mm512_permutexvar_epi64(in_order, rounded));
}

HYPERLOADER_INLINE Sums load_sums(const float* from, __mmask32 mask) {
  const __m512 first = _mm512_maskz_loadu_ps(__mmask16(mask), from);
  const __m512 second = _mm512_maskz_loadu_ps(__mmask16(mask >> 16), from + 16);
  const __m512i low = _mm512_setr_epi32(0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27);
  const __m512i high = _mm512_setr_epi32(4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
  return {_mm512_permutex2var_ps(first, low, second), _mm512_permutex2var_ps(first, high, second)};
}

HYPERLOADER_INLINE void store_sums(float* to, __mmask32 mask, Sums sums) {
  const __m512i first = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
  const __m512i second = _mm512_setr_epi32(8, 9, 10, 11, 24, 25, 26, 27, 12, 13, 14, 15, 28, 29, 30, 31);
  _mm512_mask_storeu_ps(to, __mmask16(mask), _mm512_permutex2var_ps(sums.low, first, sums.high));
  _mm512_mask_storeu_ps(to + 16, __mmask16(mask >> 16), _mm512_permutex2var_ps(sums.low, second, sums.high));
}

template <typename Out>
struct SumTile {
  static constexpr int kRows = 6, kVectors = 2;
  static constexpr int64_t kBlock = 8 * kNumbers * kVectors;

  // The coefficients are pairs, those of two terms each.
  template <int M>
  static void run(
      Out* const* out, const Out* const* start, const uint32_t* coefficients, int64_t step_i, int64_t step_k,
      const Row* const* in, int64_t terms, int64_t begin, int64_t end) {
    int64_t h = begin;
    for (; h + (kVectors - 1) * kNumbers < end; h += kVectors * kNumbers) {
      run<M, kVectors>(out, start, coefficients, step_i, step_k, in, terms, h, end);
    }
    if (h < end) run<M, 1>(out, start, coefficients, step_i, step_k, in, terms, h, end);
  }

  template <int M, int N>
  static HYPERLOADER_INLINE void run(
      Out* const* out, const Out* const* start, const uint32_t* coefficients, int64_t step_i, int64_t step_k,
      const Row* const* in, int64_t terms, int64_t h, int64_t end) {
    Sums sums[M][N] = {};
    __mmask32 masks[N];
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) masks[n] = mask_of(end - h - n * kNumbers);
    if (start != nullptr) {
#pragma GCC unroll 8
      for (int i = 0; i < M; ++i) {
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n) sums[i][n] = load_sums(start[i] + h + n * kNumbers, masks[n]);
      }
    }
    for (int64_t k = 0; k < terms; k += 2) {
      __m512i low[N], high[N];
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) {
        const __m512i first = load_row(in[k] + h + n * kNumbers, masks[n]);
        const __m512i second =
            k + 1 < terms ? load_row(in[k + 1] + h + n * kNumbers, masks[n]) : _mm512_setzero_si512();
        low[n] = _mm512_unpacklo_epi16(first, second);
        high[n] = _mm512_unpackhi_epi16(first, second);
      }
#pragma GCC unroll 8
      for (int i = 0; i < M; ++i) {
        const __m512i pair = _mm512_set1_epi32(static_cast<int>(coefficients[i * step_i + k / 2 * step_k]));
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n) {
          sums[i][n].low = add_products(sums[i][n].low, low[n], pair);
          sums[i][n].high = add_products(sums[i][n].high, high[n], pair);
        }
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i) {
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) store_sums(out[i] + h + n * kNumbers, masks[n], sums[i][n]);
    }
  }
};

// The coefficients of two terms each, rounded: those of the even one in the lower half.
struct Pairs {
  uint32_t of[kPairs];
  int64_t step_i, step_k;

  // For rows whose terms lie side by side.
  void pack_rows(const float* coefficients, int64_t rows, int64_t step, int64_t terms) {
    step_i = (terms + 15) / 16 * 8;
    step_k = 1;
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t k = 0; k < terms; k += 16) {
        const __m512 numbers = _mm512_maskz_loadu_ps(__mmask16(mask_of(terms - k)), coefficients + i * step + k);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(of + i * step_i + k / 2), (__m256i)_mm512_cvtneps_pbh(numbers));
      }
    }
  }

  // For terms whose rows lie side by side.
  void pack_terms(const float* coefficients, int64_t rows, int64_t step, int64_t terms) {
    step_i = 1;
    step_k = (rows + 15) / 16 * 16;
    const __m512i side_by_side = _mm512_set_epi16(
        31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1,
        16, 0);
    for (int64_t k = 0; k < terms; k += 2) {
      for (int64_t i = 0; i < rows; i += 16) {
        const __mmask16 mask = __mmask16(mask_of(rows - i));
        const float* even = coefficients + k * step + i;
        const __m512 odd = _mm512_maskz_loadu_ps(k + 1 < terms ? mask : __mmask16(0), even + step);
        const __m512i both = (__m512i)_mm512_cvtne2ps_pbh(odd, _mm512_maskz_loadu_ps(mask, even));
        _mm512_storeu_si512(of + k / 2 * step_k + i, _mm512_permutexvar_epi16(side_by_side, both));
      }
    }
  }
};

template <typename Out>
void accumulate(
    Out* const* out, const Out* const* start, int64_t rows, const float* coefficients, int64_t step_i, int64_t step_k,
    const Row* const* in, int64_t terms, int64_t width) {
  Pairs pairs;
  const int64_t most = kPairs / ((terms + 15) / 16 * 8) / 16 * 16;  // rows whose coefficients are packed at a time
  for (int64_t i = 0; i < rows; i += most) {
    const int64_t count = smaller(most, rows - i);
    if (step_k == 1) {
      pairs.pack_rows(coefficients + i * step_i, count, step_i, terms);
    } else {
      pairs.pack_terms(coefficients + i, count, step_k, terms);
    }
    accumulate_in_panels<SumTile<Out>>(
        out + i, start == nullptr ? nullptr : start + i, count, pairs.of, pairs.step_i, pairs.step_k, in, terms, width);
  }
}

}  // namespace

extern const Products<float, BFloat16> kProducts = {dot, accumulate<BFloat16>, accumulate<float>};

}  // namespace hyperloader::cpu::avx512_bfloat16

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
