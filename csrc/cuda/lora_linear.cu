// Frozen linear layers with LoRA updates on CUDA devices. The frozen products are the library's; one kernel shrinks x
// with all updates' lora_A and adds every update into its product.
#include <ATen/ops/linear.h>

#include "lora_linear.cuh"

namespace hyperloader::cuda {
namespace {

template <typename X, typename C>
void forward(
    const Tensor& x, const Updates& updates, const Optional& group, double scaling, at::TensorList frozen,
    at::TensorList results) {
  LowRank<X, C> call{};
  call.tokens = tokens_of(x, group, updates.groups);
  if (call.tokens.tiles() == 0) return;
  Workspace memory;
  const int64_t thin = updates.thin(), in_features = x.size(-1);
  const auto A = memory.reserve<C>(updates.groups * thin * padded(in_features));
  std::vector<Workspace::Place<C>> B;
  for (const Tensor& factor : updates.B) {
    B.push_back(memory.reserve<C>(updates.groups * thin * padded(factor.size(-2))));
  }
  memory.allocate(x);
  Layouts layouts;
  updates.lay_out_A(layouts, memory[A], /*transposed=*/false);
  call.from[call.from_count++] = operand_side<X, C>(x, in_features, memory[A]);
  for (size_t i = 0; i < updates.size(); ++i) {
    updates.lay_out_B(layouts, i, memory[B[i]], /*transposed=*/false);
    call.to[call.to_count++] = result_side<X, C>(frozen[i], results[i], updates.B[i].size(-2), memory[B[i]]);
  }
  lay_out<C>(layouts, updates.groups);
  call.rank = updates.rank();
  call.scaling = static_cast<Sum<X>>(scaling);
  run_low_rank(call);
}

std::vector<Tensor> lora_linears(const LoraLinearsArguments& arguments) {
  const int64_t groups = check(arguments);
  const Tensor& x = arguments.x;
  const at::TensorList weights = arguments.weights, biases = arguments.biases;
  const Guard device(x.device());
  const WithoutAutocast dtypes_as_given;
  const at::ScalarType dtype = product_dtype(x, weights[0]);
  const Tensor input = x.contiguous(), operand = input.to(dtype);
  std::vector<Tensor> frozen, results;
  for (size_t i = 0; i < weights.size(); ++i) {
    frozen.push_back(at::linear(operand, weights[i], biases.empty() ? Optional() : Optional(biases[i].to(dtype))));
    results.push_back(dtype == x.scalar_type() ? frozen[i] : at::empty(frozen[i].sizes(), x.options()));
  }
  const Optional group = contiguous(arguments.group);
  for (size_t begin = 0; begin < weights.size(); begin += kProjections) {
    const size_t count = std::min<size_t>(kProjections, weights.size() - begin);
    const Updates updates(
        arguments.lora_A.slice(begin, count), arguments.lora_B.slice(begin, count), group.has_value(), groups);
    with_types(x.scalar_type(), updates.same_dtypes(x), [&](auto types) {
      forward<typename decltype(types)::X, typename decltype(types)::C>(
          input, updates, group, arguments.scaling, at::TensorList(frozen).slice(begin, count),
          at::TensorList(results).slice(begin, count));
    });
  }
  return results;
}

}  // namespace

TORCH_LIBRARY_IMPL(hyperloader, CUDA, m) { implement<lora_linears>(m); }

}  // namespace hyperloader::cuda
