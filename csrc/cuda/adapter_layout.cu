#include "adapter.cuh"

namespace hyperloader::cuda {
namespace {

// to[unit] += Σ over the hidden units of down · norm_bias: one warp each.
template <typename S>
__global__ void __launch_bounds__(kThreads) add_norm_bias_kernel(
    const __grid_constant__ Layout down, AnyNumbers bias, int64_t bias_group_stride, int64_t bias_stride, S* to,
    int64_t to_group_stride) {
  const int64_t unit = int64_t(blockIdx.x) * kWarps + warp_of_block(), group = blockIdx.y;
  if (unit >= down.rows) return;
  S sum = 0;
  for (int64_t i = threadIdx.x % 32; i < down.columns; i += 32) {
    sum += down.from.load<S>(group * down.group_stride + unit * down.row_stride + i * down.column_stride) *
           bias.load<S>(group * bias_group_stride + i * bias_stride);
  }
#pragma unroll
  for (int mask = 1; mask < 32; mask *= 2) sum += __shfl_xor_sync(kAllLanes, sum, mask);
  if (threadIdx.x % 32 == 0) to[group * to_group_stride + unit] += sum;
}

void set_factor(Layout& layout, const Tensor& factor, bool grouped, bool of_rows) {
  layout.factor = {factor.const_data_ptr(), factor.scalar_type()};
  layout.factor_group_stride = grouped ? factor.stride(0) : 0;
  layout.factor_stride = factor.stride(-1);
  layout.factor_of_rows = of_rows;
}

}  // namespace

template <typename X, typename C>
AdapterLayout<X, C>::AdapterLayout(
    const AdapterWeights& weights, const AdapterOptions& options, bool grouped, bool transposed, Workspace& memory)
    : weights_(weights),
      options_(options),
      grouped_(grouped),
      transposed_(transposed),
      padded_hidden_(padded(options.hidden)),
      padded_bottleneck_(padded(options.bottleneck)),
      down_(memory.reserve<C>(transposed ? 0 : options.groups * padded_hidden_ * padded_bottleneck_)),
      up_(memory.reserve<C>(options.groups * padded_hidden_ * padded_bottleneck_)),
      down_transposed_(memory.reserve<C>(transposed ? options.groups * padded_hidden_ * padded_bottleneck_ : 0)),
      up_transposed_(memory.reserve<C>(transposed ? options.groups * padded_hidden_ * padded_bottleneck_ : 0)),
      down_bias_(memory.reserve<S>(options.groups * padded_bottleneck_)),
      up_bias_(memory.reserve<S>(options.groups * padded_hidden_)),
      norm_weight_(memory.reserve<S>(options.groups * padded_hidden_)),
      norm_bias_(memory.reserve<S>(options.groups * padded_hidden_)) {}

template <typename X, typename C>
void AdapterLayout<X, C>::lay_out(const Workspace& memory) const {
  Layouts layouts;
  AdapterWeights weights = weights_;
  const bool inner = has_inner(options_.norm);
  const auto [inner_weight, inner_bias] = weights.inner_norm(options_.norm);
  Layout down = Matrix{weights.down_weight, grouped_, transposed_}.layout(
      transposed_ ? static_cast<void*>(memory[down_transposed_]) : memory[down_], false,
      transposed_ ? padded_hidden_ : padded_bottleneck_, transposed_ ? padded_bottleneck_ : padded_hidden_);
  if (inner) set_factor(down, inner_weight, grouped_, transposed_);
  layouts.add(down);
  layouts.add(Matrix{weights.up_weight, grouped_}.layout(memory[up_], false, padded_hidden_, padded_bottleneck_));
  if (transposed_) {
    layouts.add(
        Matrix{weights.up_weight, grouped_, true}.layout(
            memory[up_transposed_], false, padded_bottleneck_, padded_hidden_));
  }
  layouts.add(Matrix{weights.down_bias, grouped_}.layout(memory[down_bias_], true, 1, padded_bottleneck_));
  layouts.add(Matrix{weights.up_bias, grouped_}.layout(memory[up_bias_], true, 1, padded_hidden_));
  if (has_outer(options_.norm)) {
    layouts.add(Matrix{weights.norm_weight, grouped_}.layout(memory[norm_weight_], true, 1, padded_hidden_));
    layouts.add(Matrix{weights.norm_bias, grouped_}.layout(memory[norm_bias_], true, 1, padded_hidden_));
  }
  cuda::lay_out<C>(layouts, options_.groups);
  if (!inner || transposed_) return;  // the backward finds the pre-activation ready
  const dim3 grid((options_.bottleneck + kWarps - 1) / kWarps, options_.groups);
  launch(
      add_norm_bias_kernel<S>, grid, dim3(kThreads), 0, down,
      AnyNumbers{inner_bias.const_data_ptr(), inner_bias.scalar_type()}, grouped_ ? inner_bias.stride(0) : int64_t{0},
      inner_bias.stride(-1), memory[down_bias_], padded_bottleneck_);
}

template <typename X, typename C>
void AdapterLayout<X, C>::fill(const Workspace& memory, Adapter<X, C>& adapter) const {
  adapter.down = memory[down_];
  adapter.up = memory[up_];
  adapter.down_bias = memory[down_bias_];
  adapter.up_bias = memory[up_bias_];
  adapter.norm_weight = has_outer(options_.norm) ? memory[norm_weight_] : nullptr;
  adapter.norm_bias = has_outer(options_.norm) ? memory[norm_bias_] : nullptr;
  adapter.hidden = options_.hidden;
  adapter.bottleneck = options_.bottleneck;
  adapter.activation = options_.activation;
}

bool same_dtypes(const Tensor& x, const AdapterWeights& weights) {
  return weights.down_weight.scalar_type() == x.scalar_type() && weights.up_weight.scalar_type() == x.scalar_type();
}

template class AdapterLayout<BFloat16, BFloat16>;
template class AdapterLayout<BFloat16, float>;
template class AdapterLayout<Half, Half>;
template class AdapterLayout<Half, float>;
template class AdapterLayout<float, float>;
template class AdapterLayout<double, double>;

}  // namespace hyperloader::cuda
