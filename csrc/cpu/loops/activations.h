// Activations and their slopes.
// A part of implementation.h, which includes it once for every instruction set.

HYPERLOADER_INLINE V<float> exponential(V<float> x) {
  constexpr float kLog2E = 1.44269504088896341F, kHigh = 0.693359375F, kLow = -2.12194440054690583e-4F;  // ln 2
  const auto vanishes = x < -87.0F;  // next to the smallest normal number, as 88 is to the largest
  x = vanishes ? V<float>{} : x;
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
  const V<float> power = series * reinterpret_cast<V<float>>((exponent + 127) << 23);
  return vanishes ? V<float>{} : power;
}

HYPERLOADER_INLINE V<double> exponential(V<double> x) {
  x = x > 700.0 ? V<double>{} + 700.0 : x;  // finite, as in float32
  for (int i = 0; i < kLanes<double>; ++i) x[i] = __builtin_exp(x[i]);
  return x;
}

// Polynomials fitted for this: erf(x) / x in x² below 1, and -ln(1 - erf(x)) in x from there to 4, where erf rounds
// to 1. Both leave an error below 2e-9.
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

// Where the exponential is cut off, and what it divides is as good as zero.
template <typename T>
constexpr T kFarthest = sizeof(T) == 4 ? T(-88) : T(-700);

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
    const V<T> power = exponential(-pre);
    const V<T> gate = pre < kFarthest<T> ? zero : T(1) / (T(1) + power);
    slope = gate * (T(1) + pre * (power * gate));  // 1 - gate without cancellation
    return pre * gate;
  } else {  // gelu_new: (1 + tanh(u)) / 2 is the logistic function of 2 u
    constexpr T kScale = T(2 * 0.79788456080286535588), kCubic = T(0.044715);  // 2 sqrt(2 / pi)
    V<T> within = pre < T(-20) ? zero - T(20) : pre;                           // beyond, the gate is 0 or 1
    within = within > T(20) ? zero + T(20) : within;
    const V<T> square = within * within;
    const V<T> power = exponential(-kScale * within * (T(1) + kCubic * square));
    const V<T> gate = within > T(-20) ? T(1) / (T(1) + power) : zero * within;  // NaN stays one
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
