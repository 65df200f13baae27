// The conditions of a hypernetwork on CUDA devices: one kernel forward, two backward (rows, then sums over the rows).
#include <torch/library.h>

#include "../ops.h"
#include "tiles.cuh"
#include "workspace.h"

namespace hyperloader::cuda {
namespace {

constexpr int kRowsOfBlock = 4;  // that share a read of the weights

template <typename S>
struct Condition {
  const S *task, *layer, *position;  // (any, embedding)
  const int64_t *layers, *positions;
  const S *first_weight, *first_bias, *second_weight, *second_bias, *norm_weight, *norm_bias;
  int64_t tasks, layer_count, position_count, layer_rows, position_rows, embedding, hidden, size;
  S scales[3], eps;

  __host__ __device__ int64_t rows() const { return tasks * layer_count * position_count; }
  __device__ int64_t task_of(int64_t row) const { return row % tasks; }
  // An index out of range is clamped: the host does not look at indices that lie on the device.
  __device__ int64_t layer_of(int64_t row) const { return clamp(layers[row / tasks % layer_count], layer_rows); }
  __device__ int64_t position_of(int64_t row) const {
    return clamp(positions[row / tasks / layer_count], position_rows);
  }
  __device__ static int64_t clamp(int64_t index, int64_t count) {
    return index < 0 ? 0 : index < count ? index : count - 1;
  }
};

// Where the numbers of a row stand.
struct Places {
  int64_t input, hidden, before, forward_width;                                 // both directions
  int64_t grad_input, grad_hidden, grad_before, along_standard, grad, width;  // the backward

  template <typename S>
  explicit Places(const Condition<S>& c)
      : input(0),
        hidden(3 * c.embedding),
        before(hidden + c.hidden),
        forward_width(before + c.size),
        grad_input(forward_width),
        grad_hidden(grad_input + 3 * c.embedding),
        grad_before(grad_hidden + c.hidden),
        along_standard(grad_before + c.size),
        grad(along_standard + c.size),
        width(grad + c.size) {}
};

// visit(row of the block, unit, Σ weights[unit] · from[row]) for (units, terms): a warp for each unit.
template <typename S, typename Visit>
__device__ __forceinline__ void linear(
    const S* from, int64_t stride, const S* weights, int64_t units, int64_t terms, const Visit& visit) {
  for (int64_t unit = warp_of_block(); unit < units; unit += kWarps) {
    S sums[kRowsOfBlock] = {};
    for (int64_t i = threadIdx.x % 32; i < terms; i += 32) {
      const S weight = weights[unit * terms + i];
#pragma unroll
      for (int row = 0; row < kRowsOfBlock; ++row) sums[row] += weight * from[row * stride + i];
    }
#pragma unroll
    for (int row = 0; row < kRowsOfBlock; ++row) {
#pragma unroll
      for (int mask = 1; mask < 32; mask *= 2) sums[row] += __shfl_xor_sync(kAllLanes, sums[row], mask);
      if (threadIdx.x % 32 == row) visit(row, unit, sums[row]);
    }
  }
}

template <typename S>
__device__ __forceinline__ S sum_warp(S number) {
#pragma unroll
  for (int mask = 1; mask < 32; mask *= 2) number += __shfl_xor_sync(kAllLanes, number, mask);
  return number;
}

// The block's rows up to what the norm takes, in `rows` (shared memory), `stride` numbers each.
template <typename S>
__device__ __forceinline__ void before_norm(const Condition<S>& c, const Places& at, S* rows, int64_t stride) {
  const int64_t begin = int64_t(blockIdx.x) * kRowsOfBlock, width = 3 * c.embedding;
  for (int64_t i = threadIdx.x; i < kRowsOfBlock * width; i += kThreads) {
    const int64_t row = begin + i / width, which = i % width / c.embedding, element = i % c.embedding;
    S value = 0;
    if (row < c.rows()) {
      const int64_t index = which == 0 ? c.task_of(row) : which == 1 ? c.layer_of(row) : c.position_of(row);
      value = (which == 0 ? c.task : which == 1 ? c.layer : c.position)[index * c.embedding + element];
    }
    rows[i / width * stride + at.input + i % width] = value;
  }
  __syncthreads();
  linear(rows + at.input, stride, c.first_weight, c.hidden, width, [&](int row, int64_t unit, S sum) {
    const S value = c.scales[0] * sum + c.first_bias[unit];
    rows[row * stride + at.hidden + unit] = value > 0 ? value : S(0);
  });
  __syncthreads();
  linear(rows + at.hidden, stride, c.second_weight, c.size, c.hidden, [&](int row, int64_t unit, S sum) {
    rows[row * stride + at.before + unit] = c.scales[1] * sum + c.second_bias[unit];
  });
  __syncthreads();
}

// Mean and reciprocal deviation of a row, by the warp that has its number.
template <typename S>
__device__ __forceinline__ void standardise(const Condition<S>& c, const S* before, S& mean, S& rstd) {
  S sum = 0, squares = 0;
  for (int64_t i = threadIdx.x % 32; i < c.size; i += 32) sum += before[i];
  mean = sum_warp(sum) / S(c.size);
  for (int64_t i = threadIdx.x % 32; i < c.size; i += 32) squares += (before[i] - mean) * (before[i] - mean);
  rstd = 1 / ::sqrt(sum_warp(squares) / S(c.size) + c.eps);
}

template <typename S>
__global__ void __launch_bounds__(kThreads)
    condition_kernel(const __grid_constant__ Condition<S> c, const __grid_constant__ Places at, AnyResults results) {
  S* const rows = dynamic_shared<S>();
  before_norm(c, at, rows, at.forward_width);
  const int64_t row = int64_t(blockIdx.x) * kRowsOfBlock + warp_of_block();
  if (warp_of_block() >= kRowsOfBlock || row >= c.rows()) return;
  const S* const before = rows + warp_of_block() * at.forward_width + at.before;
  S mean, rstd;
  standardise(c, before, mean, rstd);
  for (int64_t i = threadIdx.x % 32; i < c.size; i += 32) {
    const S value = (before[i] - mean) * rstd * c.norm_weight[i] + c.norm_bias[i];
    results.store<S>(row * c.size + i, c.scales[2] * value);
  }
}

// kept (rows, at.width): what the sums over the rows are taken of.
template <typename S>
__global__ void __launch_bounds__(kThreads) condition_rows_kernel(
    const __grid_constant__ Condition<S> c, const __grid_constant__ Places at, AnyNumbers grad, S* kept) {
  S* const rows = dynamic_shared<S>();
  const int64_t stride = at.width, begin = int64_t(blockIdx.x) * kRowsOfBlock;
  before_norm(c, at, rows, stride);
  if (warp_of_block() < kRowsOfBlock) {
    S* const own = rows + warp_of_block() * stride;
    const int64_t row = begin + warp_of_block();
    S mean, rstd, sum = 0, along = 0;
    standardise(c, own + at.before, mean, rstd);
    for (int64_t i = threadIdx.x % 32; i < c.size; i += 32) {
      const S given = row < c.rows() ? c.scales[2] * grad.load<S>(row * c.size + i) : S(0);
      const S standard = (own[at.before + i] - mean) * rstd, weighted = given * c.norm_weight[i];
      own[at.grad + i] = given;
      own[at.along_standard + i] = given * standard;
      sum += weighted;
      along += weighted * standard;
    }
    sum = sum_warp(sum) / S(c.size);
    along = sum_warp(along) / S(c.size);
    for (int64_t i = threadIdx.x % 32; i < c.size; i += 32) {
      const S standard = (own[at.before + i] - mean) * rstd;
      own[at.grad_before + i] = rstd * (own[at.grad + i] * c.norm_weight[i] - sum - standard * along);
    }
  }
  __syncthreads();
  for (int64_t unit = threadIdx.x; unit < c.hidden; unit += kThreads) {
    S sums[kRowsOfBlock] = {};
    for (int64_t i = 0; i < c.size; ++i) {
      const S weight = c.second_weight[i * c.hidden + unit];
#pragma unroll
      for (int row = 0; row < kRowsOfBlock; ++row) sums[row] += weight * rows[row * stride + at.grad_before + i];
    }
#pragma unroll
    for (int row = 0; row < kRowsOfBlock; ++row) {
      const bool passes = rows[row * stride + at.hidden + unit] > 0;
      rows[row * stride + at.grad_hidden + unit] = passes ? c.scales[1] * sums[row] : S(0);
    }
  }
  __syncthreads();
  for (int64_t element = threadIdx.x; element < 3 * c.embedding; element += kThreads) {
    S sums[kRowsOfBlock] = {};
    for (int64_t i = 0; i < c.hidden; ++i) {
      const S weight = c.first_weight[i * 3 * c.embedding + element];
#pragma unroll
      for (int row = 0; row < kRowsOfBlock; ++row) sums[row] += weight * rows[row * stride + at.grad_hidden + i];
    }
#pragma unroll
    for (int row = 0; row < kRowsOfBlock; ++row) rows[row * stride + at.grad_input + element] = c.scales[0] * sums[row];
  }
  __syncthreads();
  for (int64_t i = threadIdx.x; i < kRowsOfBlock * stride; i += kThreads) {
    if (begin + i / stride < c.rows()) kept[begin * stride + i] = rows[i];
  }
}

enum class RowsOf { kAll, kTask, kLayer, kPosition };

// result (lefts, rights) = scale · Σ over the rows of left[i] · right[j]; over a task's (a layer's, a position's) rows
// alone and without `left` where i is its index in the embedding.
template <typename S>
struct RowSum {
  RowsOf which;
  int64_t left, lefts, right, rights;  // places in a row; left is negative where there is none
  S scale;
  AnyResults result;
};

constexpr int kRowSums = 9, kSumColumns = 32;

template <typename S>
struct RowSums {
  RowSum<S> of[kRowSums];
};

template <typename S>
__global__ void __launch_bounds__(kThreads) condition_sums_kernel(
    const __grid_constant__ Condition<S> c, const __grid_constant__ RowSums<S> all, const S* kept, int64_t width) {
  __shared__ S shares[kWarps][kSumColumns];
  const RowSum<S>& sum = all.of[blockIdx.y];
  const int64_t begin = int64_t(blockIdx.x) * kSumColumns, at = begin + threadIdx.x % 32;
  if (begin >= sum.lefts * sum.rights) return;
  const int64_t left = at / sum.rights, right = at % sum.rights;
  S total = 0;
  for (int64_t row = warp_of_block(); at < sum.lefts * sum.rights && row < c.rows(); row += kWarps) {
    if (sum.which == RowsOf::kTask && c.task_of(row) != left) continue;
    if (sum.which == RowsOf::kLayer && c.layer_of(row) != left) continue;
    if (sum.which == RowsOf::kPosition && c.position_of(row) != left) continue;
    const S factor = sum.left < 0 ? S(1) : kept[row * width + sum.left + left];
    total += factor * kept[row * width + sum.right + right];
  }
  shares[warp_of_block()][threadIdx.x % 32] = total;
  __syncthreads();
  if (warp_of_block() != 0 || at >= sum.lefts * sum.rights) return;
#pragma unroll
  for (int warp = 1; warp < kWarps; ++warp) total += shares[warp][threadIdx.x];
  sum.result.store(at, sum.scale * total);
}

// The tensors in the dtype of sums, contiguous, kept while they are used.
template <typename S>
struct Arguments {
  std::vector<Tensor> kept;
  Condition<S> condition{};

  Arguments(const ConditionWeights& weights, at::ArrayRef<double> scales, double eps) {
    Condition<S>& c = condition;
    c.task = numbers(weights.task_embedding);
    c.layer = numbers(weights.layer_embedding);
    c.position = numbers(weights.position_embedding);
    c.layers = indices(weights.layers);
    c.positions = indices(weights.positions);
    c.first_weight = numbers(weights.first_weight);
    c.first_bias = numbers(weights.first_bias);
    c.second_weight = numbers(weights.second_weight);
    c.second_bias = numbers(weights.second_bias);
    c.norm_weight = numbers(weights.norm_weight);
    c.norm_bias = numbers(weights.norm_bias);
    c.tasks = weights.task_embedding.size(0);
    c.layer_count = weights.layers.size(0);
    c.position_count = weights.positions.size(0);
    c.layer_rows = weights.layer_embedding.size(0);
    c.position_rows = weights.position_embedding.size(0);
    c.embedding = weights.task_embedding.size(1);
    c.hidden = weights.first_weight.size(0);
    c.size = weights.second_weight.size(0);
    for (int i = 0; i < 3; ++i) c.scales[i] = static_cast<S>(scales[i]);
    c.eps = static_cast<S>(eps);
    TORCH_CHECK_VALUE(c.layer_rows > 0 || c.rows() == 0, "layers must name rows of layer_embedding, which has none");
    TORCH_CHECK_VALUE(
        c.position_rows > 0 || c.rows() == 0, "positions must name rows of position_embedding, which has none");
  }

  const S* numbers(const Tensor& tensor) {
    kept.push_back(tensor.to(c10::CppTypeToScalarType<S>::value).contiguous());
    return kept.back().const_data_ptr<S>();
  }
  const int64_t* indices(const Tensor& tensor) {
    kept.push_back(tensor.contiguous());
    return kept.back().const_data_ptr<int64_t>();
  }
};

AnyResults to(const Tensor& tensor) { return {tensor.mutable_data_ptr(), tensor.scalar_type()}; }

template <typename S>
dim3 blocks_of(const Condition<S>& c) {
  return dim3((c.rows() + kRowsOfBlock - 1) / kRowsOfBlock);
}

template <typename S>
void forward(const ConditionWeights& weights, at::ArrayRef<double> scales, double eps, const Tensor& results) {
  const Arguments<S> arguments(weights, scales, eps);
  const Condition<S>& c = arguments.condition;
  const Places at(c);
  const int64_t shared = kRowsOfBlock * at.forward_width * static_cast<int64_t>(sizeof(S));
  launch(condition_kernel<S>, blocks_of(c), dim3(kThreads), shared, c, at, to(results));
}

template <typename S>
void backward(
    const Tensor& grad, const ConditionWeights& weights, at::ArrayRef<double> scales, double eps,
    const std::vector<Tensor>& results) {
  const Arguments<S> arguments(weights, scales, eps);
  const Condition<S>& c = arguments.condition;
  const Places at(c);
  Workspace memory;
  const auto kept = memory.reserve<S>(c.rows() * at.width);
  memory.allocate(grad);
  const int64_t shared = kRowsOfBlock * at.width * static_cast<int64_t>(sizeof(S));
  const AnyNumbers given{grad.const_data_ptr(), grad.scalar_type()};
  launch(condition_rows_kernel<S>, blocks_of(c), dim3(kThreads), shared, c, at, given, memory[kept]);

  const int64_t embedding = c.embedding, input = 3 * embedding, hidden = c.hidden, size = c.size;
  const RowSums<S> sums{{
      {RowsOf::kTask, -1, c.tasks, at.grad_input, embedding, S(1), to(results[0])},
      {RowsOf::kLayer, -1, c.layer_rows, at.grad_input + embedding, embedding, S(1), to(results[1])},
      {RowsOf::kPosition, -1, c.position_rows, at.grad_input + 2 * embedding, embedding, S(1), to(results[2])},
      {RowsOf::kAll, at.grad_hidden, hidden, at.input, input, c.scales[0], to(results[3])},
      {RowsOf::kAll, -1, 1, at.grad_hidden, hidden, S(1), to(results[4])},
      {RowsOf::kAll, at.grad_before, size, at.hidden, hidden, c.scales[1], to(results[5])},
      {RowsOf::kAll, -1, 1, at.grad_before, size, S(1), to(results[6])},
      {RowsOf::kAll, -1, 1, at.along_standard, size, S(1), to(results[7])},
      {RowsOf::kAll, -1, 1, at.grad, size, S(1), to(results[8])},
  }};
  int64_t most = 0;
  for (const RowSum<S>& sum : sums.of) most = std::max(most, sum.lefts * sum.rights);
  const dim3 grid((most + kSumColumns - 1) / kSumColumns, kRowSums);
  launch(condition_sums_kernel<S>, grid, dim3(kThreads), 0, c, sums, memory[kept], at.width);
}

Tensor condition(
    const Tensor& task_embedding, const Tensor& layer_embedding, const Tensor& position_embedding, const Tensor& layers,
    const Tensor& positions, const Tensor& first_weight, const Tensor& first_bias, const Tensor& second_weight,
    const Tensor& second_bias, const Tensor& norm_weight, const Tensor& norm_bias, at::ArrayRef<double> scales,
    double eps) {
  const ConditionWeights weights{task_embedding, layer_embedding, position_embedding, layers,
                                 positions,      first_weight,    first_bias,         second_weight,
                                 second_bias,    norm_weight,     norm_bias};
  check_condition(weights, scales, eps);
  const Guard device(task_embedding.device());
  const Tensor results = at::empty(
      {positions.size(0), layers.size(0), task_embedding.size(0), norm_weight.size(0)}, task_embedding.options());
  task_embedding.scalar_type() == at::kDouble ? forward<double>(weights, scales, eps, results)
                                              : forward<float>(weights, scales, eps, results);
  return results;
}

std::vector<Tensor> condition_backward(
    const Tensor& grad, const Tensor& task_embedding, const Tensor& layer_embedding, const Tensor& position_embedding,
    const Tensor& layers, const Tensor& positions, const Tensor& first_weight, const Tensor& first_bias,
    const Tensor& second_weight, const Tensor& second_bias, const Tensor& norm_weight, const Tensor& norm_bias,
    at::ArrayRef<double> scales, double eps) {
  const ConditionWeights weights{task_embedding, layer_embedding, position_embedding, layers,
                                 positions,      first_weight,    first_bias,         second_weight,
                                 second_bias,    norm_weight,     norm_bias};
  check_condition(weights, scales, eps);
  check_condition_backward(grad, weights);
  const Guard device(grad.device());
  const Tensor given = grad.contiguous();
  std::vector<Tensor> results;
  for (const Tensor* like :
       {&task_embedding, &layer_embedding, &position_embedding, &first_weight, &first_bias, &second_weight,
        &second_bias, &norm_weight, &norm_bias}) {
    results.push_back(at::empty(like->sizes(), like->options()));
  }
  task_embedding.scalar_type() == at::kDouble ? backward<double>(given, weights, scales, eps, results)
                                              : backward<float>(given, weights, scales, eps, results);
  return results;
}

}  // namespace

TORCH_LIBRARY_IMPL(hyperloader, CUDA, m) {
  m.impl("condition", &condition);
  m.impl("condition_backward", &condition_backward);
}

}  // namespace hyperloader::cuda
