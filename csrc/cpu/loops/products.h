// The two products: rows with rows, and sums of rows.
// A part of implementation.h, which includes it once for every instruction set.

constexpr int kDotRows = 4, kDotColumns = HYPERLOADER_DOT_COLUMNS;
constexpr int kFetched = 4;          // rows that are fetched by one tile of the product, at most
constexpr int64_t kDotWidth = 1024;  // of one pass: kDotColumns rows of `b` stay in the first cache
constexpr int kSumRows = HYPERLOADER_SUM_ROWS, kSumVectors = HYPERLOADER_SUM_VECTORS;
static_assert(kDotColumns <= 6 && kSumRows <= 6, "the switches below go to six");

template <typename T, int M, int N>
HYPERLOADER_INLINE void dot_tile(
    const T* const* x, const T* const* b, int64_t begin, int64_t end, T* c, int64_t ldc, const T* const* next) {
  V<T> sums[kDotRows][N] = {};
  int64_t h = begin;
  for (; h + kLanes<T> <= end; h += kLanes<T>) {
    V<T> rows[M];
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) rows[m] = load(x[m] + h);
#pragma GCC unroll 8
    for (int i = 0; i < kFetched; ++i) __builtin_prefetch(next[i] + h, /*write=*/0, /*second cache=*/2);
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) {
      const V<T> column = load(b[n] + h);
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m) sums[m][n] += rows[m] * column;
    }
  }
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

template <typename T, int M>
void dot_rows(
    const T* const* x, const T* const* b, int64_t columns, int64_t begin, int64_t end, T* c, int64_t ldc,
    const T* const* next) {
  switch (columns) {
    case 1: return dot_tile<T, M, 1>(x, b, begin, end, c, ldc, next);
    case 2: return dot_tile<T, M, 2>(x, b, begin, end, c, ldc, next);
#if HYPERLOADER_DOT_COLUMNS > 2
    case 3: return dot_tile<T, M, 3>(x, b, begin, end, c, ldc, next);
    case 4: return dot_tile<T, M, 4>(x, b, begin, end, c, ldc, next);
    case 5: return dot_tile<T, M, 5>(x, b, begin, end, c, ldc, next);
    case 6: return dot_tile<T, M, 6>(x, b, begin, end, c, ldc, next);
#endif
  }
}

// The rows `next` are brought into the second cache meanwhile, a few by every tile of the product.
template <typename T>
void dot(
    const T* const* x, int64_t rows, const T* const* b, int64_t columns, int64_t width, T* c, int64_t ldc,
    const T* const* next, int64_t next_rows) {
  const int64_t panels = (columns + kDotColumns - 1) / kDotColumns;  // of nearly equal size: 25 = 5 · 5, not 4 · 6 + 1
  const int64_t tiles = panels * ((rows + kDotRows - 1) / kDotRows);
  const int64_t each = smaller<int64_t>((next_rows + tiles - 1) / tiles, kFetched);
  int64_t begin = 0;
  do {
    const int64_t end = smaller<int64_t>(begin + kDotWidth, width);
    for (int64_t panel = 0, n = 0, fetched = 0; panel < panels; ++panel) {
      const int64_t count = (columns - n) / (panels - panel);
      for (int64_t m = 0; m < rows; m += kDotRows, fetched += each) {
        const T* fetch[kFetched];
        for (int64_t i = 0; i < kFetched; ++i) {  // x[m] is there already
          fetch[i] = i < each && fetched + i < next_rows ? next[fetched + i] : x[m];
        }
        T* to = c + m * ldc + n;
        switch (rows - m) {
          case 1: dot_rows<T, 1>(x + m, b + n, count, begin, end, to, ldc, fetch); break;
          case 2: dot_rows<T, 2>(x + m, b + n, count, begin, end, to, ldc, fetch); break;
          case 3: dot_rows<T, 3>(x + m, b + n, count, begin, end, to, ldc, fetch); break;
          default: dot_rows<T, 4>(x + m, b + n, count, begin, end, to, ldc, fetch);
        }
      }
      n += count;
    }
    begin = end;
  } while (begin < width);
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

template <typename T, int M>
void accumulate_rows(
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

template <typename T>
void accumulate(
    T* const* out, const T* const* start, int64_t rows, const T* coefficients, int64_t step_i, int64_t step_k,
    const T* const* in, int64_t terms, int64_t width) {
  constexpr int64_t kBlock = 4 * kSumVectors * kLanes<T>;  // columns of `in` that stay in the first cache for all rows
  const int64_t panels = (rows + kSumRows - 1) / kSumRows;
  for (int64_t begin = 0; begin < width; begin += kBlock) {
    const int64_t end = smaller(begin + kBlock, width);
    for (int64_t panel = 0, i = 0; panel < panels; ++panel) {
      const int64_t count = (rows - i) / (panels - panel);
      const T* const* from = start == nullptr ? nullptr : start + i;
      const T* of = coefficients + i * step_i;
      switch (count) {
        case 1: accumulate_rows<T, 1>(out + i, from, of, step_i, step_k, in, terms, begin, end); break;
        case 2: accumulate_rows<T, 2>(out + i, from, of, step_i, step_k, in, terms, begin, end); break;
        case 3: accumulate_rows<T, 3>(out + i, from, of, step_i, step_k, in, terms, begin, end); break;
        case 4: accumulate_rows<T, 4>(out + i, from, of, step_i, step_k, in, terms, begin, end); break;
        case 5: accumulate_rows<T, 5>(out + i, from, of, step_i, step_k, in, terms, begin, end); break;
        default: accumulate_rows<T, 6>(out + i, from, of, step_i, step_k, in, terms, begin, end);
      }
      i += count;
    }
  }
}
