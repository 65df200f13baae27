// What the adapter's forward and backward share on the CPU.
//
// With the activation a = [act(pre), 1] (bottleneck + 1 numbers a token), up = [up_weight, up_bias], and `centred` the
// columns of `up` less their means, the outer norm's standardised input is rstd · centred · a and its variance
// aᵀ · moments · a, where moments = centredᵀ · centred / hidden: no pass over (tokens, hidden) is made for it. So
//
//     y = x + basis · table,   basis = [rstd · a, 1], table = [γ∘centred, β]   with an outer norm
//                              basis = a,             table = up               without one
//
// hyperloader/reference/adapter_low_rank.py writes the equations out. Where a group has few tokens the centred columns
// and their moments cost more than they save: then a tile is normalised row by row (`direct`). Matrices of the weights
// are held with one row of `hidden` numbers per bottleneck unit.
#pragma once

#include "../adapter.h"
#include "workers.h"

namespace hyperloader::cpu::adapter {

template <typename T>
struct Sizes {
  int64_t hidden, bottleneck;
  int64_t terms;   // of `basis`
  int64_t stride;  // of the rows that hold a few numbers a token: whole vectors
  int64_t tile;    // tokens, at most
  bool inner;      // the norm before the down projection
  bool low_rank;   // the outer norm is in basis and table
  bool direct;     // the outer norm is taken row by row

  Sizes(const AdapterOptions& options, const Tokens& tokens, bool bfloat16)
      : hidden(options.hidden), bottleneck(options.bottleneck), inner(has_inner(options.norm)) {
    // Moments and centring take about bottleneck² multiplications per hidden unit, a row's norm as long as 8 per token;
    // with bfloat16 rows, that are converted for a norm row by row, as long as 2 / 3 bottleneck tokens (measured with
    // 24, 48 and 96 units).
    const int64_t tokens_of_group = tokens.count() / std::max<int64_t>(tokens.groups_present(), 1);
    const bool few = bfloat16 ? 3 * tokens_of_group < 2 * bottleneck : 8 * tokens_of_group < bottleneck * bottleneck;
    low_rank = has_outer(options.norm) && !few;
    direct = has_outer(options.norm) && few;
    terms = bottleneck + (low_rank ? 2 : 1);
    stride = round_up(bottleneck + 2, loops<T>().lanes);
    tile = std::clamp<int64_t>(tokens.count(), 1, kTile);
  }
};

// A norm that is taken row by row wants its rows as float32.
inline bool reads_bfloat16(
    const Tensor& x, AdapterWeights weights, const AdapterOptions& options, const Tokens& tokens) {
  const auto all = weights.all();
  const auto may_be = [](const Tensor* weight) { return !weight->defined() || is_bfloat16(*weight); };
  if (!multiplies_bfloat16() || !is_bfloat16(x) || !std::all_of(all.begin(), all.end(), may_be)) return false;
  const Sizes<float> sizes(options, tokens, true);
  return !sizes.inner && !sizes.direct && sizes.terms <= kMostTerms;
}

// The weights as the loops read them: contiguous and of `dtype`; the two large ones as they are where bfloat16 is read.
inline AdapterWeights readable(const AdapterWeights& given, at::ScalarType dtype, bool reads_bfloat16) {
  AdapterWeights weights = given;
  for (Tensor* weight : weights.all()) {
    const bool as_it_is = reads_bfloat16 && (weight == &weights.down_weight || weight == &weights.up_weight);
    *weight = as_it_is ? contiguous(*weight) : contiguous_as(*weight, dtype);
  }
  return weights;
}

// One group's weights.
template <typename T, typename Row>
struct Weights {
  const Row *down, *up;
  const T *down_bias, *up_bias, *outer_weight = nullptr, *outer_bias = nullptr, *inner_weight = nullptr,
                                *inner_bias = nullptr;

  Weights(AdapterWeights weights, const AdapterOptions& options, int64_t group) {
    const auto first = [&](const Tensor& weight) { return group * (weight.numel() / options.groups); };
    const auto of = [&](const Tensor& weight) { return weight.const_data_ptr<T>() + first(weight); };
    down = static_cast<const Row*>(weights.down_weight.const_data_ptr()) + first(weights.down_weight);
    up = static_cast<const Row*>(weights.up_weight.const_data_ptr()) + first(weights.up_weight);
    down_bias = of(weights.down_bias);
    up_bias = of(weights.up_bias);
    if (has_outer(options.norm)) {
      outer_weight = of(weights.norm_weight);
      outer_bias = of(weights.norm_bias);
    }
    if (has_inner(options.norm)) {
      const auto [weight, bias] = weights.inner_norm(options.norm);
      inner_weight = of(weight);
      inner_bias = of(bias);
    }
  }

  // Adds the addresses of what is soon to be read, `hidden` numbers each.
  void ahead(const AdapterOptions& options, std::vector<const Row*>& next) const {
    for (const Row* matrix : {down, up}) {
      for (int64_t j = 0; j < options.bottleneck; ++j) next.push_back(matrix + j * options.hidden);
    }
  }
};

constexpr int64_t kPart = 4;  // rows of the moments that are summed at a time

// What the tokens of one group share. Row is what the products read: T, or bfloat16 where x and all weights are that.
template <typename T, typename Row>
class Prepared {
 public:
  std::vector<const Row*> down;   // rows of down_weight
  std::vector<T*> centred;        // (bottleneck + 1, hidden); in another form not centred
  std::vector<const T*> wide;     // the table, (terms, hidden)
  std::vector<const Row*> table;  // as the products read it
  std::vector<const T*> moments;  // (bottleneck + 1, stride)
  T* diagonal = nullptr;          // (stride), of the moments

  Prepared(const Sizes<T>& sizes, Arena<T>& arena) : sizes_(sizes), packed_table_(sizes.terms, sizes.hidden, arena) {
    const int64_t rows = sizes.bottleneck + 1;
    table.resize(sizes.terms);
    centred_ = arena.take(rows * sizes.hidden);
    if constexpr (!std::is_same_v<T, Row>) up_ = arena.take(sizes.bottleneck * sizes.hidden);
    if (!sizes.low_rank) return;
    table_ = arena.take(rows * sizes.hidden);
    moments_ = arena.take_zeros(rows * sizes.stride);
    diagonal = arena.take_zeros(sizes.stride);
  }

  void prepare(const Weights<T, Row>& weights) {
    const auto& k = loops<T>();
    const int64_t hidden = sizes_.hidden, rows = sizes_.bottleneck + 1;
    down = addresses(weights.down, sizes_.bottleneck, hidden);
    centred = addresses(centred_, rows, hidden);
    k.transpose(up(weights), hidden, sizes_.bottleneck, centred.data());
    std::copy_n(weights.up_bias, hidden, centred.back());
    wide.assign(centred.begin(), centred.end());
    for (int64_t j = 0; sizes_.low_rank && j < rows; ++j) {
      k.centre(centred[j], hidden);
      k.multiply(centred[j], weights.outer_weight, hidden, table_ + j * hidden);
      wide[j] = table_ + j * hidden;
    }
    if (sizes_.low_rank) wide.push_back(weights.outer_bias);
    for (int64_t j = 0; j < sizes_.terms; ++j) table[j] = packed_table_.row(j, wide[j]);
    if (!sizes_.low_rank) return;
    const std::vector<const T*> columns(centred.begin(), centred.end());
    const std::vector<T*> to = addresses(moments_, rows, sizes_.stride);
    for (int64_t j = 0; j < rows; j += kPart) {  // what lies below the diagonal is the same above it
      k.dot(
          columns.data() + j, std::min(kPart, rows - j), columns.data() + j, rows - j, hidden, to[j] + j, sizes_.stride,
          nullptr, 0);
    }
    for (int64_t j = 0; j < rows; ++j) {
      for (int64_t i = j; i < rows; ++i) to[j][i] = to[i][j] = to[j][i] / T(hidden);
      diagonal[j] = to[j][j];
    }
    moments.assign(to.begin(), to.end());
  }

 private:
  const T* up(const Weights<T, Row>& weights) {
    if constexpr (std::is_same_v<T, Row>) {
      return weights.up;
    } else {
      loops<T>().widen(weights.up, Half::kBFloat16, up_, sizes_.bottleneck * sizes_.hidden);
      return up_;
    }
  }

  Sizes<T> sizes_;
  Packed<T, Row> packed_table_;
  T *centred_, *up_ = nullptr, *table_ = nullptr, *moments_ = nullptr;
};

// The few numbers of a tile's tokens, rows of `stride` numbers, zero beyond those that the equations name.
template <typename T>
struct Units {
  std::vector<T*> a;          // [act(pre), 1]
  std::vector<T*> moments_a;  // moments · a
  T *pre, *basis, *rstd;
  T* row;                    // of `hidden` numbers, to work in
  int64_t cancelled[kTile];  // tokens for which the columns nearly cancel, and their number
  int64_t cancelled_count = 0;

  Units(const Sizes<T>& sizes, Arena<T>& arena) {
    pre = arena.take_zeros(sizes.tile * sizes.stride);
    a = addresses(arena.take_zeros(sizes.tile * sizes.stride), sizes.tile, sizes.stride);
    moments_a =
        addresses(sizes.low_rank ? arena.take_zeros(sizes.tile * sizes.stride) : nullptr, sizes.tile, sizes.stride);
    basis = sizes.low_rank ? arena.take_zeros(sizes.tile * sizes.stride) : a[0];
    rstd = arena.take(sizes.tile);
    row = arena.take(sizes.low_rank ? sizes.hidden : 0);
  }

  // From `pre`; with `slopes` also act'(pre); beyond the bottleneck it means nothing.
  template <typename Row>
  void activate(
      const Sizes<T>& sizes, const Prepared<T, Row>& prepared, const AdapterOptions& options, double eps, int64_t count,
      T* slopes) {
    const auto& k = loops<T>();
    if (slopes == nullptr) {
      k.activate(options.activation, pre, a[0], count * sizes.stride);
    } else {
      k.activate_with_slope(options.activation, pre, a[0], slopes, count * sizes.stride);
    }
    for (int64_t i = 0; i < count; ++i) a[i][sizes.bottleneck] = T(1);
    if (!sizes.low_rank) return;
    k.accumulate(
        moments_a.data(), nullptr, count, a[0], sizes.stride, 1, prepared.moments.data(), sizes.bottleneck + 1,
        sizes.stride);
    make_exact(sizes, prepared, count);
    k.outer_basis(a[0], moments_a[0], eps, count, sizes.bottleneck + 1, sizes.stride, basis, rstd);
  }

 private:
  // Where the columns nearly cancel, the moments' rounding would be larger than the variance: v = centred · a is
  // written out, and moments_a = centredᵀ · v / hidden.
  template <typename Row>
  void make_exact(const Sizes<T>& sizes, const Prepared<T, Row>& prepared, int64_t count) {
    const auto& k = loops<T>();
    cancelled_count = k.find_cancelled(a[0], moments_a[0], prepared.diagonal, count, sizes.stride, cancelled);
    const int64_t rows = sizes.bottleneck + 1;
    for (int64_t i = 0; i < cancelled_count; ++i) {
      const std::vector<const T*> centred(prepared.centred.begin(), prepared.centred.end());
      const T* const v = row;
      T* const own = moments_a[cancelled[i]];
      k.accumulate(&row, nullptr, 1, a[cancelled[i]], sizes.stride, 1, centred.data(), rows, sizes.hidden);
      k.dot(&v, 1, centred.data(), rows, sizes.hidden, own, sizes.stride, nullptr, 0);
      for (int64_t j = 0; j < rows; ++j) own[j] /= T(sizes.hidden);
    }
  }
};

// The tokens after the inner norm.
template <typename T>
struct Inner {
  std::vector<T*> rows;
  T *mean, *rstd;

  Inner(const Sizes<T>& sizes, Arena<T>& arena)
      : rows(addresses(arena.take(sizes.inner ? sizes.tile * sizes.hidden : 0), sizes.tile, sizes.hidden)),
        mean(arena.take(sizes.tile)),
        rstd(arena.take(sizes.tile)) {}

  const T* const* normalise(
      const Sizes<T>& sizes, const Weights<T, T>& weights, double eps, const T* const* x, int64_t count) {
    const auto& k = loops<T>();
    for (int64_t i = 0; i < count; ++i) {
      k.moments(x[i], eps, sizes.hidden, mean + i, rstd + i);
      k.normalise(nullptr, x[i], weights.inner_weight, weights.inner_bias, mean[i], rstd[i], sizes.hidden, rows[i]);
    }
    return rows.data();
  }
};

// The outer norm row by row, for a tile.
template <typename T>
class DirectNorm {
 public:
  DirectNorm(const Sizes<T>& sizes, Arena<T>& arena)
      : hidden_(sizes.hidden),
        rows_(addresses(arena.take(sizes.direct ? sizes.tile * hidden_ : 0), sizes.tile, hidden_)) {}

  // y = x + norm(v); v = basis · table.
  void forward(
      const Sizes<T>& sizes, const Prepared<T, T>& prepared, const Units<T>& units, const Weights<T, T>& weights,
      double eps, const T* const* x, int64_t count, T* const* y) {
    compute(sizes, prepared, units, count);
    const auto& k = loops<T>();
    for (int64_t i = 0; i < count; ++i) {
      T mean, rstd;
      k.moments(rows_[i], eps, hidden_, &mean, &rstd);
      k.normalise(x[i], rows_[i], weights.outer_weight, weights.outer_bias, mean, rstd, hidden_, y[i]);
    }
  }

  // The gradient of v; those of the norm's weight and bias are added to.
  const T* const* backward(
      const Sizes<T>& sizes, const Prepared<T, T>& prepared, const Units<T>& units, const Weights<T, T>& weights,
      double eps, const T* const* grad, int64_t count, T* grad_weight, T* grad_bias) {
    compute(sizes, prepared, units, count);
    const auto& k = loops<T>();
    for (int64_t i = 0; i < count; ++i) {
      T mean, rstd;
      k.moments(rows_[i], eps, hidden_, &mean, &rstd);
      k.normalise_backward(
          nullptr, grad[i], rows_[i], weights.outer_weight, mean, rstd, hidden_, rows_[i], grad_weight, grad_bias);
    }
    return rows_.data();
  }

 private:
  void compute(const Sizes<T>& sizes, const Prepared<T, T>& prepared, const Units<T>& units, int64_t count) {
    loops<T>().accumulate(
        rows_.data(), nullptr, count, units.basis, sizes.stride, 1, prepared.table.data(), sizes.terms, hidden_);
  }

  int64_t hidden_;
  std::vector<T*> rows_;
};

}  // namespace hyperloader::cpu::adapter
