// Gradients of the bottleneck adapter on CUDA devices: one kernel for the tokens, one for the sums over them, one that
// adds up the parts of those sums.
#include "adapter_backward.cuh"
#include "sums.cuh"

#include <ATen/ops/native_layer_norm.h>
#include <ATen/ops/native_layer_norm_backward.h>

namespace hyperloader::cuda {
namespace {

// Gradients that pass through the inner norm's weight and bias, from product = Σ ∂preᵀ · x̂ and bias = Σ ∂pre:
//     ∂down = product ∘ norm_weight + bias · norm_biasᵀ,  ∂norm_weight = Σ down ∘ product,  ∂norm_bias = Σ down ∘ bias
template <typename S>
struct InnerNorm {
  const S *product, *bias;  // of each group (bottleneck, hidden), (bottleneck)
  Layout down, weight, shift;
  int64_t hidden, bottleneck;
  AnyResults grad_down, grad_weight, grad_bias;
};

template <typename S>
__global__ void __launch_bounds__(kThreads) inner_norm_kernel(const __grid_constant__ InnerNorm<S> norm) {
  const int64_t column = int64_t(blockIdx.x) * kThreads + threadIdx.x, group = blockIdx.y;
  if (column >= norm.hidden) return;
  const auto at = [&](const Layout& layout, int64_t row) {
    return layout.from.template load<S>(
        group * layout.group_stride + row * layout.row_stride + column * layout.column_stride);
  };
  const S weight = at(norm.weight, 0), shift = at(norm.shift, 0);
  S grad_weight = 0, grad_bias = 0;
  for (int64_t unit = 0; unit < norm.bottleneck; ++unit) {
    const int64_t place = (group * norm.bottleneck + unit) * norm.hidden + column;
    const S product = norm.product[place], bias = norm.bias[group * norm.bottleneck + unit], down = at(norm.down, unit);
    norm.grad_down.store(place, product * weight + bias * shift);
    grad_weight += down * product;
    grad_bias += down * bias;
  }
  norm.grad_weight.store(group * norm.hidden + column, grad_weight);
  norm.grad_bias.store(group * norm.hidden + column, grad_bias);
}

struct Call {
  Tensor grad, x, z, pre, grad_x;
  const AdapterWeights &weights, &grads;
  const AdapterOptions& options;
  const Optional& group;
  double eps;
};

AnyResults to(const Tensor& tensor) { return {tensor.mutable_data_ptr(), tensor.scalar_type()}; }

template <typename X, typename C>
void run(const Call& call) {
  using S = Sum<X>;
  const int64_t hidden = call.options.hidden, bottleneck = call.options.bottleneck, groups = call.options.groups;
  const bool outer = has_outer(call.options.norm), inner = has_inner(call.options.norm);
  const Tokens tokens = tokens_of(call.x, call.group, groups);
  const int64_t count = tokens.sentences * tokens.tokens, tiles = tokens.tiles();
  const TileSums places(hidden, bottleneck);
  const int64_t splits = splits_for(tokens, 2 * padded(hidden) * padded(bottleneck));

  Workspace memory;
  const AdapterLayout<X, C> layout(call.weights, call.options, call.group.has_value(), /*transposed=*/true, memory);
  const auto units = memory.reserve<S>(2 * count * bottleneck);
  const auto grad_v = memory.reserve<X>(outer ? count * hidden : 0);
  const auto sums = memory.reserve<S>(tiles * places.width);
  const auto down_parts = memory.reserve<S>(groups * splits * bottleneck * hidden);
  const auto up_parts = memory.reserve<S>(groups * splits * bottleneck * hidden);
  const auto inner_product = memory.reserve<S>(inner ? groups * bottleneck * hidden : 0);
  const auto inner_bias = memory.reserve<S>(inner ? groups * bottleneck : 0);
  memory.allocate(call.x);
  layout.lay_out(memory);

  Backward<X, C> kernel_call{{}, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, places, false};
  Adapter<X, C>& adapter = kernel_call.adapter;
  layout.fill(memory, adapter);
  adapter.tokens = tokens;
  adapter.eps = static_cast<S>(call.eps);
  kernel_call.down_transposed = layout.down_transposed(memory);
  kernel_call.up_transposed = layout.up_transposed(memory);
  kernel_call.grad = call.grad.const_data_ptr<X>();
  kernel_call.pre = call.pre.const_data_ptr<S>();
  kernel_call.grad_v = memory[grad_v];
  kernel_call.grad_x = call.grad_x.mutable_data_ptr<X>();
  kernel_call.units = memory[units];
  kernel_call.sums = memory[sums];
  kernel_call.residual = !inner;
  adapter.aligned = rows_aligned(kernel_call.grad, hidden) && rows_aligned(kernel_call.grad_x, hidden);
  const auto kernel = outer ? adapter_backward_kernel<X, C, true> : adapter_backward_kernel<X, C, false>;
  launch(kernel, dim3(tiles), dim3(kThreads), Units<C>::bytes(padded(bottleneck)), kernel_call);

  TokenProducts<X> products;
  products.tokens = tokens;
  products.splits = splits;
  const X *z = call.z.const_data_ptr<X>(), *v = outer ? memory[grad_v] : kernel_call.grad;
  products.add({memory[units], 2 * bottleneck, bottleneck, z, hidden, rows_aligned(z, hidden), memory[down_parts]});
  products.add(
      {memory[units] + bottleneck, 2 * bottleneck, bottleneck, v, hidden, rows_aligned(v, hidden), memory[up_parts]});
  sum_products<X, C>(products);

  Reductions reductions;
  reductions.tokens = tokens;
  const auto of_parts = [&](const S* parts, const AnyResults& result, bool transposed) {
    const int64_t size = bottleneck * hidden;
    reductions.add({parts, splits, size, splits * size, false, bottleneck, hidden, result, transposed});
  };
  const auto of_tiles = [&](int64_t place, int64_t width, const AnyResults& result) {
    reductions.add({memory[sums] + place, tiles, places.width, 0, true, 1, width, result, false});
  };
  AdapterWeights weights = call.weights, grads = call.grads;
  constexpr at::ScalarType kSum = c10::CppTypeToScalarType<S>::value;
  of_parts(memory[down_parts], inner ? AnyResults{memory[inner_product], kSum} : to(grads.down_weight), false);
  of_parts(memory[up_parts], to(grads.up_weight), true);
  of_tiles(places.down_bias, bottleneck, to(grads.down_bias));
  of_tiles(places.up_bias, hidden, to(grads.up_bias));
  if (outer) {
    of_tiles(places.norm_weight, hidden, to(grads.norm_weight));
    of_tiles(places.norm_bias, hidden, to(grads.norm_bias));
  }
  if (inner) of_tiles(places.down_bias, bottleneck, AnyResults{memory[inner_bias], kSum});
  reduce<S>(reductions);
  if (!inner) return;

  const bool grouped = call.group.has_value();
  const auto as_layout = [&](const Tensor& tensor) { return Matrix{tensor, grouped}.layout(nullptr, true, 0, 0); };
  const auto [weight, bias] = weights.inner_norm(call.options.norm);
  const auto [grad_weight, grad_bias] = grads.inner_norm(call.options.norm);
  const InnerNorm<S> norm{
      memory[inner_product],
      memory[inner_bias],
      as_layout(weights.down_weight),
      as_layout(weight),
      as_layout(bias),
      hidden,
      bottleneck,
      to(grads.down_weight),
      to(grad_weight),
      to(grad_bias)};
  launch(inner_norm_kernel<S>, dim3((hidden + kThreads - 1) / kThreads, groups), dim3(kThreads), 0, norm);
}

std::vector<Tensor> adapter_backward(const AdapterBackwardArguments& arguments) {
  const Tensor& x = arguments.x;
  const AdapterParameters& parameters = arguments.parameters;
  const AdapterOptions options = check(arguments);
  const AdapterWeights weights = parameters.weights();
  const Guard device(x.device());
  const WithoutAutocast dtypes_as_given;

  const Tensor input = x.contiguous(), grad = arguments.grad.contiguous(), pre = arguments.pre.contiguous();
  const Optional group = contiguous(parameters.group);
  AdapterWeights grads = weights.map([](const Tensor& weight) { return at::empty(weight.sizes(), weight.options()); });
  Tensor grad_x = at::empty(x.sizes(), x.options()), z = input, mean, rstd;
  const bool inner = has_inner(options.norm);
  if (inner) std::tie(z, mean, rstd) = at::native_layer_norm(input, {options.hidden}, {}, {}, parameters.eps);
  const Call call{grad, input, z, pre, grad_x, weights, grads, options, group, parameters.eps};
  with_types(x.scalar_type(), same_dtypes(x, weights), [&](auto types) {
    run<typename decltype(types)::X, typename decltype(types)::C>(call);
  });
  if (inner) {
    grad_x = std::get<0>(
        at::native_layer_norm_backward(grad_x, input, {options.hidden}, mean, rstd, {}, {}, {true, false, false}));
    grad_x.add_(grad);
  }

  std::vector<Tensor> results{grad_x};
  for (Tensor* found : grads.all()) {
    if (found->defined()) results.push_back(*found);
  }
  return results;
}

}  // namespace

TORCH_LIBRARY_IMPL(hyperloader, CUDA, m) { implement<adapter_backward>(m); }

}  // namespace hyperloader::cuda
