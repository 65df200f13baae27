// What the adapter's forward and backward share on CUDA devices: tensors as they are given, weights as they are laid
// out, and the outer norm's statistics.
//
// v = up · a + up_bias is an affine image of the few numbers a. With a one behind them for the bias, `centred` the
// columns of [up, up_bias] less their means and moments = centredᵀ · centred / hidden, its variance is
// aᵀ · moments · a: no pass over the hidden units. hyperloader/reference/adapter_low_rank.py writes it out.
//
// The inner norm is outside: its standardised input takes the place of x, its weight and bias go into the down
// projection.
#pragma once

#include "../adapter.h"
#include "activations.cuh"
#include "dispatch.h"
#include "tiles.cuh"
#include "weights.cuh"
#include "workspace.h"

namespace hyperloader::cuda {

// A matrix of each group as it is given, or a vector: one row.
struct Given {
  AnyNumbers from;
  int64_t group_stride, row_stride, column_stride;

  template <typename S>
  __device__ S load(int64_t group, int64_t row, int64_t column) const {
    return from.load<S>(group * group_stride + row * row_stride + column * column_stride);
  }

  // Eight of a row, `valid` of which exist; the rest are zero.
  template <typename S>
  __device__ __forceinline__ Numbers<S, 8> load_8(int64_t group, int64_t row, int64_t column, int valid) const {
    const int64_t at = group * group_stride + row * row_stride + column * column_stride;
    if (column_stride == 1) return from.load<S, 8>(at, valid, from.begins_whole(at));
    Numbers<S, 8> found;
#pragma unroll
    for (int i = 0; i < 8; ++i) found.at[i] = i < valid ? from.load<S>(at + i * column_stride) : S(0);
    return found;
  }
};

inline Given given(const Tensor& tensor, bool grouped) {
  if (!tensor.defined()) return {};
  const bool vector = tensor.dim() == (grouped ? 2 : 1);
  return {
      {tensor.const_data_ptr(), tensor.scalar_type()},
      grouped ? tensor.stride(0) : 0,
      vector ? 0 : tensor.stride(-2),
      tensor.stride(-1)};
}

inline AnyResults results(const Tensor& tensor) { return {tensor.mutable_data_ptr(), tensor.scalar_type()}; }

struct GivenAdapter {
  Given down, down_bias, up, up_bias;
  Given norm_weight{}, norm_bias{}, inner_weight{}, inner_bias{};

  GivenAdapter(AdapterWeights weights, const AdapterOptions& options, bool grouped)
      : down(given(weights.down_weight, grouped)),
        down_bias(given(weights.down_bias, grouped)),
        up(given(weights.up_weight, grouped)),
        up_bias(given(weights.up_bias, grouped)) {
    if (has_outer(options.norm)) {
      norm_weight = given(weights.norm_weight, grouped);
      norm_bias = given(weights.norm_bias, grouped);
    }
    if (has_inner(options.norm)) {
      const auto [weight, bias] = weights.inner_norm(options.norm);
      inner_weight = given(weight, grouped);
      inner_bias = given(bias, grouped);
    }
  }
};

// The weights, laid out: padded with zeros to steps of 32, in the products' dtype. The forward shrinks with `down` and
// expands with `up`. The backward shrinks with the columns of [up, up_bias] and with an outer norm of ones, and expands
// with `down`.
template <typename S, typename C>
struct LaidOut {
  int64_t hidden, bottleneck, units;                       // of `shrink`, padded
  const C *shrink, *expand;                                // of each group (units, wide), (wide, thin)
  const S *down_bias, *up_bias, *norm_weight, *norm_bias;  // (thin), (wide) and so the rest; backward: norm_weight
  const S *centred, *moments, *means;  // with an outer norm (columns, wide), (columns, columns), (columns)

  __host__ __device__ int64_t wide() const { return padded(hidden); }
  __host__ __device__ int64_t thin() const { return padded(bottleneck); }
  __host__ __device__ int64_t columns() const { return bottleneck + 1; }  // of [up, up_bias]

  __device__ LaidOut of_group(int64_t group) const {
    LaidOut found = *this;
    found.shrink += group * units * wide();
    found.expand += group * wide() * thin();
    found.down_bias += group * thin();
    found.up_bias += group * wide();
    found.norm_weight += group * wide();
    found.norm_bias += group * wide();
    found.centred += group * columns() * wide();
    found.moments += group * columns() * columns();
    found.means += group * columns();
    return found;
  }
};

// kForwardWrittenOut: without moments, as the norm's statistics are those of the written out v.
enum class Direction { kForward, kForwardWrittenOut, kBackward };

// Reserves what the weights of one direction take and lays them out there, in one launch.
template <typename S, typename C>
class AdapterLayout {
 public:
  // `blocked`: the matrices in blocks (resident.cuh).
  AdapterLayout(const AdapterOptions& options, Direction direction, bool blocked, Workspace& memory);
  LaidOut<S, C> lay_out(const AdapterWeights& weights, bool grouped, const Workspace& memory) const;

 private:
  bool has_moments() const { return has_outer(options_.norm) && direction_ != Direction::kForwardWrittenOut; }

  AdapterOptions options_;
  Direction direction_;
  bool blocked_;
  LaidOut<S, C> sizes_;
  Workspace::Place<C> shrink_, expand_;
  Workspace::Place<S> vectors_, centred_, moments_, means_;
};

// Tokens whose variance is less than this part of what it would be if the columns did not cancel have it written out,
// as on the CPU: the moments' rounding would be larger.
constexpr int kCancelled = 32;

// The few numbers of a tile's tokens in shared memory: rows of whole 16 bytes.
template <typename S>
struct Few {
  S* numbers;
  int stride;

  static constexpr int kWhole = 16 / sizeof(S);
  __host__ __device__ static int stride_of(int64_t columns) {
    return static_cast<int>((columns + kWhole - 1) / kWhole) * kWhole;
  }
  __host__ __device__ static int64_t bytes(int64_t columns, int height) {
    return height * stride_of(columns) * static_cast<int64_t>(sizeof(S));
  }
  __device__ Few(S* numbers, int64_t columns) : numbers(numbers), stride(stride_of(columns)) {}
  __device__ S* of(int token) const { return numbers + token * stride; }
};

template <typename S>
__device__ __forceinline__ S sum_lanes(S value) {
#pragma unroll
  for (int mask = 1; mask < 32; mask *= 2) value += __shfl_xor_sync(kAllLanes, value, mask);
  return value;
}

template <typename S>
__device__ __forceinline__ S sum_threads(S value, S (&kept)[kWarps]) {
  value = sum_lanes(value);
  if (threadIdx.x % 32 == 0) kept[warp_of_block()] = value;
  __syncthreads();
  S sum = 0;
  for (int warp = 0; warp < kWarps; ++warp) sum += kept[warp];
  __syncthreads();
  return sum;
}

// A lane's number i of moments · a for two tokens of a tile; a has `columns` numbers, and the moments are symmetric.
template <typename S>
__device__ __forceinline__ Numbers<S, 2> multiply_moments(
    const S* first, const S* second, const S* moments, int columns, int i) {
  constexpr int kWhole = Few<S>::kWhole;
  const S* row = moments + i;
  Numbers<S, 2> sums{};
  int k = 0;
#pragma unroll 1
  for (; k + kWhole <= columns; k += kWhole) {
    const auto a = load<kWhole>(first + k, kWhole, true), b = load<kWhole>(second + k, kWhole, true);
#pragma unroll
    for (int j = 0; j < kWhole; ++j, row += columns) {
      sums.at[0] += *row * a.at[j];
      sums.at[1] += *row * b.at[j];
    }
  }
#pragma unroll 1
  for (; k < columns; ++k, row += columns) {
    sums.at[0] += *row * first[k];
    sums.at[1] += *row * second[k];
  }
  return sums;
}

// One warp's variance of a token whose columns cancel, and moments_a, both written out.
template <typename S>
__device__ __forceinline__ S written_out_variance(const S* a, S* moments_a, const S* centred, int columns, int hidden) {
  const int lane = lane_of_warp();
  for (int i = lane; i < columns; i += 32) moments_a[i] = 0;
  S variance = 0;
  const int64_t wide = padded(hidden);
#pragma unroll 1
  for (int64_t h = lane; h < wide; h += 32) {
    S v = 0;
    for (int64_t i = 0; i < columns; ++i) v += centred[i * wide + h] * a[i];
    variance += v * v;
#pragma unroll 1
    for (int64_t i = 0; i < columns; ++i) {
      const S sum = sum_lanes(centred[i * wide + h] * v);
      if (lane == i % 32) moments_a[i] += sum / hidden;
    }
  }
  __syncwarp();
  return sum_lanes(variance) / hidden;
}

// By one warp, for its tokens `token` and `token` + 8 of a tile: moments_a = moments · a, rstd = 1 / sqrt(variance +
// eps), and the sums of what each(h, i) is for the columns i.
template <typename S, typename Each>
__device__ __forceinline__ void norm_of_two(
    const Few<S>& a, const Few<S>& moments_a, int token, const S* moments, const S* centred, int columns, int hidden,
    S eps, S (&rstd)[2], S (&sums)[2], const Each& each) {
  const S* const own[2] = {a.of(token), a.of(token + kWarps)};
  S* const products[2] = {moments_a.of(token), moments_a.of(token + kWarps)};
  S variance[2] = {}, apart[2] = {};
#pragma unroll 1
  for (int i = lane_of_warp(); i < columns; i += 32) {
    const auto found = multiply_moments(own[0], own[1], moments, columns, i);
    const S moment = moments[i * columns + i];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const S value = own[h][i];
      products[h][i] = found.at[h];
      variance[h] += value * found.at[h];
      apart[h] += value * value * moment;
      sums[h] += each(h, i);
    }
  }
#pragma unroll
  for (int mask = 1; mask < 32; mask *= 2) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      variance[h] += __shfl_xor_sync(kAllLanes, variance[h], mask);
      apart[h] += __shfl_xor_sync(kAllLanes, apart[h], mask);
      sums[h] += __shfl_xor_sync(kAllLanes, sums[h], mask);
    }
  }
#pragma unroll 1
  for (int h = 0; h < 2; ++h) {  // chosen by conditions: an index would put them into memory
    if (kCancelled * (h == 0 ? variance[0] : variance[1]) >= (h == 0 ? apart[0] : apart[1])) continue;
    const S found =
        written_out_variance(h == 0 ? own[0] : own[1], h == 0 ? products[0] : products[1], centred, columns, hidden);
    variance[0] = h == 0 ? found : variance[0];
    variance[1] = h == 0 ? variance[1] : found;
  }
#pragma unroll
  for (int h = 0; h < 2; ++h) rstd[h] = inverse_root((variance[h] > 0 ? variance[h] : S(0)) + eps);
}

// Whether all matrices have the dtype of x.
bool same_dtypes(const Tensor& x, const AdapterWeights& weights);

}  // namespace hyperloader::cuda
