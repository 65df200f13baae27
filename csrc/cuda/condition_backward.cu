// Gradients of the conditions of a hypernetwork on CUDA devices: one kernel for the rows, one for the sums over them.
#include "condition.cuh"

namespace hyperloader::cuda {
namespace {

// kept (rows, at.width): what the sums over the rows are taken of.
template <typename T>
__global__ void __launch_bounds__(kThreads, 2) condition_rows_kernel(
    const __grid_constant__ Condition<T> c, const __grid_constant__ Places at, AnyNumbers grad, Sum<T>* kept) {
  using S = Sum<T>;
  S* const rows = dynamic_shared<S>();
  const int stride = at.width, begin = static_cast<int>(blockIdx.x) * kRowsOfBlock;
  before_norm(c, at, rows, stride);
  if (warp_of_block() < kRowsOfBlock) {
    S* const own = rows + warp_of_block() * stride;
    const int row = begin + warp_of_block();
    S mean, rstd, sum = 0, along = 0;
    standardise(c, own + at.before, mean, rstd);
    for (int i = threadIdx.x % 32; i < c.size; i += 32) {
      const S given = row < c.rows() ? c.scales[2] * grad.load<S>(int64_t{row} * c.size + i) : S(0);
      const S standard = (own[at.before + i] - mean) * rstd, weighted = given * static_cast<S>(c.norm_weight[i]);
      own[at.grad + i] = given;
      own[at.along_standard + i] = given * standard;
      sum += weighted;
      along += weighted * standard;
    }
    sum = sum_warp(sum) / S(c.size);
    along = sum_warp(along) / S(c.size);
    for (int i = threadIdx.x % 32; i < c.size; i += 32) {
      const S standard = (own[at.before + i] - mean) * rstd;
      own[at.grad_before + i] = rstd * (own[at.grad + i] * static_cast<S>(c.norm_weight[i]) - sum - standard * along);
    }
  }
  __syncthreads();
  const auto through = [&](const T* weights, int units, int terms, int from, const auto& visit) {
    for (int unit = threadIdx.x; unit < units; unit += kThreads) {
      S sums[kRowsOfBlock] = {};
#pragma unroll 16
      for (int i = 0; i < terms; ++i) {
        const S weight = static_cast<S>(weights[i * units + unit]);
#pragma unroll
        for (int row = 0; row < kRowsOfBlock; ++row) sums[row] += weight * rows[row * stride + from + i];
      }
#pragma unroll
      for (int row = 0; row < kRowsOfBlock; ++row) visit(rows + row * stride, unit, sums[row]);
    }
    __syncthreads();
  };
  through(c.second_weight, c.hidden, c.size, at.grad_before, [&](S* row, int unit, S sum) {
    row[at.grad_hidden + unit] = row[at.hidden + unit] > 0 ? c.scales[1] * sum : S(0);
  });
  through(c.first_weight, 3 * c.embedding, c.hidden, at.grad_hidden, [&](S* row, int element, S sum) {
    row[at.grad_input + element] = c.scales[0] * sum;
  });
  const int own = (c.rows() - begin < kRowsOfBlock ? c.rows() - begin : kRowsOfBlock) * stride;
  for (int i = threadIdx.x; i < own; i += kThreads) kept[int64_t{begin} * stride + i] = rows[i];
}

constexpr int kRowSums = 9, kSumColumns = 32;

enum class RowsOf { kAll, kTask, kLayer, kPosition };

// result (lefts, rights) = scale · Σ over the rows of left[i] · right[j]; over a task's (a layer's, a position's) rows
// alone and without `left` where i is its index in the embedding.
template <typename S>
struct RowSum {
  RowsOf rows;
  int left, lefts, right, rights;  // places in a row; left is negative where there is none
  S scale;
  AnyResults result;

  __host__ __device__ int blocks() const { return (lefts * rights + kSumColumns - 1) / kSumColumns; }
};

template <typename S>
struct RowSums {
  RowSum<S> of[kRowSums];
};

template <typename T>
__global__ void __launch_bounds__(kThreads, 2) condition_sums_kernel(
    const __grid_constant__ Condition<T> c, const __grid_constant__ RowSums<Sum<T>> all, const Sum<T>* kept,
    int width) {
  using S = Sum<T>;
  __shared__ S shares[kWarps][kSumColumns];
  int block = static_cast<int>(blockIdx.x), index = 0;
  for (; block >= all.of[index].blocks(); ++index) block -= all.of[index].blocks();  // the sum of this block
  const RowSum<S>& sum = all.of[index];
  const int at = block * kSumColumns + lane_of_warp();
  const int left = at / sum.rights, right = at % sum.rights;
  const auto counts = [&](int row) {
    switch (sum.rows) {
      case RowsOf::kTask: return c.task_of(row) == left;
      case RowsOf::kLayer: return c.layer_of(row) == left;
      case RowsOf::kPosition: return c.position_of(row) == left;
      default: return true;
    }
  };
  S total = 0;
  if (at < sum.lefts * sum.rights) {
#pragma unroll 4
    for (int row = warp_of_block(); row < c.rows(); row += kWarps) {
      const S* const own = kept + int64_t{row} * width;
      const S factor = sum.left < 0 ? S(1) : own[sum.left + left], other = own[sum.right + right];
      total += counts(row) ? factor * other : S(0);
    }
  }
  shares[warp_of_block()][threadIdx.x % 32] = total;
  __syncthreads();
  if (warp_of_block() != 0 || at >= sum.lefts * sum.rights) return;
#pragma unroll
  for (int warp = 1; warp < kWarps; ++warp) total += shares[warp][threadIdx.x];
  sum.result.store(at, sum.scale * total);
}

AnyResults to(const Tensor& tensor) { return {tensor.mutable_data_ptr(), tensor.scalar_type()}; }

template <typename T>
void backward(const Tensor& grad, const ConditionArguments& arguments, const std::vector<Tensor>& results) {
  using S = Sum<T>;
  const ConditionNumbers<T> numbers(arguments);
  const Condition<T>& c = numbers.condition;
  const Places at(c);
  Workspace memory;
  const auto kept = memory.reserve<S>(int64_t{c.rows()} * at.width);
  memory.allocate(grad);
  const int64_t shared = kRowsOfBlock * at.width * static_cast<int64_t>(sizeof(S));
  const AnyNumbers given{grad.const_data_ptr(), grad.scalar_type()};
  launch(condition_rows_kernel<T>, blocks_of(c), dim3(kThreads), shared, c, at, given, memory[kept]);

  const int embedding = c.embedding, input = 3 * embedding, hidden = c.hidden, size = c.size;
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
  int64_t blocks = 0;
  for (const RowSum<S>& sum : sums.of) blocks += sum.blocks();
  launch(condition_sums_kernel<T>, dim3(blocks), dim3(kThreads), 0, c, sums, memory[kept], at.width);
}

std::vector<Tensor> condition_backward(const ConditionBackwardArguments& arguments) {
  check(arguments);
  const ConditionWeights& weights = arguments.forward.weights;
  const Guard device(arguments.grad.device());
  const Tensor grad = arguments.grad.contiguous();
  std::vector<Tensor> results;
  for (const Tensor* like :
       {&weights.task_embedding, &weights.layer_embedding, &weights.position_embedding, &weights.first_weight,
        &weights.first_bias, &weights.second_weight, &weights.second_bias, &weights.norm_weight, &weights.norm_bias}) {
    results.push_back(at::empty(like->sizes(), like->options()));
  }
  with_types(weights.task_embedding.scalar_type(), /*same=*/true, [&](auto types) {
    backward<typename decltype(types)::X>(grad, arguments.forward, results);
  });
  return results;
}

}  // namespace

TORCH_LIBRARY_IMPL(hyperloader, CUDA, m) { implement<condition_backward>(m); }

}  // namespace hyperloader::cuda
