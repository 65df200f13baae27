// What is done to whole rows: sums, layer norms, and the adapter's outer norm on the few numbers of each token.
// A part of implementation.h, which includes it once for every instruction set.

// The sum of what `vector(i)` gives for whole vectors and `number(i)` for those left over. Four sums side by side: none
// waits for the one before it.
template <typename T, typename Vector, typename Number>
HYPERLOADER_INLINE T sum_over(int64_t count, const Vector& vector, const Number& number) {
  V<T> sums[4] = {};
  int64_t i = 0;
  for (; i + 4 * kLanes<T> <= count; i += 4 * kLanes<T>) {
#pragma GCC unroll 4
    for (int part = 0; part < 4; ++part) sums[part] += vector(i + part * kLanes<T>);
  }
  for (; i + kLanes<T> <= count; i += kLanes<T>) sums[0] += vector(i);
  T total = add_lanes<T>((sums[0] + sums[1]) + (sums[2] + sums[3]));
  for (; i < count; ++i) total += number(i);
  return total;
}

template <typename T>
T sum(const T* values, int64_t count) {
  return sum_over<T>(count, [&](int64_t i) { return load(values + i); }, [&](int64_t i) { return values[i]; });
}

template <typename T>
T sum_of_products(const T* left, const T* right, int64_t count) {
  return sum_over<T>(
      count, [&](int64_t i) { return load(left + i) * load(right + i); },
      [&](int64_t i) { return left[i] * right[i]; });
}

// ---- the adapter's outer norm, on the few numbers of each token ----

// For tokens with a = [act(pre), 1, 0 ...] (rows, stride) and moments_a = a · moments:
// rstd = 1 / sqrt(a · moments_a + eps), and basis = [rstd · a, 1]; `size` counts the numbers of a that are not padding.
template <typename T>
void outer_basis(
    const T* a, const T* moments_a, double eps, int64_t rows, int64_t size, int64_t stride, T* basis, T* rstd) {
  for (int64_t i = 0; i < rows; ++i, a += stride, moments_a += stride, basis += stride) {
    const T variance = sum_of_products(a, moments_a, stride);
    const double at_least_zero =
        variance < 0 ? 0.0 : double(variance);  // rounding may take a variance of zero below it
    const T factor = T(1) / T(__builtin_sqrt(at_least_zero + eps));
    for (int64_t j = 0; j < stride; j += kLanes<T>) store(basis + j, load(a + j) * factor);
    basis[size] = T(1);
    rstd[i] = factor;
  }
}

template <typename T>
int64_t find_cancelled(
    const T* a, const T* moments_a, const T* diagonal, int64_t rows, int64_t stride, int64_t* found) {
  int64_t count = 0;
  for (int64_t i = 0; i < rows; ++i, a += stride, moments_a += stride) {
    V<T> variances{}, sizes{};
    for (int64_t j = 0; j < stride; j += kLanes<T>) {
      const V<T> own = load(a + j);
      variances += own * load(moments_a + j);
      sizes += own * own * load(diagonal + j);
    }
    if (!(32 * add_lanes<T>(variances) >= add_lanes<T>(sizes))) found[count++] = i;
  }
  return count;
}

// Turns p (rows, stride), the products of the output's gradient with the centred columns, into the gradient of a, and
// gives w · a with w = rstd² · c2.
template <typename T>
void outer_backward(
    const T* a, const T* moments_a, const T* rstd, int64_t rows, int64_t width, int64_t stride, T* p, T* weighted) {
  for (int64_t i = 0; i < rows; ++i, a += stride, moments_a += stride, p += stride, weighted += stride) {
    const T mean = rstd[i] * sum_of_products(a, p, stride) / T(width);  // c2
    const T back = mean * rstd[i] * T(width), weight = rstd[i] * rstd[i] * mean;
    for (int64_t j = 0; j < stride; j += kLanes<T>) {
      store(p + j, rstd[i] * (load(p + j) - back * load(moments_a + j)));
      store(weighted + j, weight * load(a + j));
    }
  }
}

template <typename T>
void multiply(const T* left, const T* right, int64_t count, T* product) {
  for (int64_t i = 0; i < count; ++i) product[i] = left[i] * right[i];
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
void moments(const T* x, double eps, int64_t width, T* mean, T* rstd) {
  const T average = sum(x, width) / T(width);
  const auto square = [](auto centred) { return centred * centred; };
  const T variance = sum_over<T>(
                         width, [&](int64_t h) { return square(load(x + h) - average); },
                         [&](int64_t h) { return square(x[h] - average); }) /
                     T(width);
  *mean = average;
  *rstd = T(1) / T(__builtin_sqrt(double(variance) + eps));
}

template <typename T>
void normalise(const T* start, const T* x, const T* weight, const T* bias, T mean, T rstd, int64_t width, T* normed) {
  if (start == nullptr) {
    for (int64_t h = 0; h < width; ++h) normed[h] = (x[h] - mean) * rstd * weight[h] + bias[h];
  } else {
    for (int64_t h = 0; h < width; ++h) normed[h] = start[h] + ((x[h] - mean) * rstd * weight[h] + bias[h]);
  }
}

template <typename T>
void normalise_backward(
    const T* grad, const T* grad_normed, const T* x, const T* weight, T mean, T rstd, int64_t width, T* grad_x,
    T* grad_weight, T* grad_bias) {
  const T first = sum_of_products(grad_normed, weight, width) / T(width);
  const T second =
      sum_over<T>(
          width, [&](int64_t h) { return load(grad_normed + h) * load(weight + h) * (load(x + h) - mean); },
          [&](int64_t h) { return grad_normed[h] * weight[h] * (x[h] - mean); }) *
      rstd * rstd / T(width);
  const auto through = [&](auto grad, auto weight, auto centred) {
    return rstd * (grad * weight - first - centred * second);
  };
  int64_t h = 0;
  for (; h + kLanes<T> <= width; h += kLanes<T>) {  // in vectors by hand: grad_x may be x
    const V<T> centred = load(x + h) - mean, gradient = load(grad_normed + h);
    store(grad_weight + h, load(grad_weight + h) + gradient * centred * rstd);
    store(grad_bias + h, load(grad_bias + h) + gradient);
    const V<T> start = grad == nullptr ? V<T>{} : load(grad + h);
    store(grad_x + h, start + through(gradient, load(weight + h), centred));
  }
  for (; h < width; ++h) {
    const T centred = x[h] - mean;
    grad_weight[h] += grad_normed[h] * centred * rstd;
    grad_bias[h] += grad_normed[h];
    grad_x[h] = (grad == nullptr ? T(0) : grad[h]) + through(grad_normed[h], weight[h], centred);
  }
}
