// The adapter's weights laid out: padded, in the products' dtype, whatever strides and dtypes the tensors have, and
// with an outer norm the moments of its input. A block has one unit of the bottleneck, or the bias behind them, and of
// that the moments or a share of the hidden units to copy.
#include "adapter.cuh"
#include "resident.cuh"

namespace hyperloader::cuda {
namespace {

template <typename S, typename C>
struct LayOut {
  GivenAdapter given;
  LaidOut<S, C> sizes;
  bool outer, inner, blocked;
  bool up_in_rows, up_aligned;  // its rows are contiguous; and whole 16 bytes
  unsigned chunks;              // of the columns, for their products: none without an outer norm
  C *shrink, *expand;
  S *down_bias, *up_bias, *norm_weight, *norm_bias, *centred, *moments, *means;
};

constexpr int kChunk = 8;  // columns whose products a block has

// Column `unit` of [up, up_bias] less its mean, to `own` by the first block of it, and its products with the columns
// [begin, begin + kChunk). A thread takes whole rows of up, 16 bytes at a time where they lie so.
template <typename S, typename C>
__device__ void centre(const LayOut<S, C>& call, int64_t unit, int64_t group, int64_t begin, S* own) {
  __shared__ S kept[kWarps], products[kWarps][kChunk];
  const int64_t hidden = call.sizes.hidden, bottleneck = call.sizes.bottleneck, columns = call.sizes.columns();
  const Given &up = call.given.up, &up_bias = call.given.up_bias;
  const auto value = [&](int64_t h) {
    return unit < bottleneck ? up.template load<S>(group, h, unit) : up_bias.template load<S>(group, 0, h);
  };
  const auto row = [&](int64_t h) {  // of the chunk's columns
    Numbers<S, kChunk> found;
    if (call.up_in_rows) {
      const int64_t at = group * up.group_stride + h * up.row_stride + begin;
      found = up.from.template load<S, kChunk>(at, bottleneck - begin, call.up_aligned);
    } else {
#pragma unroll
      for (int i = 0; i < kChunk; ++i) {
        found.at[i] = begin + i < bottleneck ? up.template load<S>(group, h, begin + i) : S(0);
      }
    }
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
      if (begin + i == bottleneck) found.at[i] = up_bias.template load<S>(group, 0, h);
    }
    return found;
  };
  S sum = 0;
  for (int64_t h = threadIdx.x; h < hidden; h += kThreads) sum += value(h);
  const S mean = sum_threads(sum, kept) / hidden;
  if (begin == 0) {
    if (threadIdx.x == 0) call.means[group * columns + unit] = mean;
    for (int64_t h = threadIdx.x; h < call.sizes.wide(); h += kThreads) own[h] = h < hidden ? value(h) - mean : S(0);
  }
  const Numbers<S, kChunk> near = row(0);  // nearer to the means than zero may be
  S sums[kChunk] = {};
  for (int64_t h = threadIdx.x; h < hidden; h += kThreads) {
    const S factor = value(h) - mean;
    const Numbers<S, kChunk> others = row(h);
#pragma unroll
    for (int i = 0; i < kChunk; ++i) sums[i] += factor * (others.at[i] - near.at[i]);
  }
#pragma unroll
  for (int i = 0; i < kChunk; ++i) {
    const S found = sum_lanes(sums[i]);
    if (threadIdx.x % 32 == 0) products[warp_of_block()][i] = found;
  }
  __syncthreads();
  const int64_t other = begin + threadIdx.x;
  if (threadIdx.x >= kChunk || other >= columns) return;
  S product = 0;
  for (int warp = 0; warp < kWarps; ++warp) product += products[warp][threadIdx.x];
  call.moments[(group * columns + unit) * columns + other] = product / hidden;
}

template <typename S, typename C, bool kForward>
__global__ void __launch_bounds__(kThreads, 1) lay_out_adapter_kernel(const __grid_constant__ LayOut<S, C> call) {
  __shared__ S kept[kWarps];
  const int64_t unit = blockIdx.x, group = blockIdx.y;
  const int64_t hidden = call.sizes.hidden, bottleneck = call.sizes.bottleneck, columns = call.sizes.columns();
  const int64_t wide = call.sizes.wide(), thin = call.sizes.thin();
  const GivenAdapter& given = call.given;
  S* const own = call.centred + (group * columns + unit) * wide;
  if (blockIdx.z < call.chunks) {
    if (unit < columns) centre(call, unit, group, int64_t(blockIdx.z) * kChunk, own);
    return;
  }
  S shift = 0;
  for (int64_t h = int64_t(blockIdx.z - call.chunks) * kThreads + threadIdx.x; h < wide;
       h += int64_t(gridDim.z - call.chunks) * kThreads) {
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

// Whether all rows of a matrix lie on whole 16 bytes, contiguous in themselves.
bool whole_rows(const Tensor& matrix) {
  bool whole = matrix.stride(-1) == 1 && reinterpret_cast<uintptr_t>(matrix.const_data_ptr()) % 16 == 0;
  for (int64_t d = 0; d + 1 < matrix.dim(); ++d) whole &= matrix.stride(d) * matrix.element_size() % 16 == 0;
  return whole;
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
      GivenAdapter(weights, options_, grouped),
      sizes_,
      outer,
      has_inner(options_.norm),
      direction_ == Direction::kBackwardBlocked,
      weights.up_weight.stride(-1) == 1,
      whole_rows(weights.up_weight),
      static_cast<unsigned>(outer ? (sizes_.columns() + kChunk - 1) / kChunk : 0),
      memory[shrink_],
      memory[expand_]};
  call.down_bias = memory[vectors_];
  call.up_bias = call.down_bias + groups * sizes_.thin();
  call.norm_weight = call.up_bias + groups * sizes_.wide();
  call.norm_bias = call.norm_weight + groups * sizes_.wide();
  call.centred = memory[centred_];
  call.moments = memory[moments_];
  call.means = memory[means_];
  const auto kernel = forward ? lay_out_adapter_kernel<S, C, true> : lay_out_adapter_kernel<S, C, false>;
  // the forward's bias of `down` is a sum over all hidden units
  const int64_t copying = forward ? 1 : (sizes_.wide() + kThreads - 1) / kThreads;
  const dim3 grid(std::max(sizes_.units, sizes_.columns()), groups, call.chunks + copying);
  launch(kernel, grid, dim3(kThreads), 0, call);

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
