// The inner loops of the operators, compiled once for every instruction set and chosen at the first call. The files
// that are compiled for one instruction set include nothing but this: what other headers define, or run when the
// library is loaded, must not be compiled for a machine that this one may not be.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "../../activation.h"

// Compilers that know AVX512-BF16.
#if defined(__x86_64__) && (defined(__clang__) || __GNUC__ >= 10)
#define HYPERLOADER_AVX512_BF16
#endif

namespace hyperloader::cpu {

enum class Half { kBFloat16, kFloat16 };

// T is float or double. Rows are given by their addresses, so that a tile may consist of any rows of a batch.
template <typename T>
struct Loops {
  const char* name;  // the instruction set
  int64_t lanes;     // numbers in a vector

  // c[m][n] = Σ_h x[m][h] · b[n][h];  c is (rows, ldc). Meanwhile the first `width` numbers of the rows
  // `next` are fetched, which may have fewer.
  void (*dot)(
      const T* const* x, int64_t rows, const T* const* b, int64_t columns, int64_t width, T* c, int64_t ldc,
      const T* const* next, int64_t next_rows);

  // out[i][h] = start[i][h] + Σ_k coefficient(i, k) · in[k][h], with coefficient(i, k) = coefficients[i · step_i +
  // k · step_k]. `start` may be null, for zeros, or `out` itself.
  void (*accumulate)(
      T* const* out, const T* const* start, int64_t rows, const T* coefficients, int64_t step_i, int64_t step_k,
      const T* const* in, int64_t terms, int64_t width);

  // to[j][i] = from[i][j], for `from` (rows, columns).
  void (*transpose)(const T* from, int64_t rows, int64_t columns, T* const* to);

  // a = act(pre); and slope = act'(pre).
  void (*activate)(Activation activation, const T* pre, T* a, int64_t count);
  void (*activate_with_slope)(Activation activation, const T* pre, T* a, T* slope, int64_t count);

  // The tokens whose variance a · moments_a is less than a 32nd of Σ a² · diagonal, what it would be if the columns did
  // not cancel: they are written to `found`, their number is returned.
  int64_t (*find_cancelled)(
      const T* a, const T* moments_a, const T* diagonal, int64_t rows, int64_t stride, int64_t* found);

  // The outer norm on the few numbers of each token, see adapter.h; `stride` is a multiple of the lanes.
  // rstd = 1 / sqrt(a · moments_a + eps), basis = [rstd · a, 1] with the 1 at `size`.
  void (*outer_basis)(
      const T* a, const T* moments_a, double eps, int64_t rows, int64_t size, int64_t stride, T* basis, T* rstd);
  // With c2 = rstd / width · (a · p): p becomes rstd · (p - c2 · rstd · width · moments_a), weighted = rstd² · c2 · a.
  void (*outer_backward)(
      const T* a, const T* moments_a, const T* rstd, int64_t rows, int64_t width, int64_t stride, T* p, T* weighted);

  void (*multiply)(const T* left, const T* right, int64_t count, T* product);
  void (*add)(const T* values, int64_t count, T* total);  // total += values
  void (*centre)(T* values, int64_t count);               // values -= their mean

  // mean = Σ x / width, rstd = 1 / sqrt(Σ (x - mean)² / width + eps).
  void (*moments)(const T* x, double eps, int64_t width, T* mean, T* rstd);

  // normed = start + (x - mean) · rstd · weight + bias; `start` may be null, for zeros.
  void (*normalise)(
      const T* start, const T* x, const T* weight, const T* bias, T mean, T rstd, int64_t width, T* normed);

  // grad_x = grad + the gradient through `normalise`, of whose result the gradient is `grad_normed`; `grad` may be
  // null, for zeros. The gradients of weight and bias are added to.
  void (*normalise_backward)(
      const T* grad, const T* grad_normed, const T* x, const T* weight, T mean, T rstd, int64_t width, T* grad_x,
      T* grad_weight, T* grad_bias);

  // A row of half-precision numbers to T, and back.
  void (*widen)(const void* from, Half dtype, T* to, int64_t count);
  void (*narrow)(const T* from, void* to, Half dtype, int64_t count);
};

// The best that this processor has; ATEN_CPU_CAPABILITY=default|avx2|avx512 limits it, as it does PyTorch.
template <typename T>
const Loops<T>& loops();

// Whether this processor has products of bfloat16 (AVX512-BF16), which are at least twice as fast as those of float32.
bool multiplies_bfloat16();

// A number of bfloat16 as it lies in memory.
struct BFloat16 {
  uint16_t bits;
};

// The two products for rows that are read as they lie: of T, or of bfloat16 beside sums and coefficients of float32.
template <typename T, typename Row>
struct Products {
  // As in Loops.
  void (*dot)(
      const Row* const* x, int64_t rows, const Row* const* b, int64_t columns, int64_t width, T* c, int64_t ldc,
      const Row* const* next, int64_t next_rows);

  // As in Loops; for bfloat16 rows one of the steps is 1, there are kMostTerms at most, and the coefficients are
  // rounded to bfloat16. `sum` is the same with rows of T for its results.
  void (*accumulate)(
      Row* const* out, const Row* const* start, int64_t rows, const T* coefficients, int64_t step_i, int64_t step_k,
      const Row* const* in, int64_t terms, int64_t width);
  void (*sum)(
      T* const* out, const T* const* start, int64_t rows, const T* coefficients, int64_t step_i, int64_t step_k,
      const Row* const* in, int64_t terms, int64_t width);
};

constexpr int64_t kMostTerms = 512;

// Those of bfloat16 rows are for a processor that `multiplies_bfloat16` alone.
template <typename T, typename Row>
const Products<T, Row>& products();

// The names of those that were compiled, the most general first; a null ends them.
extern const char* const kInstructionSets[];

}  // namespace hyperloader::cpu
