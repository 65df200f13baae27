// The conditions of a hypernetwork on CUDA devices: one kernel.
#include <torch/library.h>

#include "condition.cuh"

namespace hyperloader::cuda {
namespace {

template <typename S>
__global__ void __launch_bounds__(kThreads, 2)
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

template <typename S>
void forward(const ConditionWeights& weights, at::ArrayRef<double> scales, double eps, const Tensor& results) {
  const Arguments<S> arguments(weights, scales, eps);
  const Condition<S>& c = arguments.condition;
  const Places at(c);
  const int64_t shared = kRowsOfBlock * at.forward_width * static_cast<int64_t>(sizeof(S));
  launch(
      condition_kernel<S>, blocks_of(c), dim3(kThreads), shared, c, at,
      AnyResults{results.mutable_data_ptr(), results.scalar_type()});
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

}  // namespace

TORCH_LIBRARY_IMPL(hyperloader, CUDA, m) { m.impl("condition", &condition); }

}  // namespace hyperloader::cuda
