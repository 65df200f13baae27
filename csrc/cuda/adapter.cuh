// What the adapter's forward and backward share on CUDA devices.
//
// A block takes 16 tokens. Its warps share the hidden units, for the product to the bottleneck as for the one back, and
// the bottleneck's numbers lie in shared memory between. The outer norm's statistics are those of v = up · a + up_bias
// itself, which is computed once more rather than kept. The inner norm is outside: its standardised input takes the
// place of x, its weight and bias go into the down projection.
#pragma once

#include "../adapter.h"
#include "activations.cuh"
#include "dispatch.h"
#include "tiles.cuh"
#include "weights.cuh"
#include "workspace.h"

namespace hyperloader::cuda {

// Count, mean and sum of squared distances from it, in the form in which two of them can be joined.
template <typename S>
struct Moments {
  S count = 0, mean = 0, squares = 0;

  __device__ __forceinline__ void join(S other_count, S other_mean, S other_squares) {
    if (other_count == 0) return;
    const S all = count + other_count, apart = other_mean - mean, share = other_count / all;
    squares += other_squares + apart * apart * count * share;
    mean += apart * share;
    count = all;
  }

  // The first `valid` of eight numbers.
  __device__ __forceinline__ void add(const S (&numbers)[8], int64_t valid) {
    if (valid <= 0) return;
    const int some = valid < 8 ? static_cast<int>(valid) : 8;
    S sum = 0, distances = 0;
#pragma unroll
    for (int i = 0; i < 8; ++i) sum += i < some ? numbers[i] : S(0);
    const S middle = sum / some;
#pragma unroll
    for (int i = 0; i < 8; ++i) distances += i < some ? (numbers[i] - middle) * (numbers[i] - middle) : S(0);
    join(some, middle, distances);
  }
};

template <typename S>
struct Standard {
  S mean, rstd;
};

// Of all lanes and warps that share a token; `kept` is shared memory.
template <typename S>
__device__ __forceinline__ Standard<S> join_block(Moments<S> own, int h, S eps, Moments<S> (&kept)[kWarps][kTokens]) {
#pragma unroll
  for (int mask = 1; mask < 4; mask *= 2) {
    own.join(
        __shfl_xor_sync(kAllLanes, own.count, mask), __shfl_xor_sync(kAllLanes, own.mean, mask),
        __shfl_xor_sync(kAllLanes, own.squares, mask));
  }
  const int token = lane_token() + 8 * h;
  if (lane_column() == 0) kept[warp_of_block()][token] = own;
  __syncthreads();
  Moments<S> all;
#pragma unroll
  for (int warp = 0; warp < kWarps; ++warp) {
    const Moments<S>& other = kept[warp][token];
    all.join(other.count, other.mean, other.squares);
  }
  __syncthreads();
  return {all.mean, 1 / ::sqrt(all.squares / all.count + eps)};
}

template <typename X, typename C>
struct Adapter {
  using S = Sum<X>;

  Tokens tokens;
  int64_t hidden, bottleneck;
  bool aligned;        // all rows of tokens are, for accesses of 16 bytes
  const C *down, *up;  // of each group (padded bottleneck, padded hidden), (padded hidden, padded bottleneck)
  const S* down_bias;  // (padded bottleneck)
  const S* up_bias;    // (padded hidden), and so the next two; null where there is no outer norm
  const S* norm_weight;
  const S* norm_bias;
  Activation activation;
  S eps;

  // This group's weights.
  __device__ Adapter of_group(int64_t group) const {
    Adapter found = *this;
    const int64_t padded_hidden = padded(hidden), thin = padded(bottleneck);
    found.down += group * thin * padded_hidden;
    found.up += group * thin * padded_hidden;
    found.down_bias += group * thin;
    found.up_bias += group * padded_hidden;
    if (norm_weight != nullptr) {
      found.norm_weight += group * padded_hidden;
      found.norm_bias += group * padded_hidden;
    }
    return found;
  }
};

// A lane's eight numbers v = up · a + up_bias of its token h.
template <typename S>
__device__ __forceinline__ void values(Tile<S>& tile, int h, const S* up_bias, int64_t column, S (&found)[8]) {
  const auto bias = load<8>(up_bias + column + lane_column(), 8, true);
#pragma unroll
  for (int i = 0; i < 8; ++i) found[i] = tile.at(h, i) + bias.at[i];
}

// Mean and reciprocal deviation of v for a lane's two tokens.
template <typename X, typename C>
__device__ __forceinline__ void standardise(
    const Adapter<X, C>& adapter, const Rows<const C>& a, Moments<Sum<X>> (&kept)[kWarps][kTokens],
    Standard<Sum<X>> (&found)[2]) {
  using S = Sum<X>;
  Moments<S> moments[2];
  expand(a, padded(adapter.bottleneck), adapter.up, adapter.hidden, [&](int64_t column, Tile<S>& tile) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      S v[8];
      values(tile, h, adapter.up_bias, column, v);
      moments[h].add(v, adapter.hidden - column - lane_column());
    }
  });
#pragma unroll
  for (int h = 0; h < 2; ++h) found[h] = join_block(moments[h], h, adapter.eps, kept);
}

// The weights of one call: what they are, and where they are laid out.
template <typename X, typename C>
class AdapterLayout {
 public:
  using S = Sum<X>;

  // `memory` gets what the weights take; the backward multiplies with the transposes.
  AdapterLayout(
      const AdapterWeights& weights, const AdapterOptions& options, bool grouped, bool transposed, Workspace& memory);
  void lay_out(const Workspace& memory) const;
  // Fills in the weights' addresses.
  void fill(const Workspace& memory, Adapter<X, C>& adapter) const;
  const C* down_transposed(const Workspace& memory) const { return memory[down_transposed_]; }
  const C* up_transposed(const Workspace& memory) const { return memory[up_transposed_]; }

 private:
  AdapterWeights weights_;
  AdapterOptions options_;
  bool grouped_, transposed_;
  int64_t padded_hidden_, padded_bottleneck_;
  Workspace::Place<C> down_, up_, down_transposed_, up_transposed_;
  Workspace::Place<S> down_bias_, up_bias_, norm_weight_, norm_bias_;
};

// Whether all matrices have the dtype of x.
bool same_dtypes(const Tensor& x, const AdapterWeights& weights);

}  // namespace hyperloader::cuda
