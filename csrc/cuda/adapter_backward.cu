// Gradients of the bottleneck adapter on CUDA devices: one kernel for the tokens, one for the sums over them, one that
// adds up the parts of those sums.
#include "adapter.cuh"
#include "sums.cuh"

#include <ATen/ops/native_layer_norm.h>
#include <ATen/ops/native_layer_norm_backward.h>
#include <torch/library.h>

namespace hyperloader::cuda {
namespace {

using Optional = std::optional<Tensor>;

// Sums over the tokens of each tile, one row of numbers a tile.
struct TileSums {
  int64_t norm_weight, norm_bias, up_bias, down_bias, width;  // where they begin; of a row

  TileSums(int64_t hidden, int64_t bottleneck)
      : norm_weight(0),
        norm_bias(padded(hidden)),
        up_bias(2 * padded(hidden)),
        down_bias(3 * padded(hidden)),
        width(3 * padded(hidden) + padded(bottleneck)) {}
};

template <typename X, typename C>
struct Backward {
  Adapter<X, C> adapter;
  const C *down_transposed, *up_transposed;  // (padded hidden, padded bottleneck), (padded bottleneck, padded hidden)
  const X* grad;
  const Sum<X>* pre;
  X* grad_v;      // of the up projection's result; not written without an outer norm
  X* grad_x;      // with the inner norm the gradient of its standardised result, without the residual
  Sum<X>* units;  // (tokens, 2 bottleneck): the gradient of pre, and act(pre)
  Sum<X>* sums;   // (tiles, places.width)
  TileSums places;
  bool residual;
};

// to[0 .. 8) = Σ over the tile's tokens of a lane's eight numbers.
template <typename S>
__device__ __forceinline__ void sum_tokens(Numbers<S, 8> numbers, S* to) {
#pragma unroll
  for (int i = 0; i < 8; ++i) {
#pragma unroll
    for (int mask = 4; mask < 32; mask *= 2) numbers.at[i] += __shfl_xor_sync(kAllLanes, numbers.at[i], mask);
  }
  if (lane_token() == 0) store<8>(to + lane_column(), numbers, 8, true);
}

// Sum of both numbers over all lanes and warps that share a token.
template <typename S>
__device__ __forceinline__ void sum_block(S (&numbers)[2][2], S (&kept)[2][kWarps][kTokens]) {
#pragma unroll
  for (int which = 0; which < 2; ++which) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      S& own = numbers[which][h];
      own += __shfl_xor_sync(kAllLanes, own, 1);
      own += __shfl_xor_sync(kAllLanes, own, 2);
      if (lane_column() == 0) kept[which][warp_of_block()][lane_token() + 8 * h] = own;
    }
  }
  __syncthreads();
#pragma unroll
  for (int which = 0; which < 2; ++which) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      S sum = 0;
#pragma unroll
      for (int warp = 0; warp < kWarps; ++warp) sum += kept[which][warp][lane_token() + 8 * h];
      numbers[which][h] = sum;
    }
  }
  __syncthreads();
}

// The gradient of v = up · a + up_bias, to grad_v, and the tile's sums for the norm and up_bias.
template <typename X, typename C>
__device__ __forceinline__ void through_norm(
    const Adapter<X, C>& adapter, const Rows<const C>& a, const Rows<const X>& grad, const Rows<X>& grad_v,
    Sum<X>* sums, const TileSums& places) {
  using S = Sum<X>;
  __shared__ Moments<S> kept[kWarps][kTokens];
  __shared__ S kept_sums[2][kWarps][kTokens];
  const int64_t thin = padded(adapter.bottleneck), hidden = adapter.hidden;
  Standard<S> standard[2];
  standardise(adapter, a, kept, standard);

  S along[2][2] = {};  // Σ γ g and Σ γ g x̂ of the two tokens
  expand(a, thin, adapter.up, hidden, [&](int64_t column, Tile<S>& tile) {
    const int64_t own = column + lane_column();
    const auto weight = load<8>(adapter.norm_weight + own, 8, true);
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      S v[8];
      values(tile, h, adapter.up_bias, column, v);
      const auto g = grad.template load<8>(h, own);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const S weighted = weight.at[i] * static_cast<S>(g.at[i]);
        along[0][h] += weighted;
        along[1][h] += weighted * (v[i] - standard[h].mean) * standard[h].rstd;
      }
    }
  });
  sum_block(along, kept_sums);

  expand(a, thin, adapter.up, hidden, [&](int64_t column, Tile<S>& tile) {
    const int64_t own = column + lane_column();
    const auto weight = load<8>(adapter.norm_weight + own, 8, true);
    Numbers<S, 8> of_weight{}, of_bias{}, of_v{};
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      S v[8];
      values(tile, h, adapter.up_bias, column, v);
      const auto g = grad.template load<8>(h, own);
      Numbers<X, 8> result;
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const S given = static_cast<S>(g.at[i]), x = (v[i] - standard[h].mean) * standard[h].rstd;
        const S found = standard[h].rstd * (weight.at[i] * given - (along[0][h] + x * along[1][h]) / S(hidden));
        of_weight.at[i] += given * x;
        of_bias.at[i] += given;
        of_v.at[i] += found;
        result.at[i] = static_cast<X>(found);
      }
      grad_v.store(h, own, result);
    }
    sum_tokens(of_weight, sums + places.norm_weight + column);
    sum_tokens(of_bias, sums + places.norm_bias + column);
    sum_tokens(of_v, sums + places.up_bias + column);
  });
  __syncthreads();  // grad_v is read by other threads of the block
}

template <typename X, typename C, bool kNorm>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce<C>) adapter_backward_kernel(const __grid_constant__ Backward<X, C> call) {
  using S = Sum<X>;
  __shared__ Partial<S> partial;
  const Tokens& tokens = call.adapter.tokens;
  const int64_t tile_of_batch = blockIdx.x, first = tokens.first(tile_of_batch);
  const int64_t group = tokens.group_of_tile(tile_of_batch);
  const int count = tokens.count(tile_of_batch);
  const Adapter<X, C> adapter = call.adapter.of_group(group);
  const int64_t hidden = adapter.hidden, bottleneck = adapter.bottleneck;
  const int64_t wide = padded(hidden), thin = padded(bottleneck);
  const Units<C> a{dynamic_shared<C>(), thin};  // then the gradient of pre
  S* const units = call.units + first * 2 * bottleneck;
  S* const sums = call.sums + tile_of_batch * call.places.width;

  const S* const pre = call.pre + first * bottleneck;
  for (int64_t i = threadIdx.x; i < kTokens * thin; i += kThreads) {
    const int64_t token = i / thin, unit = i % thin;
    const bool exists = token < count && unit < bottleneck;
    const S value = exists ? activate(adapter.activation, pre[token * bottleneck + unit]).value : S(0);
    if (exists) units[(2 * token + 1) * bottleneck + unit] = value;
    a.at(static_cast<int>(token), unit) = static_cast<C>(value);
  }
  __syncthreads();

  const Rows<const X> grad(call.grad + first * hidden, hidden, adapter.aligned, count);
  const Rows<X> grad_v(call.grad_v + first * hidden, hidden, adapter.aligned, count);
  if constexpr (kNorm) {
    through_norm(adapter, a.rows(), grad, grad_v, sums, call.places);
  } else {
    for (int64_t column = warp_of_block() * kStep; column < hidden; column += kWarps * kStep) {
      Numbers<S, 8> of_v{};
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const auto g = grad.template load<8>(h, column + lane_column());
#pragma unroll
        for (int i = 0; i < 8; ++i) of_v.at[i] += static_cast<S>(g.at[i]);
      }
      sum_tokens(of_v, sums + call.places.up_bias + column);
    }
  }

  const C* const up = call.up_transposed + group * thin * wide;
  const Rows<const X> given((kNorm ? call.grad_v : call.grad) + first * hidden, hidden, adapter.aligned, count);
  shrink<S>(
      thin, partial, [&](Tile<S>& tile, int64_t unit) { add_products(tile, given, up, unit); },
      [&](int token, int64_t unit, S sum) {
        S found = 0;
        if (token < count && unit < bottleneck) {
          found = sum * activate(adapter.activation, pre[token * bottleneck + unit]).slope;
          units[2 * token * bottleneck + unit] = found;
        }
        a.at(token, unit) = static_cast<C>(found);
      });
  for (int64_t unit = threadIdx.x; unit < bottleneck; unit += kThreads) {
    S sum = 0;
#pragma unroll
    for (int token = 0; token < kTokens; ++token) sum += static_cast<S>(a.at(token, unit));
    sums[call.places.down_bias + unit] = sum;
  }

  const C* const down = call.down_transposed + group * thin * wide;
  const Rows<X> grad_x(call.grad_x + first * hidden, hidden, adapter.aligned, count);
  expand(a.rows(), thin, down, hidden, [&](int64_t column, Tile<S>& tile) {
    const int64_t own = column + lane_column();
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      Numbers<X, 8> result;
      if (call.residual) result = grad.template load<8>(h, own);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const S through = call.residual ? static_cast<S>(result.at[i]) : S(0);
        result.at[i] = static_cast<X>(through + tile.at(h, i));
      }
      grad_x.store(h, own, result);
    }
  });
}

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
  const AdapterLayout<X, C> layout(
      call.weights, call.options, call.group.has_value(), /*transposed=*/true, memory);
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
  products.add(
      {memory[units], 2 * bottleneck, bottleneck, z, hidden, rows_aligned(z, hidden), memory[down_parts]});
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
      memory[inner_product], memory[inner_bias], as_layout(weights.down_weight), as_layout(weight), as_layout(bias),
      hidden,                bottleneck,         to(grads.down_weight),          to(grad_weight),   to(grad_bias)};
  launch(inner_norm_kernel<S>, dim3((hidden + kThreads - 1) / kThreads, groups), dim3(kThreads), 0, norm);
}

std::vector<Tensor> adapter_backward(
    const Tensor& grad, const Tensor& x, const Tensor& pre, const Tensor& down_weight, const Tensor& down_bias,
    const Tensor& up_weight, const Tensor& up_bias, const Optional& norm_weight, const Optional& norm_bias,
    const Optional& pre_norm_weight, const Optional& pre_norm_bias, const Optional& group, std::string_view norm,
    std::string_view activation, double eps) {
  AdapterWeights weights{
      down_weight,
      down_bias,
      up_weight,
      up_bias,
      or_undefined(norm_weight),
      or_undefined(norm_bias),
      or_undefined(pre_norm_weight),
      or_undefined(pre_norm_bias)};
  const AdapterOptions options = check_adapter(x, weights, group, norm, activation, eps);
  check_adapter_backward(grad, x, pre, options);
  const Guard device(x.device());
  const WithoutAutocast dtypes_as_given;

  const Tensor input = x.contiguous(), grad_y = grad.contiguous(), saved = pre.contiguous();
  const Optional groups = group ? Optional(group->contiguous()) : std::nullopt;
  AdapterWeights grads = weights.map([](const Tensor& weight) { return at::empty(weight.sizes(), weight.options()); });
  Tensor grad_x = at::empty(x.sizes(), x.options()), z = input, mean, rstd;
  const bool inner = has_inner(options.norm);
  if (inner) std::tie(z, mean, rstd) = at::native_layer_norm(input, {options.hidden}, {}, {}, eps);
  const Call call{grad_y, input, z, saved, grad_x, weights, grads, options, groups, eps};
  with_types(x.scalar_type(), same_dtypes(x, weights), [&](auto types) {
    run<typename decltype(types)::X, typename decltype(types)::C>(call);
  });
  if (inner) {
    grad_x = std::get<0>(at::native_layer_norm_backward(
        grad_x, input, {options.hidden}, mean, rstd, {}, {}, {true, false, false}));
    grad_x.add_(grad_y);
  }

  std::vector<Tensor> results{grad_x};
  for (Tensor* found : grads.all()) {
    if (found->defined()) results.push_back(*found);
  }
  return results;
}

}  // namespace

TORCH_LIBRARY_IMPL(hyperloader, CUDA, m) { m.impl("adapter_backward", &adapter_backward); }

}  // namespace hyperloader::cuda
