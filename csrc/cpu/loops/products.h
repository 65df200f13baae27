// The two products of rows of T: rows with rows, and sums of rows.
// A part of implementation.h, which includes it once for every instruction set.

constexpr int kSumRows = HYPERLOADER_SUM_ROWS, kSumVectors = HYPERLOADER_SUM_VECTORS;

template <typename T>
struct DotTile {
  static constexpr int kColumns = HYPERLOADER_DOT_COLUMNS;
  static constexpr int64_t kWidth = 1024;
  static constexpr int kLine = 64 / sizeof(T);  // numbers of a line of the caches

  template <int M, int N>
  static HYPERLOADER_INLINE void run(
      const T* const* x, const T* const* b, int64_t begin, int64_t end, T* c, int64_t ldc, const T* const* next) {
    V<T> sums[kDotRows][N] = {};
    int64_t h = begin;
    const auto add_products = [&] {
      V<T> rows[M];
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m) rows[m] = load(x[m] + h);
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) {
        const V<T> column = load(b[n] + h);
#pragma GCC unroll 8
        for (int m = 0; m < M; ++m) sums[m][n] += rows[m] * column;
      }
      h += kLanes<T>;
    };
    while (h + kLine <= end) {
#pragma GCC unroll 8
      for (int i = 0; i < kFetched; ++i) __builtin_prefetch(next[i] + h, /*write=*/0, /*second cache=*/2);
#pragma GCC unroll 4
      for (int vector = 0; vector < kLine / kLanes<T>; ++vector) add_products();
    }
    while (h + kLanes<T> <= end) add_products();
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) {
      T found[kDotRows];
      add_lanes<T>(sums[0][n], sums[1][n], sums[2][n], sums[3][n], found);
      for (int m = 0; m < M; ++m) {
        for (int64_t rest = h; rest < end; ++rest) found[m] += x[m][rest] * b[n][rest];
        T& to = c[m * ldc + n];
        to = begin == 0 ? found[m] : to + found[m];
      }
    }
  }
};

template <typename T>
void dot(
    const T* const* x, int64_t rows, const T* const* b, int64_t columns, int64_t width, T* c, int64_t ldc,
    const T* const* next, int64_t next_rows) {
  dot_in_panels<DotTile<T>>(x, rows, b, columns, width, c, ldc, next, next_rows);
}

template <typename T, int M, int N>
HYPERLOADER_INLINE void accumulate_tile(
    T* const* out, const T* const* start, const T* coefficients, int64_t step_i, int64_t step_k, const T* const* in,
    int64_t terms, int64_t h) {
  V<T> sums[M][N] = {};
  if (start != nullptr) {
#pragma GCC unroll 16
    for (int i = 0; i < M; ++i) {
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) sums[i][n] = load(start[i] + h + n * kLanes<T>);
    }
  }
  for (int64_t k = 0; k < terms; ++k) {
    V<T> columns[N];
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) columns[n] = load(in[k] + h + n * kLanes<T>);
#pragma GCC unroll 16
    for (int i = 0; i < M; ++i) {
      const T coefficient = coefficients[i * step_i + k * step_k];
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) sums[i][n] += coefficient * columns[n];
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < M; ++i) {
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) store(out[i] + h + n * kLanes<T>, sums[i][n]);
  }
}

template <typename T>
struct SumTile {
  static constexpr int kRows = kSumRows;
  static constexpr int64_t kBlock = 4 * kSumVectors * kLanes<T>;

  template <int M>
  static void run(
      T* const* out, const T* const* start, const T* coefficients, int64_t step_i, int64_t step_k, const T* const* in,
      int64_t terms, int64_t begin, int64_t end) {
    int64_t h = begin;
    for (; h + kSumVectors * kLanes<T> <= end; h += kSumVectors * kLanes<T>) {
      accumulate_tile<T, M, kSumVectors>(out, start, coefficients, step_i, step_k, in, terms, h);
    }
    for (; h + kLanes<T> <= end; h += kLanes<T>) {
      accumulate_tile<T, M, 1>(out, start, coefficients, step_i, step_k, in, terms, h);
    }
    for (; h < end; ++h) {
      for (int i = 0; i < M; ++i) {
        T sum = start == nullptr ? T(0) : start[i][h];
        for (int64_t k = 0; k < terms; ++k) sum += coefficients[i * step_i + k * step_k] * in[k][h];
        out[i][h] = sum;
      }
    }
  }
};

template <typename T>
void accumulate(
    T* const* out, const T* const* start, int64_t rows, const T* coefficients, int64_t step_i, int64_t step_k,
    const T* const* in, int64_t terms, int64_t width) {
  accumulate_in_panels<SumTile<T>>(out, start, rows, coefficients, step_i, step_k, in, terms, width);
}
