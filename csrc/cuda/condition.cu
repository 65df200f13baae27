// The conditions of a hypernetwork on CUDA devices: one kernel.
#include "condition.cuh"

namespace hyperloader::cuda {
namespace {

template <typename T>
__global__ void __launch_bounds__(kThreads, 2)
    condition_kernel(const __grid_constant__ Condition<T> c, const __grid_constant__ Places at, AnyResults results) {
  using S = Sum<T>;
  S* const rows = dynamic_shared<S>();
  before_norm(c, at, rows, at.forward_width);
  const int row = static_cast<int>(blockIdx.x) * kRowsOfBlock + warp_of_block();
  if (warp_of_block() >= kRowsOfBlock || row >= c.rows()) return;
  const S* const before = rows + warp_of_block() * at.forward_width + at.before;
  S mean, rstd;
  standardise(c, before, mean, rstd);
  for (int i = threadIdx.x % 32; i < c.size; i += 32) {
    const S value = (before[i] - mean) * rstd * static_cast<S>(c.norm_weight[i]) + static_cast<S>(c.norm_bias[i]);
    results.store<S>(int64_t{row} * c.size + i, c.scales[2] * value);
  }
}

template <typename T>
void forward(const ConditionArguments& arguments, const Tensor& results) {
  const ConditionNumbers<T> numbers(arguments);
  const Condition<T>& c = numbers.condition;
  const Places at(c);
  const int64_t shared = kRowsOfBlock * at.forward_width * static_cast<int64_t>(sizeof(Sum<T>));
  launch(
      condition_kernel<T>, blocks_of(c), dim3(kThreads), shared, c, at,
      AnyResults{results.mutable_data_ptr(), results.scalar_type()});
}

Tensor condition(const ConditionArguments& arguments) {
  check(arguments);
  const ConditionWeights& weights = arguments.weights;
  const Tensor& task = weights.task_embedding;
  const Guard device(task.device());
  const Tensor results = at::empty(
      {weights.positions.size(0), weights.layers.size(0), task.size(0), weights.norm_weight.size(0)}, task.options());
  with_types(
      task.scalar_type(), /*same=*/true, [&](auto types) { forward<typename decltype(types)::X>(arguments, results); });
  return results;
}

}  // namespace

TORCH_LIBRARY_IMPL(hyperloader, CUDA, m) { implement<condition>(m); }

}  // namespace hyperloader::cuda
