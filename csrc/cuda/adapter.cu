// Bottleneck adapter on CUDA devices. Where a block has no room for the weights, they are laid out first.
#include "adapter_few.cuh"
#include "adapter_resident.cuh"
#include "adapter_streamed.cuh"

#include <ATen/ops/native_layer_norm.h>
#include <tuple>

namespace hyperloader::cuda {
namespace {

template <typename S, typename C>
int64_t shared_bytes(int64_t bottleneck, bool norm) {
  return static_cast<int64_t>(sizeof(Partial<S>)) + Units<C>::bytes(padded(bottleneck)) +
         (norm ? 2 * Few<S>::bytes(bottleneck + 1, kTokens) : 0);
}

// A block takes a tile; its warps share the hidden units, and read each weight once, from the second cache.
template <typename X, typename C, bool kNorm>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce<C>)
    adapter_kernel(const __grid_constant__ Forward<X, C> call) {
  using S = Sum<X>;
  __shared__ OuterNorms<S, kTokens> norms;
  auto& partial = *dynamic_shared<Partial<S>>();
  const int64_t first = call.tokens.first(blockIdx.x);
  const int count = call.tokens.count(blockIdx.x);
  const LaidOut<S, C> weights = call.weights.of_group(call.tokens.group_of_tile(blockIdx.x));
  const int hidden = static_cast<int>(weights.hidden), thin = static_cast<int>(weights.thin());
  const Few<S> few(reinterpret_cast<S*>(&partial + 1), weights.columns());
  const Few<S> moments_a(kNorm ? few.of(kTokens) : few.numbers, weights.columns());
  const Units<C> a{reinterpret_cast<C*>(kNorm ? moments_a.of(kTokens) : few.numbers), thin};

  const Rows<const X> z(call.z + first * hidden, hidden, call.aligned, count);
  S* const pre = call.pre + first * weights.bottleneck;
  shrink(
      thin, partial, [&](Tile<S>& tile, int unit) { add_products(tile, z, weights.shrink, unit); },
      [&](int token, int unit, S sum) {
        finish_unit<kNorm>(
            call, weights, pre, count, token, unit, sum, [&](int token, int unit) -> C& { return a.at(token, unit); },
            few);
      });
  if constexpr (kNorm) norms.find(few, moments_a, weights.moments, weights, call.eps);
  const Rows<const X> x(call.x + first * hidden, hidden, call.aligned, count);
  const Rows<X> y(call.y + first * hidden, hidden, call.aligned, count);
  expand(a.rows(), thin, weights.expand, hidden, [&](int64_t column, Tile<S>& tile) {
    const int own = static_cast<int>(column) + lane_column();
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      S v[8];
#pragma unroll
      for (int i = 0; i < 8; ++i) v[i] = tile.at(h, i);
      y.store(
          h, own,
          finish_columns<kNorm, X, C>(weights, norms, lane_token() + 8 * h, own, v, x.template load<8>(h, own)));
    }
  });
}

template <typename X, typename C>
void run(
    const Tensor& x, const Tensor& z, const AdapterWeights& weights, const Optional& group,
    const AdapterOptions& options, double eps, const Tensor& y, const Tensor& pre) {
  using S = Sum<X>;
  if constexpr (kIsHalf<C>) {
    const auto room = resident_room<X>(x, y, options);
    if (room) return run_resident<X>(*room, x, weights, group, options, eps, y, pre);
  }
  Forward<X, C> call{};
  call.x = x.const_data_ptr<X>();
  call.z = z.const_data_ptr<X>();
  call.y = y.mutable_data_ptr<X>();
  call.pre = pre.mutable_data_ptr<S>();
  call.tokens = tokens_of(x, group, options.groups);
  if (call.tokens.tiles() == 0) return;

  const bool norm = has_outer(options.norm);
  const int64_t wide = padded(options.hidden);
  Shares<S> shares{Shares<S>::count_for(call.tokens.tiles(), wide)};
  const bool few = options.hidden > kept_columns(kMostKept) && shares.count >= Shares<S>::kLeast;
  call.activation = options.activation;
  call.eps = static_cast<S>(eps);
  call.aligned = rows_aligned(call.x, options.hidden) && rows_aligned(call.z, options.hidden) &&
                 rows_aligned(call.y, options.hidden);
  const int tall = few || !kIsHalf<C> || !call.aligned
                       ? 0
                       : streamed_tiles<C>(call.tokens, options.hidden, options.bottleneck, norm);
  Workspace memory;
  const AdapterLayout<S, C> layout(
      options, few ? Direction::kForwardWrittenOut : Direction::kForward, /*blocked=*/tall > 0, memory);
  const auto parts = memory.reserve<S>(!few ? 0 : shares.count * call.tokens.all() * padded(options.bottleneck));
  const auto v = memory.reserve<S>(few && norm ? call.tokens.all() * wide : 0);
  memory.allocate(x);
  call.weights = layout.lay_out(weights, group.has_value(), memory);
  if (few) {
    shares.parts = memory[parts];
    shares.v = memory[v];
    return run_shares(call, shares, norm);
  }
  if constexpr (kIsHalf<C>) {
    if (tall > 0) return run_streamed(call, tall, norm);
  }
  const auto kernel = norm ? adapter_kernel<X, C, true> : adapter_kernel<X, C, false>;
  launch(kernel, dim3(call.tokens.tiles()), dim3(kThreads), shared_bytes<S, C>(options.bottleneck, norm), call);
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
