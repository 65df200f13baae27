// What is done to whole rows: sums, layer norms, and the adapter's outer norm on the few numbers of each token.
// A part of kernels_impl.h, which includes it once for every instruction set.

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

// For tokens with a = [act(pre), 1, 0 ...] (rows, stride) and moved = a · moments: rstd = 1 / sqrt(a · moved + eps),
// and basis = [rstd · a, 1]; `size` counts the numbers of a that are not padding.
template <typename T>
void outer_basis(
    const T* a, const T* moved, double eps, int64_t rows, int64_t size, int64_t stride, T* basis, T* rstd) {
  for (int64_t i = 0; i < rows; ++i, a += stride, moved += stride, basis += stride) {
    const T variance = sum_of_products(a, moved, stride);
    const double at_least_zero =
        variance < 0 ? 0.0 : double(variance);  // rounding may take a variance of zero below it
    const T factor = T(1) / T(__builtin_sqrt(at_least_zero + eps));
    for (int64_t j = 0; j < stride; j += kLanes<T>) store(basis + j, load(a + j) * factor);
    basis[size] = T(1);
    rstd[i] = factor;
  }
}

template <typename T>
int64_t find_cancelled(const T* a, const T* moved, const T* diagonal, int64_t rows, int64_t stride, int64_t* found) {
  int64_t count = 0;
  for (int64_t i = 0; i < rows; ++i, a += stride, moved += stride) {
    V<T> variances{}, sizes{};
    for (int64_t j = 0; j < stride; j += kLanes<T>) {
      const V<T> own = load(a + j);
      variances += own * load(moved + j);
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
