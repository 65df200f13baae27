// Bottleneck adapter on CUDA devices. Where a block has no room for the weights, they are laid out first.
#include "adapter_few.cuh"
#include "adapter_resident.cuh"

#include <ATen/ops/native_layer_norm.h>
#include <tuple>

namespace hyperloader::cuda {
namespace {

template <typename S, typename C, int kTall>
int64_t shared_bytes(int64_t bottleneck, bool norm) {
  return static_cast<int64_t>(sizeof(Partial<S, kTall>)) + Units<C, kTall>::bytes(padded(bottleneck)) +
         (norm ? 2 * Few<S>::bytes(bottleneck + 1, kTokens * kTall) : 0);
}

// A block takes 16 kTall tokens; its warps share the hidden units, and read each weight once, from the second cache.
// The outer norm's statistics are made of the few numbers of each token.
template <typename X, typename C, bool kNorm, int kTall>
__global__ void __launch_bounds__(kThreads, kTall == 1 ? kBlocksAtOnce<C> : 1)
    adapter_kernel(const __grid_constant__ Forward<X, C> call) {
  using S = Sum<X>;
  constexpr int kHeight = kTokens * kTall;
  __shared__ S mean[kHeight], rstd[kHeight];
  auto& partial = *dynamic_shared<Partial<S, kTall>>();
  const int64_t first = call.tokens.first(blockIdx.x);
  const int count = call.tokens.count(blockIdx.x);
  const LaidOut<S, C> weights = call.weights.of_group(call.tokens.group_of_tile(blockIdx.x));
  const int hidden = static_cast<int>(weights.hidden), bottleneck = static_cast<int>(weights.bottleneck);
  const int columns = bottleneck + 1, thin = static_cast<int>(weights.thin());
  const Few<S> few(reinterpret_cast<S*>(&partial + 1), columns);
  const Few<S> moments_a(kNorm ? few.of(kHeight) : few.numbers, columns);
  const Units<C, kTall> a{reinterpret_cast<C*>(kNorm ? moments_a.of(kHeight) : few.numbers), thin};

  const Rows<const X> z(call.z + first * hidden, hidden, call.aligned, count);
  S* const pre = call.pre + first * bottleneck;
  shrink(
      thin, partial, [&](Tile<S>(&tile)[kTall], int unit) { add_products(tile, z, weights.shrink, unit); },
      [&](int token, int unit, S sum) {
        sum += weights.down_bias[unit];
        if (token < count && unit < bottleneck) pre[token * bottleneck + unit] = sum;
        const C value = static_cast<C>(activate(call.activation, sum).value);
        a.at(token, unit) = value;
        if constexpr (kNorm) {
          if (unit < columns) few.of(token)[unit] = unit < bottleneck ? static_cast<S>(value) : S(1);
        }
      });

  if constexpr (kNorm) {
    if (bottleneck == thin) {  // the one behind them has no place among the units
      if (threadIdx.x < kHeight) few.of(threadIdx.x)[bottleneck] = 1;
      __syncthreads();
    }
    for (int token = warp_of_block(); token < kHeight; token += 2 * kWarps) {
      const S* const own[2] = {few.of(token), few.of(token + kWarps)};
      S roots[2], sums[2] = {};
      norm_of_two(
          few, moments_a, token, weights.moments, weights.centred, columns, hidden, call.eps, roots, sums,
          [&](int h, int i) { return own[h][i] * weights.means[i]; });
      if (threadIdx.x % 32 == 0) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          mean[token + kWarps * h] = sums[h];
          rstd[token + kWarps * h] = roots[h];
        }
      }
    }
    __syncthreads();
  }
  const Rows<const X> x(call.x + first * hidden, hidden, call.aligned, count);
  const Rows<X> y(call.y + first * hidden, hidden, call.aligned, count);
  expand<kTall>(a.rows(), thin, weights.expand, hidden, [&](int64_t column, Tile<S>(&tile)[kTall]) {
    const int64_t own = column + lane_column();
    const auto up_bias = load<8>(weights.up_bias + own, 8, true);
#pragma unroll
    for (int h = 0; h < 2 * kTall; ++h) {
      S v[8];
#pragma unroll
      for (int i = 0; i < 8; ++i) v[i] = at(tile, h, i) + up_bias.at[i];
      if constexpr (kNorm) {
        const int token = lane_token() + 8 * h;
        const auto weight = load<8>(weights.norm_weight + own, 8, true),
                   bias = load<8>(weights.norm_bias + own, 8, true);
#pragma unroll
        for (int i = 0; i < 8; ++i) v[i] = (v[i] - mean[token]) * rstd[token] * weight.at[i] + bias.at[i];
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
  Workspace memory;
  const AdapterLayout<S, C> layout(options, few ? Direction::kForwardWrittenOut : Direction::kForward, memory);
  const auto parts = memory.reserve<S>(!few ? 0 : shares.count * call.tokens.all() * padded(options.bottleneck));
  const auto v = memory.reserve<S>(few && norm ? call.tokens.all() * wide : 0);
  memory.allocate(x);
  call.weights = layout.lay_out(weights, group.has_value(), memory);
  call.activation = options.activation;
  call.eps = static_cast<S>(eps);
  call.aligned = rows_aligned(call.x, options.hidden) && rows_aligned(call.z, options.hidden) &&
                 rows_aligned(call.y, options.hidden);
  if (few) {
    shares.parts = memory[parts];
    shares.v = memory[v];
    return run_shares(call, shares, norm);
  }
  const auto start = [&]<int kTall>() {
    const int64_t shared = shared_bytes<S, C, kTall>(options.bottleneck, norm);
    if (kTall > 1 && (call.tokens.tiles() < kTallFrom || shared > most_shared_memory())) return false;
    call.tokens = tokens_of(x, group, options.groups, kTokens * kTall);
    const auto kernel = norm ? adapter_kernel<X, C, true, kTall> : adapter_kernel<X, C, false, kTall>;
    launch(kernel, dim3(call.tokens.tiles()), dim3(kThreads), shared, call);
    return true;
  };
  if constexpr (kIsHalf<C>) {
    if (start.template operator()<kTallest>()) return;
  }
  start.template operator()<1>();
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
