// Frozen linear layers with LoRA updates on CUDA devices: bias and update by one kernel of ours for all layers, then
// each frozen product added to them by the library.
#include <ATen/ops/empty.h>

#include "lora_linear.cuh"

namespace hyperloader::cuda {
namespace {

std::vector<Tensor> lora_linears(const LoraLinearsArguments& arguments) {
  const int64_t groups = check(arguments);
  const Tensor& x = arguments.x;
  const at::TensorList weights = arguments.weights;
  const Guard device(x.device());
  const WithoutAutocast dtypes_as_given;
  const at::ScalarType dtype = product_dtype(x, weights[0]);
  const Tensor input = x.contiguous(), operand = as_matrix(input).to(dtype);
  const Optional group = contiguous(arguments.group);
  const Tokens tokens = tokens_of(x, group, groups);

  std::vector<Tensor> results, biases;
  for (const Tensor& weight : weights) {
    results.push_back(at::empty({operand.size(0), weight.size(0)}, x.options().dtype(dtype)));
  }
  for (const Tensor& bias : arguments.biases) biases.push_back(bias.contiguous());
  for (size_t begin = 0; begin < weights.size(); begin += kProjections) {
    const size_t count = std::min<size_t>(kProjections, weights.size() - begin);
    const Updates updates(
        arguments.lora_A.slice(begin, count), arguments.lora_B.slice(begin, count), group.has_value(), groups);
    int64_t bytes = 0;
    for (size_t i = begin; i < begin + count; ++i) bytes += results[i].nbytes();
    const size_t at_once = bytes <= kCached ? count : 1;

    with_types(x.scalar_type(), updates.same_dtypes(x), [&](auto types) {
      using X = typename decltype(types)::X;
      using C = typename decltype(types)::C;
      Workspace memory;
      const auto shrunk = memory.reserve<C>(at_once < count ? operand.size(0) * updates.units() : 0);
      LowRank<X, C> all = updates.call<X, C>(input, arguments.scaling, memory);
      all.tokens = tokens;
      all.x = input.const_data_ptr<X>();
      all.shrunk = at_once < count ? memory[shrunk] : nullptr;
      all.wide = dtype != x.scalar_type();
      for (size_t first = 0; first < count; first += at_once) {
        LowRank<X, C> call = all;
        call.reads_x = first == 0;
        call.aligned = rows_aligned(input);
        for (size_t i = first; i < first + at_once; ++i) {
          const Tensor& result = results[begin + i];
          call.of[i].result = result.mutable_data_ptr();
          if (!biases.empty()) call.of[i].bias = {biases[begin + i].const_data_ptr(), biases[begin + i].scalar_type()};
          call.aligned &= rows_aligned(result);
        }
        run_low_rank(call);
        for (size_t i = begin + first; i < begin + first + at_once; ++i) results[i].addmm_(operand, weights[i].t());
      }
    });
  }
  c10::SmallVector<int64_t, 4> sizes(x.sizes());
  for (Tensor& result : results) {
    sizes.back() = result.size(1);
    result = result.to(x.scalar_type()).view(sizes);
  }
  return results;
}

}  // namespace

TORCH_LIBRARY_IMPL(hyperloader, CUDA, m) { implement<lora_linears>(m); }

}  // namespace hyperloader::cuda
