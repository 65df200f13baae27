// The inner loops, written once with the compiler's vector types. Every kernels_<instruction set>.cpp includes this file
// after naming the instruction set (HYPERLOADER_ISA), its vectors (HYPERLOADER_VECTOR_BYTES) and its tiles. Nothing here
// may call an inline function of a header: its one copy would be shared with code for other machines.

namespace hyperloader::cpu::HYPERLOADER_ISA {
namespace {

#define HYPERLOADER_INLINE inline __attribute__((always_inline))

// A vector of kCount numbers, one that may lie anywhere in memory, and one of integers of the same size.
template <typename T, int kCount>
struct Vector;
template <int kCount>
struct Vector<float, kCount> {
  typedef float type __attribute__((vector_size(4 * kCount)));
  typedef float unaligned __attribute__((vector_size(4 * kCount), aligned(4), may_alias));
  typedef int32_t integer __attribute__((vector_size(4 * kCount)));
};
template <int kCount>
struct Vector<double, kCount> {
  typedef double type __attribute__((vector_size(8 * kCount)));
  typedef double unaligned __attribute__((vector_size(8 * kCount), aligned(8), may_alias));
  typedef int64_t integer __attribute__((vector_size(8 * kCount)));
};

template <typename T>
constexpr int kLanes = HYPERLOADER_VECTOR_BYTES / sizeof(T);
template <typename T, int kCount = kLanes<T>>
using V = typename Vector<T, kCount>::type;

template <typename T, int kCount = kLanes<T>>
HYPERLOADER_INLINE V<T, kCount> load(const T* from) {
  return *reinterpret_cast<const typename Vector<T, kCount>::unaligned*>(from);
}
template <typename T, int kCount = kLanes<T>>
HYPERLOADER_INLINE void store(T* to, V<T, kCount> value) {
  *reinterpret_cast<typename Vector<T, kCount>::unaligned*>(to) = value;
}
template <typename T>
HYPERLOADER_INLINE T smaller(T a, T b) {
  return a < b ? a : b;
}

// When the blocks of kStep lanes off the diagonal of (a; b) change places: where lane i of the new a (kUpper) or of the new
// b comes from, counted through a and b.
template <int kCount, int kStep, bool kUpper>
constexpr int exchanged(int lane) {
  const bool odd = (lane & kStep) != 0;
  if (kUpper) return odd ? lane - kStep + kCount : lane;
  return odd ? lane + kCount : lane + kStep;
}

template <typename T, int kStep, bool kUpper, size_t... kLane>
HYPERLOADER_INLINE V<T, sizeof...(kLane)> exchange(
    V<T, sizeof...(kLane)> a, V<T, sizeof...(kLane)> b, std::index_sequence<kLane...>) {
  constexpr int kCount = sizeof...(kLane);
#if defined(__clang__)
  return __builtin_shufflevector(a, b, exchanged<kCount, kStep, kUpper>(kLane)...);
#else
  return __builtin_shuffle(a, b, typename Vector<T, kCount>::integer{exchanged<kCount, kStep, kUpper>(kLane)...});
#endif
}

template <typename T, int kStep, bool kUpper, int kCount = kLanes<T>>
HYPERLOADER_INLINE V<T, kCount> exchange(V<T, kCount> a, V<T, kCount> b) {
  return exchange<T, kStep, kUpper>(a, b, std::make_index_sequence<kCount>());
}

// Lanes kStep apart added: a's sums where (lane & kStep) == 0, b's in the other lanes.
template <typename T, int kStep>
HYPERLOADER_INLINE V<T> add_pairs(V<T> a, V<T> b) {
  return exchange<T, kStep, true>(a, b) + exchange<T, kStep, false>(a, b);
}

// All lanes that are a multiple of kStep apart added.
template <typename T, int kStep>
HYPERLOADER_INLINE V<T> add_lanes_apart(V<T> v) {
  if constexpr (kStep < kLanes<T>) return add_lanes_apart<T, 2 * kStep>(add_pairs<T, kStep>(v, v));
  return v;
}

template <typename T>
HYPERLOADER_INLINE T add_lanes(V<T> v) {
  return add_lanes_apart<T, 1>(v)[0];
}

// The sums of the lanes of four vectors.
template <typename T>
HYPERLOADER_INLINE void add_lanes(V<T> a, V<T> b, V<T> c, V<T> d, T* sums) {
  if constexpr (kLanes<T> >= 4) {
    const V<T> all = add_lanes_apart<T, 4>(add_pairs<T, 2>(add_pairs<T, 1>(a, b), add_pairs<T, 1>(c, d)));
    for (int i = 0; i < 4; ++i) sums[i] = all[i];
  } else {
    sums[0] = add_lanes<T>(a);
    sums[1] = add_lanes<T>(b);
    sums[2] = add_lanes<T>(c);
    sums[3] = add_lanes<T>(d);
  }
}

// ---- products ----

constexpr int kDotRows = 4, kDotColumns = HYPERLOADER_DOT_COLUMNS;
constexpr int64_t kDotWidth = 1024;  // of one pass: kDotColumns rows of `b` stay in the first cache
constexpr int kSumRows = HYPERLOADER_SUM_ROWS, kSumVectors = HYPERLOADER_SUM_VECTORS;

template <typename T, int M, int N>
HYPERLOADER_INLINE void dot_tile(
    const T* const* x, const T* const* b, int64_t begin, int64_t end, T* c, int64_t ldc, const T* const* next) {
  V<T> sums[kDotRows][N] = {};
  int64_t h = begin;
  for (; h + kLanes<T> <= end; h += kLanes<T>) {
    V<T> rows[M];
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) rows[m] = load(x[m] + h);
    __builtin_prefetch(next[0] + h, /*write=*/0, /*second cache=*/2);
    __builtin_prefetch(next[1] + h, 0, 2);
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

// The rows `next` are brought into the second cache meanwhile, one or two by every tile of the product.
template <typename T>
void dot(
    const T* const* x, int64_t rows, const T* const* b, int64_t columns, int64_t width, T* c, int64_t ldc,
    const T* const* next, int64_t next_rows) {
  const int64_t panels = (columns + kDotColumns - 1) / kDotColumns;  // of nearly equal size: 25 = 5 · 5, not 4 · 6 + 1
  const int64_t tiles = panels * ((rows + kDotRows - 1) / kDotRows);
  const int64_t each = next_rows > tiles ? 2 : 1;
  int64_t begin = 0;
  do {
    const int64_t end = smaller<int64_t>(begin + kDotWidth, width);
    for (int64_t panel = 0, n = 0, fetched = 0; panel < panels; ++panel) {
      const int64_t count = (columns - n) / (panels - panel);
      for (int64_t m = 0; m < rows; m += kDotRows, fetched += each) {
        const T* fetch[2] = {x[m], x[m]};  // which is there already
        for (int64_t i = 0; i < each && fetched + i < next_rows; ++i) fetch[i] = next[fetched + i];
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

// Transposes a square of vectors: blocks off the diagonal change places, of one lane, of two, and so on.
template <typename T, int kSide, int kStep>
HYPERLOADER_INLINE void exchange_blocks(V<T, kSide>* block) {
  if constexpr (kStep < kSide) {
#pragma GCC unroll 16
    for (int a = 0; a < kSide; ++a) {
      if ((a & kStep) != 0) continue;
      const V<T, kSide> upper = block[a], lower = block[a + kStep];
      block[a] = exchange<T, kStep, true, kSide>(upper, lower);
      block[a + kStep] = exchange<T, kStep, false, kSide>(upper, lower);
    }
    exchange_blocks<T, kSide, 2 * kStep>(block);
  }
}

template <typename T, int kSide>
HYPERLOADER_INLINE void transpose_square(const T* from, int64_t columns, T* const* to, int64_t i) {
  V<T, kSide> block[kSide];
#pragma GCC unroll 16
  for (int a = 0; a < kSide; ++a) block[a] = load<T, kSide>(from + a * columns);
  exchange_blocks<T, kSide, 1>(block);
#pragma GCC unroll 16
  for (int b = 0; b < kSide; ++b) store<T, kSide>(to[b] + i, block[b]);
}

// In squares; the last one lies over its neighbour rather than over the edge.
template <typename T, int kSide>
void transpose_in_squares(const T* from, int64_t rows, int64_t columns, T* const* to) {
  for (int64_t i = 0; i < rows; i += kSide) {
    const int64_t top = smaller(i, rows - kSide);
    for (int64_t j = 0; j < columns; j += kSide) {
      const int64_t left = smaller(j, columns - kSide);
      transpose_square<T, kSide>(from + top * columns + left, columns, to + left, top);
    }
  }
}

template <typename T>
void transpose(const T* from, int64_t rows, int64_t columns, T* const* to) {
  if (rows >= kLanes<T> && columns >= kLanes<T>) return transpose_in_squares<T, kLanes<T>>(from, rows, columns, to);
  if (rows >= 4 && columns >= 4) return transpose_in_squares<T, 4>(from, rows, columns, to);
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < columns; ++j) to[j][i] = from[i * columns + j];
  }
}

// ---- activations ----

HYPERLOADER_INLINE V<float> exponential(V<float> x) {
  constexpr float kLog2E = 1.44269504088896341F, kHigh = 0.693359375F, kLow = -2.12194440054690583e-4F;  // ln 2
  x = x < -87.0F ? V<float>{} - 87.0F : x;
  x = x > 88.0F ? V<float>{} + 88.0F : x;
  const V<float> shifted = x * kLog2E + 12582912.0F;  // 1.5 · 2²³: rounds to an integer, held in the lowest bits
  const V<float> n = shifted - 12582912.0F;
  const V<float> r = x - n * kHigh - n * kLow;  // |r| <= ln 2 / 2
  V<float> series = V<float>{} + 1 / 5040.0F;
  series = series * r + 1 / 720.0F;
  series = series * r + 1 / 120.0F;
  series = series * r + 1 / 24.0F;
  series = series * r + 1 / 6.0F;
  series = series * r + 0.5F;
  series = series * r * r + r + 1.0F;
  typedef Vector<float, kLanes<float>>::integer Integer;
  const Integer exponent = __builtin_convertvector(n, Integer);
  return series * reinterpret_cast<V<float>>((exponent + 127) << 23);
}

HYPERLOADER_INLINE V<double> exponential(V<double> x) {
  x = x > 700.0 ? V<double>{} + 700.0 : x;  // finite, as in float32
  for (int i = 0; i < kLanes<double>; ++i) x[i] = __builtin_exp(x[i]);
  return x;
}

// Polynomials fitted for this: erf(x) / x in x² below 1, and -ln(1 - erf(x)) in x from there to 4, where erf rounds to 1.
// Both leave an error below 2e-9.
HYPERLOADER_INLINE V<float> error_function(V<float> x) {
  constexpr float kSmall[] = {7.88912286e-5F, -8.02084227e-4F, 5.18953545e-3F, -2.68544446e-2F,
                              0.112836002F,   -0.376126271F,   1.12837917F};
  constexpr float kLarge[] = {2.09094831e-5F, -4.32302212e-4F, 4.16052337e-3F, -2.50914878e-2F,
                              0.108236607F,   0.633386658F,    1.12949515F,    -1.70551019e-4F};
  V<float> size = x < 0.0F ? -x : x;
  size = size > 4.0F ? V<float>{} + 4.0F : size;
  const V<float> square = size * size;
  V<float> small = V<float>{} + kSmall[0], large = V<float>{} + kLarge[0];
#pragma GCC unroll 8
  for (int i = 1; i < 7; ++i) small = small * square + kSmall[i];
#pragma GCC unroll 8
  for (int i = 1; i < 8; ++i) large = large * size + kLarge[i];
  large = 1.0F - exponential(-large);
  const V<float> found = size < 1.0F ? small * size : large;
  const V<float> known = x < 0.0F ? -found : found;
  return x == x ? known : x;
}

HYPERLOADER_INLINE V<double> error_function(V<double> x) {
  for (int i = 0; i < kLanes<double>; ++i) x[i] = __builtin_erf(x[i]);
  return x;
}

// The activation of `pre`; and its slope.
template <typename T, Activation kActivation>
HYPERLOADER_INLINE V<T> activated(V<T> pre, V<T>& slope) {
  const V<T> zero{};
  if constexpr (kActivation == Activation::kRelu) {
    // A NaN stays one, as in PyTorch: it is neither above nor below zero.
    slope = pre > zero ? zero + T(1) : zero;
    return pre <= zero ? zero : pre;
  } else if constexpr (kActivation == Activation::kGelu) {
    constexpr T kRootHalf = T(0.70710678118654752440), kRootOfPi = T(0.39894228040143267794);  // 1 / sqrt(2 pi)
    const V<T> below = T(0.5) * (T(1) + error_function(pre * kRootHalf));
    slope = below + pre * kRootOfPi * exponential(pre * pre * T(-0.5));
    return pre * below;
  } else if constexpr (kActivation == Activation::kSilu) {
    const V<T> power = exponential(-pre), gate = T(1) / (T(1) + power);
    slope = gate * (T(1) + pre * (power * gate));  // 1 - gate without cancellation
    return pre * gate;
  } else {  // gelu_new: (1 + tanh(u)) / 2 is the logistic function of 2 u
    constexpr T kScale = T(2 * 0.79788456080286535588), kCubic = T(0.044715);  // 2 sqrt(2 / pi)
    V<T> within = pre < T(-20) ? zero - T(20) : pre;  // beyond, the gate is 0 or 1
    within = within > T(20) ? zero + T(20) : within;
    const V<T> square = within * within;
    const V<T> power = exponential(-kScale * within * (T(1) + kCubic * square)), gate = T(1) / (T(1) + power);
    slope = gate + gate * (power * gate) * kScale * within * (T(1) + 3 * kCubic * square);
    return pre * gate;
  }
}

template <typename T, Activation kActivation>
void activate_all(const T* pre, T* a, T* slope, int64_t count) {
  V<T> slopes;
  int64_t i = 0;
  for (; i + kLanes<T> <= count; i += kLanes<T>) {
    store(a + i, activated<T, kActivation>(load(pre + i), slopes));
    if (slope != nullptr) store(slope + i, slopes);
  }
  if (i == count) return;
  V<T> rest{};
  for (int64_t j = i; j < count; ++j) rest[j - i] = pre[j];
  rest = activated<T, kActivation>(rest, slopes);
  for (int64_t j = i; j < count; ++j) {
    a[j] = rest[j - i];
    if (slope != nullptr) slope[j] = slopes[j - i];
  }
}

template <typename T>
void activate_with_slope(Activation activation, const T* pre, T* a, T* slope, int64_t count) {
  switch (activation) {
    case Activation::kGeluNew: return activate_all<T, Activation::kGeluNew>(pre, a, slope, count);
    case Activation::kGelu: return activate_all<T, Activation::kGelu>(pre, a, slope, count);
    case Activation::kRelu: return activate_all<T, Activation::kRelu>(pre, a, slope, count);
    case Activation::kSilu: return activate_all<T, Activation::kSilu>(pre, a, slope, count);
  }
}

template <typename T>
void activate(Activation activation, const T* pre, T* a, int64_t count) {
  activate_with_slope<T>(activation, pre, a, nullptr, count);
}

// ---- rows ----

template <typename T>
T sum(const T* values, int64_t count) {
  V<T> sums{};
  int64_t i = 0;
  for (; i + kLanes<T> <= count; i += kLanes<T>) sums += load(values + i);
  T total = add_lanes<T>(sums);
  for (; i < count; ++i) total += values[i];
  return total;
}

template <typename T>
T sum_of_products(const T* left, const T* right, int64_t count) {
  V<T> sums{};
  int64_t i = 0;
  for (; i + kLanes<T> <= count; i += kLanes<T>) sums += load(left + i) * load(right + i);
  T total = add_lanes<T>(sums);
  for (; i < count; ++i) total += left[i] * right[i];
  return total;
}

// ---- the adapter's outer norm, on the few numbers of each token ----

// For tokens with a = [act(pre), 1, 0 ...] (rows, stride) and moved = a · moments: rstd = 1 / sqrt(a · moved + eps), and
// basis = [rstd · a, 1]; `size` counts the numbers of a that are not padding.
template <typename T>
void outer_basis(const T* a, const T* moved, double eps, int64_t rows, int64_t size, int64_t stride, T* basis, T* rstd) {
  for (int64_t i = 0; i < rows; ++i, a += stride, moved += stride, basis += stride) {
    // Rounding may take a variance of zero below it.
    const T variance = sum_of_products(a, moved, stride);
    const T factor = T(1) / T(__builtin_sqrt((variance > 0 ? double(variance) : variance == variance ? 0.0 : double(variance)) + eps));
    for (int64_t j = 0; j < stride; j += kLanes<T>) store(basis + j, load(a + j) * factor);
    basis[size] = T(1);
    rstd[i] = factor;
  }
}

// Turns p (rows, stride), the products of the output's gradient with the centred columns, into the gradient of a, and
// gives w · a with w = rstd² · c2.
template <typename T>
void outer_backward(
    const T* a, const T* moved, const T* rstd, int64_t rows, int64_t width, int64_t stride, T* p, T* weighted) {
  for (int64_t i = 0; i < rows; ++i, a += stride, moved += stride, p += stride, weighted += stride) {
    const T mean = rstd[i] * sum_of_products(a, p, stride) / T(width);  // c2
    const T back = mean * rstd[i] * T(width), weight = rstd[i] * rstd[i] * mean;
    for (int64_t j = 0; j < stride; j += kLanes<T>) {
      store(p + j, rstd[i] * (load(p + j) - back * load(moved + j)));
      store(weighted + j, weight * load(a + j));
    }
  }
}

template <typename T>
void multiply(const T* left, const T* right, int64_t count, T* product) {
  for (int64_t i = 0; i < count; ++i) product[i] = left[i] * right[i];
}

template <typename T>
void sum_rows(const T* left, const T* right, int64_t count, T* sum) {
  for (int64_t i = 0; i < count; ++i) sum[i] = left[i] + right[i];
}

template <typename T>
void add(const T* values, int64_t count, T* total) {
  for (int64_t i = 0; i < count; ++i) total[i] += values[i];
}

template <typename T>
void centre(T* values, int64_t count) {
  const T mean = sum(values, count) / T(count);
  for (int64_t i = 0; i < count; ++i) values[i] -= mean;
}

template <typename T>
void normalise(const T* x, const T* weight, const T* bias, double eps, int64_t width, T* normed, T* mean, T* rstd) {
  const T average = sum(x, width) / T(width);
  for (int64_t h = 0; h < width; ++h) normed[h] = x[h] - average;
  const T variance = sum_of_products(normed, normed, width) / T(width);
  const T factor = T(1) / T(__builtin_sqrt(double(variance) + eps));
  for (int64_t h = 0; h < width; ++h) normed[h] = normed[h] * factor * weight[h] + bias[h];
  *mean = average;
  *rstd = factor;
}

template <typename T>
void normalise_backward(
    const T* grad, const T* grad_normed, const T* x, const T* weight, T mean, T rstd, int64_t width, T* grad_x,
    T* grad_weight, T* grad_bias) {
  V<T> first_sums{}, second_sums{};
  int64_t h = 0;
  for (; h + kLanes<T> <= width; h += kLanes<T>) {
    const V<T> weighted = load(grad_normed + h) * load(weight + h);
    first_sums += weighted;
    second_sums += weighted * (load(x + h) - mean);
  }
  T first = add_lanes<T>(first_sums), second = add_lanes<T>(second_sums);
  for (; h < width; ++h) {
    first += grad_normed[h] * weight[h];
    second += grad_normed[h] * weight[h] * (x[h] - mean);
  }
  first /= T(width);
  second *= rstd * rstd / T(width);
  for (h = 0; h < width; ++h) {
    const T centred = x[h] - mean;
    grad_weight[h] += grad_normed[h] * centred * rstd;
    grad_bias[h] += grad_normed[h];
    grad_x[h] = grad[h] + rstd * (grad_normed[h] * weight[h] - first - centred * second);
  }
}

// ---- dtypes ----

HYPERLOADER_INLINE uint32_t bits_of(float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof bits);
  return bits;
}

HYPERLOADER_INLINE float of_bits(uint32_t bits) {
  float value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}

// float16 numbers through their exponent's place in a float32: scaling by 2¹¹² brings subnormal ones right, too.
HYPERLOADER_INLINE float of_half(uint16_t half) {
  const uint32_t magnitude = half & 0x7FFFU;
  const float finite = of_bits(magnitude << 13) * 0x1p112F;
  const uint32_t bits = magnitude >= 0x7C00U ? 0x7F800000U | (magnitude << 13) : bits_of(finite);
  return of_bits(bits | uint32_t(half & 0x8000U) << 16);
}

HYPERLOADER_INLINE uint16_t to_half(float value) {
  const uint32_t bits = bits_of(value), magnitude = bits & 0x7FFFFFFFU;
  uint32_t half;
  if (magnitude > 0x7F800000U) {
    half = 0x7E00U;  // not a number
  } else if (magnitude >= 0x477FF000U) {
    half = 0x7C00U;  // rounds to infinity
  } else if (magnitude < 0x38800000U) {
    half = bits_of(of_bits(magnitude) + 0.5F) - 0x3F000000U;  // subnormal: the sum rounds at 2⁻²⁴
  } else {
    half = (magnitude + 0xC8000FFFU + ((magnitude >> 13) & 1U)) >> 13;
  }
  return uint16_t(half | ((bits >> 16) & 0x8000U));
}

HYPERLOADER_INLINE float of_bfloat16(uint16_t value) { return of_bits(uint32_t(value) << 16); }

HYPERLOADER_INLINE uint16_t to_bfloat16(float value) {
  const uint32_t bits = bits_of(value);
  const uint32_t rounded = (bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16;
  return uint16_t((bits & 0x7FFFFFFFU) > 0x7F800000U ? 0x7FC0U : rounded);
}

template <typename T>
void widen(const void* from, at::ScalarType dtype, T* to, int64_t count) {
  const auto* numbers = static_cast<const uint16_t*>(from);
  if (dtype == at::kBFloat16) {
    for (int64_t i = 0; i < count; ++i) to[i] = of_bfloat16(numbers[i]);
  } else {
    for (int64_t i = 0; i < count; ++i) to[i] = of_half(numbers[i]);
  }
}

template <typename T>
void narrow(const T* from, void* to, at::ScalarType dtype, int64_t count) {
  auto* numbers = static_cast<uint16_t*>(to);
  if (dtype == at::kBFloat16) {
    for (int64_t i = 0; i < count; ++i) numbers[i] = to_bfloat16(float(from[i]));
  } else {
    for (int64_t i = 0; i < count; ++i) numbers[i] = to_half(float(from[i]));
  }
}

template <typename T>
constexpr Kernels<T> table() {
  return {
      HYPERLOADER_NAME, kLanes<T>, dot<T>, accumulate<T>, transpose<T>, activate<T>, activate_with_slope<T>,
      outer_basis<T>, outer_backward<T>, multiply<T>, sum_rows<T>, add<T>, centre<T>, normalise<T>, normalise_backward<T>,
      widen<T>, narrow<T>,
  };
}

}  // namespace

extern const Kernels<float> kFloat = table<float>();
extern const Kernels<double> kDouble = table<double>();

}  // namespace hyperloader::cpu::HYPERLOADER_ISA
