// Bottleneck adapter on CUDA devices: one kernel for the tokens, after one that lays the weights out.
#include "adapter.cuh"

#include <ATen/ops/native_layer_norm.h>
#include <tuple>

namespace hyperloader::cuda {
namespace {

template <typename X, typename C>
struct Forward {
  Adapter<X, C> adapter;
  const X *x, *z;  // z: x after the inner norm, x itself without one
  X* y;
  Sum<X>* pre;
};

template <typename X, typename C, bool kNorm>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce<C>)
    adapter_kernel(const __grid_constant__ Forward<X, C> call) {
  using S = Sum<X>;
  __shared__ Partial<S> partial;
  __shared__ Moments<S> kept[kWarps][kTokens];
  const Tokens& tokens = call.adapter.tokens;
  const int64_t first = tokens.first(blockIdx.x);
  const int count = tokens.count(blockIdx.x);
  const Adapter<X, C> adapter = call.adapter.of_group(tokens.group_of_tile(blockIdx.x));
  const int64_t hidden = adapter.hidden, bottleneck = adapter.bottleneck, thin = padded(bottleneck);
  const Units<C> a{dynamic_shared<C>(), thin};

  const Rows<const X> z(call.z + first * hidden, hidden, adapter.aligned, count);
  S* const pre = call.pre + first * bottleneck;
  shrink<S>(
      thin, partial, [&](Tile<S>& tile, int64_t unit) { add_products(tile, z, adapter.down, unit); },
      [&](int token, int64_t unit, S sum) {
        sum += adapter.down_bias[unit];
        if (token < count && unit < bottleneck) pre[token * bottleneck + unit] = sum;
        a.at(token, unit) = static_cast<C>(activate(adapter.activation, sum).value);
      });

  Standard<S> standard[2];
  if constexpr (kNorm) standardise(adapter, a.rows(), kept, standard);
  const Rows<const X> x(call.x + first * hidden, hidden, adapter.aligned, count);
  const Rows<X> y(call.y + first * hidden, hidden, adapter.aligned, count);
  expand(a.rows(), thin, adapter.up, hidden, [&](int64_t column, Tile<S>& tile) {
    const int64_t own = column + lane_column();
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      S v[8];
      values(tile, h, adapter.up_bias, column, v);
      if constexpr (kNorm) {
        const auto weight = load<8>(adapter.norm_weight + own, 8, true),
                   bias = load<8>(adapter.norm_bias + own, 8, true);
#pragma unroll
        for (int i = 0; i < 8; ++i) v[i] = (v[i] - standard[h].mean) * standard[h].rstd * weight.at[i] + bias.at[i];
      }
      const auto residual = x.template load<8>(h, own);
      Numbers<X, 8> result;
#pragma unroll
      for (int i = 0; i < 8; ++i) result.at[i] = static_cast<X>(static_cast<S>(residual.at[i]) + v[i]);
      y.store(h, own, result);
    }
  });
}

template <typename X, typename C>
void run(
    const Tensor& x, const Tensor& z, const AdapterWeights& weights, const Optional& group,
    const AdapterOptions& options, double eps, const Tensor& y, const Tensor& pre) {
  using S = Sum<X>;
  Forward<X, C> call{};
  call.x = x.const_data_ptr<X>();
  call.z = z.const_data_ptr<X>();
  call.y = y.mutable_data_ptr<X>();
  call.pre = pre.mutable_data_ptr<S>();
  Adapter<X, C>& adapter = call.adapter;
  adapter.tokens = tokens_of(x, group, options.groups);
  if (adapter.tokens.tiles() == 0) return;

  Workspace memory;
  const AdapterLayout<X, C> layout(weights, options, group.has_value(), /*transposed=*/false, memory);
  memory.allocate(x);
  layout.lay_out(memory);
  layout.fill(memory, adapter);
  adapter.eps = static_cast<S>(eps);
  adapter.aligned = rows_aligned(call.x, options.hidden) && rows_aligned(call.z, options.hidden) &&
                    rows_aligned(call.y, options.hidden);
  const auto kernel = has_outer(options.norm) ? adapter_kernel<X, C, true> : adapter_kernel<X, C, false>;
  launch(kernel, dim3(adapter.tokens.tiles()), dim3(kThreads), Units<C>::bytes(padded(options.bottleneck)), call);
}

std::tuple<Tensor, Tensor> adapter(const AdapterArguments& arguments) {
  const Tensor& x = arguments.x;
  const AdapterParameters& parameters = arguments.parameters;
  const AdapterOptions options = check(arguments);
  const AdapterWeights weights = parameters.weights();
  const Guard device(x.device());
  const WithoutAutocast dtypes_as_given;

  const Tensor input = x.contiguous();
  const Optional group = contiguous(parameters.group);
  c10::SmallVector<int64_t, 4> sizes(x.sizes());
  const Tensor y = at::empty(sizes, x.options());
  sizes.back() = options.bottleneck;
  const Tensor pre = at::empty(sizes, x.options().dtype(accumulate_dtype(x.scalar_type())));
  Tensor z = input;
  if (has_inner(options.norm)) z = std::get<0>(at::native_layer_norm(input, {options.hidden}, {}, {}, parameters.eps));
  with_types(x.scalar_type(), same_dtypes(x, weights), [&](auto types) {
    run<typename decltype(types)::X, typename decltype(types)::C>(
        input, z, weights, group, options, parameters.eps, y, pre);
  });
  return {y, pre};
}

}  // namespace

TORCH_LIBRARY_IMPL(hyperloader, CUDA, m) { implement<adapter>(m); }

}  // namespace hyperloader::cuda
