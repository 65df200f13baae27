// The adapter's weights laid out: padded, in the products' dtype, whatever strides and dtypes the tensors have, and
// with an outer norm the moments of its input.
#include "adapter_layout.cuh"

namespace hyperloader::cuda {
namespace {

// Neighbouring columns of [up, up_bias] that a block multiplies with as many others: their products are a thread's own.
template <typename S>
constexpr int kChunk = sizeof(S) == 8 ? 4 : 8;

// Sums over the lanes of a warp of kCount numbers, up to 32, that each of them holds. The lanes share the numbers out
// instead of each adding up all: lane l is left with that of place l · kCount / 32.
template <int kCount, int kMask = 16, typename S, int kSize>
__device__ __forceinline__ void share_sums(S (&values)[kSize]) {
  constexpr int kHalf = kCount / 2;
  if constexpr (kHalf == 0) {
    values[0] += __shfl_xor_sync(kAllLanes, values[0], kMask);
  } else {
    const bool upper = (threadIdx.x & kMask) != 0;
#pragma unroll
    for (int i = 0; i < kHalf; ++i) {
      const S mine = upper ? values[i + kHalf] : values[i], given = upper ? values[i] : values[i + kHalf];
      values[i] = mine + __shfl_xor_sync(kAllLanes, given, kMask);
    }
  }
  if constexpr (kMask > 1) share_sums<kHalf == 0 ? 1 : kHalf, kMask / 2>(values);
}

// The sums over a warp's lanes of up to 32 numbers, to `to`.
template <int kCount, typename S>
__device__ __forceinline__ void sum_warp(S (&values)[kCount], S* to) {
  constexpr int kSharing = 32 / kCount;  // lanes with the same one
  const int lane = lane_of_warp();
  share_sums<kCount>(values);
  if (lane % kSharing == 0) to[lane / kSharing] = values[0];
}

// The moments of a chunk of columns with another, and of one with itself its means and centred columns too. Threads
// take rows of up, as many bytes at a time as there are where they lie so; half of the warps multiply with the first
// half of the second chunk, the others with its second half.
template <typename S, typename C>
__device__ void centre(const LayOut<S, C>& call, int64_t group, int first, int second) {
  constexpr int kOwn = kChunk<S>, kHalf = kOwn / 2, kRows = kThreads / 2;
  __shared__ S parts[kWarps][kOwn * kHalf], sums[kWarps][2 * kOwn], means[2 * kOwn];
  const int64_t hidden = call.sizes.hidden, wide = call.sizes.wide(), columns = call.sizes.columns();
  const int64_t bottleneck = call.sizes.bottleneck;
  const Given &up = call.given.up, &up_bias = call.given.up_bias;
  const auto row = [&]<int kCount>(Numbers<S, kCount>& found, int64_t h, int64_t begin) {
    if (call.up_in_rows) {
      const int64_t at = group * up.group_stride + h * up.row_stride + begin;
      const auto own = load<kCount>(static_cast<const C*>(up.from.data) + at, bottleneck - begin, call.up_aligned);
#pragma unroll
      for (int i = 0; i < kCount; ++i) found.at[i] = static_cast<S>(own.at[i]);
    } else {
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        found.at[i] = begin + i < bottleneck ? up.template load<S>(group, h, begin + i) : S(0);
      }
    }
    if (begin <= bottleneck && bottleneck < begin + kCount) {
      const S bias = up_bias.template load<S>(group, 0, h);
#pragma unroll
      for (int i = 0; i < kCount; ++i) found.at[i] = begin + i == bottleneck ? bias : found.at[i];
    }
  };
  const int64_t own_begin = int64_t{kOwn} * first, other_begin = int64_t{kOwn} * second;
  {
    S total[2 * kOwn] = {};
#pragma unroll 1
    for (int64_t h = threadIdx.x; h < hidden; h += kThreads) {
      Numbers<S, kOwn> own, other;
      row(own, h, own_begin);
      row(other, h, other_begin);
#pragma unroll
      for (int i = 0; i < kOwn; ++i) {
        total[i] += own.at[i];
        total[kOwn + i] += other.at[i];
      }
    }
    sum_warp(total, sums[warp_of_block()]);
  }
  __syncthreads();
  if (threadIdx.x < 2 * kOwn) {
    S sum = 0;
    for (int warp = 0; warp < kWarps; ++warp) sum += sums[warp][threadIdx.x];
    means[threadIdx.x] = sum / hidden;
  }
  __syncthreads();
  const int half = warp_of_block() / (kWarps / 2);
  S own_means[kOwn], other_means[kHalf];
#pragma unroll
  for (int i = 0; i < kOwn; ++i) own_means[i] = means[i];
#pragma unroll
  for (int i = 0; i < kHalf; ++i) other_means[i] = means[kOwn + half * kHalf + i];
  S products[kOwn * kHalf] = {};
#pragma unroll 1
  for (int64_t h = threadIdx.x % kRows; h < wide; h += kRows) {
    Numbers<S, kOwn> own{};
    if (h < hidden) {
      Numbers<S, kHalf> other;
      row(own, h, own_begin);
      row(other, h, other_begin + half * kHalf);
#pragma unroll
      for (int i = 0; i < kOwn; ++i) {
        own.at[i] -= own_means[i];
#pragma unroll
        for (int j = 0; j < kHalf; ++j) products[i * kHalf + j] += own.at[i] * (other.at[j] - other_means[j]);
      }
    }
    if (first == second && half == 0) {
#pragma unroll
      for (int i = 0; i < kOwn; ++i) {
        if (own_begin + i < columns) call.centred[(group * columns + own_begin + i) * wide + h] = own.at[i];
      }
    }
  }
  sum_warp(products, parts[warp_of_block()]);
  __syncthreads();
  const int i = static_cast<int>(threadIdx.x) / kOwn, j = static_cast<int>(threadIdx.x) % kOwn;
  if (i < kOwn && own_begin + i < columns && other_begin + j < columns) {
    S sum = 0;
    for (int warp = 0; warp < kWarps / 2; ++warp) sum += parts[j / kHalf * (kWarps / 2) + warp][i * kHalf + j % kHalf];
    S* const moments = call.moments + group * columns * columns;
    moments[(own_begin + i) * columns + other_begin + j] = sum / hidden;
    if (first != second) moments[(other_begin + j) * columns + own_begin + i] = sum / hidden;
  }
  if (first == second && threadIdx.x < kOwn && own_begin + threadIdx.x < columns) {
    call.means[group * columns + own_begin + threadIdx.x] = means[threadIdx.x];
  }
}

// Blocks for every pair of chunks of columns, in the order (0, 0), (0, 1) .. (1, 1), (1, 2) ..; then for every unit
// of the bottleneck, and the ones behind them that are padding, blocks that share the hidden units to copy.
template <typename S, typename C, bool kForward, bool kMoments>
__global__ void __launch_bounds__(kThreads, kMoments ? 2 : 4)
    lay_out_adapter_kernel(const __grid_constant__ LayOut<S, C> call) {
  __shared__ S kept[kWarps];
  const int64_t group = blockIdx.y;
  int pair = static_cast<int>(blockIdx.x);
  if constexpr (kMoments) {
    for (int first = 0; first < call.chunks; ++first) {
      if (pair < call.chunks - first) return centre(call, group, first, first + pair);
      pair -= call.chunks - first;
    }
  }
  const int64_t unit = pair / call.copying, share = pair % call.copying;
  const int64_t hidden = call.sizes.hidden, bottleneck = call.sizes.bottleneck, columns = call.sizes.columns();
  const int64_t wide = call.sizes.wide(), thin = call.sizes.thin();
  const GivenAdapter& given = call.given;
  S shift = 0;
  for (int64_t h = share * kThreads + threadIdx.x; h < wide; h += int64_t{call.copying} * kThreads) {
    const bool exists = unit < bottleneck && h < hidden;
    if (unit < thin && (!call.blocked || (kForward && call.inner))) {
      S down = exists ? given.down.template load<S>(group, unit, h) : S(0);
      if (call.inner && exists) {
        if constexpr (kForward) shift += down * given.inner_bias.template load<S>(group, 0, h);
        down *= given.inner_weight.template load<S>(group, 0, h);
      }
      if (call.blocked) {
        // `down` was read for its sum alone
      } else if constexpr (kForward) {
        call.shrink[(group * thin + unit) * wide + h] = static_cast<C>(down);
      } else {
        call.expand[(group * wide + h) * thin + unit] = static_cast<C>(down);
      }
    }
    if (!kForward && !call.blocked) {
      S value = 0;
      if (exists) {
        value = given.up.template load<S>(group, h, unit);
      } else if (h < hidden && unit == bottleneck) {
        value = given.up_bias.template load<S>(group, 0, h);
      } else if (call.outer && h < hidden && unit == columns) {
        value = 1;
      }
      call.shrink[(group * call.sizes.units + unit) * wide + h] = static_cast<C>(value);
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
  const int blocks = static_cast<int>(call.sizes.units) * call.copying;
  if constexpr (kIsHalf<C>) {
    if (call.blocked) lay_out_blocks<kForward>(call, group, pair, blocks);
  }
  if constexpr (kForward) {
    const auto all = call.blocked ? 0u : static_cast<uint32_t>(wide * thin);
    for (uint32_t i = pair * kThreads + threadIdx.x; i < all; i += blocks * kThreads) {  // neighbours in both
      const int64_t h = i / static_cast<uint32_t>(thin), column = i % static_cast<uint32_t>(thin);
      const bool exists = h < hidden && column < bottleneck;
      call.expand[group * wide * thin + i] =
          static_cast<C>(exists ? given.up.template load<S>(group, h, column) : S(0));
    }
    shift = sum_threads(shift, kept);
    if (unit < thin && share == 0 && threadIdx.x == 0) {
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
AdapterLayout<S, C>::AdapterLayout(const AdapterOptions& options, Direction direction, bool blocked, Workspace& memory)
    : options_(options), direction_(direction), blocked_(blocked), sizes_{} {
  sizes_.hidden = options.hidden;
  sizes_.bottleneck = options.bottleneck;
  const int64_t wide = sizes_.wide(), thin = sizes_.thin(), columns = sizes_.columns(), groups = options.groups;
  const bool forward = direction != Direction::kBackward, outer = has_outer(options.norm), moments = has_moments();
  sizes_.units = forward ? thin : padded(columns + (outer ? 1 : 0));
  shrink_ = memory.reserve<C>(groups * sizes_.units * wide);
  expand_ = memory.reserve<C>(groups * wide * thin);
  vectors_ = memory.reserve<S>(groups * (thin + 3 * wide));
  centred_ = memory.reserve<S>(moments ? groups * columns * wide : 0);
  moments_ = memory.reserve<S>(moments ? groups * columns * columns : 0);
  means_ = memory.reserve<S>(moments ? groups * columns : 0);
}

template <typename S, typename C>
LaidOut<S, C> AdapterLayout<S, C>::lay_out(const AdapterWeights& weights, bool grouped, const Workspace& memory) const {
  const bool forward = direction_ != Direction::kBackward, outer = has_outer(options_.norm);
  const int64_t groups = options_.groups;
  LayOut<S, C> call{
      GivenAdapter(weights, options_, grouped), sizes_, outer, has_inner(options_.norm), blocked_,
      weights.up_weight.stride(-1) == 1 && weights.up_weight.scalar_type() == c10::CppTypeToScalarType<C>::value,
      whole_rows(weights.up_weight),
      static_cast<int>(has_moments() ? (sizes_.columns() + kChunk<S> - 1) / kChunk<S> : 0),
      // the forward's bias of `down` is with an inner norm a sum over all hidden units
      static_cast<int>(forward && has_inner(options_.norm) ? 1 : (sizes_.wide() + kThreads - 1) / kThreads),
      memory[shrink_], memory[expand_]};
  call.down_bias = memory[vectors_];
  call.up_bias = call.down_bias + groups * sizes_.thin();
  call.norm_weight = call.up_bias + groups * sizes_.wide();
  call.norm_bias = call.norm_weight + groups * sizes_.wide();
  call.centred = memory[centred_];
  call.moments = memory[moments_];
  call.means = memory[means_];
  const bool moments = has_moments();
  const auto kernel =
      forward   ? moments ? lay_out_adapter_kernel<S, C, true, true> : lay_out_adapter_kernel<S, C, true, false>
      : moments ? lay_out_adapter_kernel<S, C, false, true>
                : lay_out_adapter_kernel<S, C, false, false>;
  const int64_t pairs = call.chunks * (call.chunks + 1) / 2;
  launch(kernel, dim3(pairs + sizes_.units * call.copying, groups), dim3(kThreads), 0, call);

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
