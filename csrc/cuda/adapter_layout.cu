// The adapter's weights laid out: padded, in the products' dtype, whatever strides and dtypes the tensors have, and
// with an outer norm the moments of its input. A block has one unit of the bottleneck, or the bias behind them.
#include "adapter.cuh"
#include "resident.cuh"

namespace hyperloader::cuda {
namespace {

template <typename S, typename C>
struct LayOut {
  GivenAdapter given;
  LaidOut<S, C> sizes;
  bool outer, inner, blocked;
  C *shrink, *expand;
  S *down_bias, *up_bias, *norm_weight, *norm_bias, *centred, *moments, *means;
};

// Column `unit` of [up, up_bias] less its mean, to `own`, and its products with all columns.
template <typename S, typename C>
__device__ void centre(const LayOut<S, C>& call, int64_t unit, int64_t group, S* own) {
  __shared__ S kept[kWarps], products[kWarps][32];
  const int64_t hidden = call.sizes.hidden, wide = call.sizes.wide(), bottleneck = call.sizes.bottleneck;
  const int64_t columns = call.sizes.columns();
  const auto column = [&](int64_t k, int64_t h) {
    return k < bottleneck ? call.given.up.template load<S>(group, h, k)
                          : call.given.up_bias.template load<S>(group, 0, h);
  };
  S sum = 0;
  for (int64_t h = threadIdx.x; h < hidden; h += kThreads) {
    own[h] = column(unit, h);
    sum += own[h];
  }
  const S mean = sum_threads(sum, kept) / hidden;
  if (threadIdx.x == 0) call.means[group * columns + unit] = mean;
  for (int64_t h = threadIdx.x; h < wide; h += kThreads) own[h] = h < hidden ? own[h] - mean : S(0);
  __syncthreads();
  const int lane = static_cast<int>(threadIdx.x) % 32;
  for (int64_t begin = 0; begin < columns; begin += 32) {
    const int64_t other = begin + lane < columns ? begin + lane : columns - 1;
    const S near = column(other, 0);  // nearer to the mean than zero may be
    S product = 0;
#pragma unroll 8
    for (int64_t h = warp_of_block(); h < hidden; h += kWarps) product += own[h] * (column(other, h) - near);
    products[warp_of_block()][lane] = product;
    __syncthreads();
    if (warp_of_block() == 0 && begin + lane < columns) {
      product = 0;
      for (int warp = 0; warp < kWarps; ++warp) product += products[warp][lane];
      call.moments[(group * columns + unit) * columns + begin + lane] = product / hidden;
    }
    __syncthreads();
  }
}

template <typename S, typename C, bool kForward>
__global__ void __launch_bounds__(kThreads) lay_out_adapter_kernel(const __grid_constant__ LayOut<S, C> call) {
  __shared__ S kept[kWarps];
  const int64_t unit = blockIdx.x, group = blockIdx.y;
  const int64_t hidden = call.sizes.hidden, bottleneck = call.sizes.bottleneck, columns = call.sizes.columns();
  const int64_t wide = call.sizes.wide(), thin = call.sizes.thin();
  const GivenAdapter& given = call.given;
  S* const own = call.centred + (group * columns + unit) * wide;
  if (call.outer && unit < columns) centre(call, unit, group, own);
  S shift = 0;
  for (int64_t h = threadIdx.x; h < wide; h += kThreads) {
    const bool exists = unit < bottleneck && h < hidden;
    if (unit < thin) {
      S down = exists ? given.down.template load<S>(group, unit, h) : S(0);
      if (call.inner && exists) {
        if constexpr (kForward) shift += down * given.inner_bias.template load<S>(group, 0, h);
        down *= given.inner_weight.template load<S>(group, 0, h);
      }
      if constexpr (kForward) {
        call.shrink[(group * thin + unit) * wide + h] = static_cast<C>(down);
        call.expand[(group * wide + h) * thin + unit] =
            static_cast<C>(exists ? given.up.template load<S>(group, h, unit) : S(0));
      } else {
        const int64_t at = call.blocked ? fragment(h, unit, thin) + unit % 8 : h * thin + unit;
        call.expand[group * wide * thin + at] = static_cast<C>(down);
      }
    }
    if constexpr (!kForward) {
      S value = 0;
      if (exists) {
        value = given.up.template load<S>(group, h, unit);
      } else if (h < hidden && unit == bottleneck) {
        value = given.up_bias.template load<S>(group, 0, h);
      } else if (call.outer && h < hidden && unit == columns) {
        value = 1;
      }
      const int64_t at = call.blocked ? fragment(unit, h, wide) + h % 8 : unit * wide + h;
      call.shrink[group * call.sizes.units * wide + at] = static_cast<C>(value);
    }
    if (unit == 0) {
      const auto vector = [&](const Given& from, S* to) {
        to[group * wide + h] = h < hidden ? from.load<S>(group, 0, h) : S(0);
      };
      if (call.outer) vector(given.norm_weight, call.norm_weight);
      if constexpr (kForward) {
        vector(given.up_bias, call.up_bias);
        if (call.outer) vector(given.norm_bias, call.norm_bias);
      }
    }
  }
  if constexpr (kForward) {
    shift = sum_threads(shift, kept);
    if (unit < thin && threadIdx.x == 0) {
      call.down_bias[group * thin + unit] =
          unit < bottleneck ? given.down_bias.template load<S>(group, 0, unit) + shift : S(0);
    }
  }
}

}  // namespace

template <typename S, typename C>
AdapterLayout<S, C>::AdapterLayout(const AdapterOptions& options, Direction direction, Workspace& memory)
    : options_(options), direction_(direction), sizes_{} {
  sizes_.hidden = options.hidden;
  sizes_.bottleneck = options.bottleneck;
  const int64_t wide = sizes_.wide(), thin = sizes_.thin(), columns = sizes_.columns(), groups = options.groups;
  const bool forward = direction == Direction::kForward, outer = has_outer(options.norm);
  sizes_.units = forward ? thin : padded(columns + (outer ? 1 : 0));
  shrink_ = memory.reserve<C>(groups * sizes_.units * wide);
  expand_ = memory.reserve<C>(groups * wide * thin);
  vectors_ = memory.reserve<S>(groups * (thin + 3 * wide));
  centred_ = memory.reserve<S>(outer ? groups * columns * wide : 0);
  moments_ = memory.reserve<S>(outer ? groups * columns * columns : 0);
  means_ = memory.reserve<S>(outer ? groups * columns : 0);
}

template <typename S, typename C>
LaidOut<S, C> AdapterLayout<S, C>::lay_out(const AdapterWeights& weights, bool grouped, const Workspace& memory) const {
  const bool forward = direction_ == Direction::kForward, outer = has_outer(options_.norm);
  const int64_t groups = options_.groups;
  LayOut<S, C> call{
      GivenAdapter(weights, options_, grouped),  sizes_,          outer,          has_inner(options_.norm),
      direction_ == Direction::kBackwardBlocked, memory[shrink_], memory[expand_]};
  call.down_bias = memory[vectors_];
  call.up_bias = call.down_bias + groups * sizes_.thin();
  call.norm_weight = call.up_bias + groups * sizes_.wide();
  call.norm_bias = call.norm_weight + groups * sizes_.wide();
  call.centred = memory[centred_];
  call.moments = memory[moments_];
  call.means = memory[means_];
  const auto kernel = forward ? lay_out_adapter_kernel<S, C, true> : lay_out_adapter_kernel<S, C, false>;
  launch(kernel, dim3(std::max(sizes_.units, sizes_.columns()), groups), dim3(kThreads), 0, call);

  LaidOut<S, C> found = sizes_;
  found.shrink = call.shrink;
  found.expand = call.expand;
  found.down_bias = call.down_bias;
  found.up_bias = call.up_bias;
  found.norm_weight = call.norm_weight;
  found.norm_bias = call.norm_bias;
  found.centred = call.centred;
  found.moments = call.moments;
  found.means = call.means;
  return found;
}

bool same_dtypes(const Tensor& x, const AdapterWeights& weights) {
  return weights.down_weight.scalar_type() == x.scalar_type() && weights.up_weight.scalar_type() == x.scalar_type();
}

template class AdapterLayout<float, BFloat16>;
template class AdapterLayout<float, Half>;
template class AdapterLayout<float, float>;
template class AdapterLayout<double, double>;

}  // namespace hyperloader::cuda
