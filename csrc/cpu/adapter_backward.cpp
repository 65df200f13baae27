// Gradients of the bottleneck adapter on the CPU, in tiles of tokens.
#include "adapter.h"

#include <ATen/ops/empty.h>

namespace hyperloader::cpu::adapter {
namespace {

// Sums over the tokens of one group or of a part of it.
template <typename T>
struct Sums {
  T* numbers;              // all of the below, in one stretch, the large ones first
  std::vector<T*> down;    // (bottleneck, hidden)
  std::vector<T*> table;   // (terms, hidden)
  std::vector<T*> second;  // (bottleneck + 1, stride): Σ w a aᵀ, with an outer norm
  T *bias, *inner_weight, *inner_bias, *outer_weight, *outer_bias;

  static int64_t size(const Sizes<T>& sizes) {
    return (sizes.bottleneck + sizes.terms + (sizes.inner ? 2 : 0) + (sizes.direct ? 2 : 0)) * sizes.hidden +
           (sizes.bottleneck + 2) * sizes.stride;
  }

  Sums(const Sizes<T>& sizes, T* memory) : numbers(memory) {
    if (memory == nullptr) return;
    const auto take = [&](int64_t rows, int64_t width) {
      T* taken = memory;
      memory += rows * width;
      return taken;
    };
    down = addresses(take(sizes.bottleneck, sizes.hidden), sizes.bottleneck, sizes.hidden);
    table = addresses(take(sizes.terms, sizes.hidden), sizes.terms, sizes.hidden);
    second = addresses(take(sizes.bottleneck + 1, sizes.stride), sizes.bottleneck + 1, sizes.stride);
    bias = take(1, sizes.stride);
    inner_weight = take(sizes.inner ? 1 : 0, sizes.hidden);
    inner_bias = take(sizes.inner ? 1 : 0, sizes.hidden);
    outer_weight = take(sizes.direct ? 1 : 0, sizes.hidden);
    outer_bias = take(sizes.direct ? 1 : 0, sizes.hidden);
  }
};

struct Call {
  Tensor grad, x, pre, grad_x;
  const AdapterWeights &weights, &grads;
  const AdapterOptions& options;
  const Tokens& tokens;
  double eps;
};

// Turns the sums over a group's tokens into its weights' gradients.
template <typename T>
class Finish {
 public:
  Finish(const Sizes<T>& sizes, Arena<T>& arena)
      : sizes_(sizes),
        up_(addresses(arena.take((sizes.bottleneck + 1) * sizes.hidden), sizes.bottleneck + 1, sizes.hidden)) {}

  template <typename Row>
  void run(
      const Call& call, const Weights<T, Row>& weights, const Prepared<T, Row>& prepared, const Sums<T>& sums,
      int64_t group) {
    const auto& k = loops<T>();
    const int64_t hidden = sizes_.hidden, bottleneck = sizes_.bottleneck;
    AdapterWeights grads = call.grads;
    const auto of = [&](const Tensor& grad) {
      return grad.mutable_data_ptr<T>() + group * (grad.numel() / call.options.groups);
    };
    std::copy_n(sums.down[0], bottleneck * hidden, of(grads.down_weight));
    std::copy_n(sums.bias, bottleneck, of(grads.down_bias));
    if (sizes_.inner) {
      const auto [weight, bias] = grads.inner_norm(call.options.norm);
      std::copy_n(sums.inner_weight, hidden, of(weight));
      std::copy_n(sums.inner_bias, hidden, of(bias));
    }
    const std::vector<T*>* up = &sums.table;
    if (sizes_.direct) {
      std::copy_n(sums.outer_weight, hidden, of(grads.norm_weight));
      std::copy_n(sums.outer_bias, hidden, of(grads.norm_bias));
    }
    if (sizes_.low_rank) {
      outer(weights, prepared, sums, of(grads.norm_weight));
      std::copy_n(sums.table.back(), hidden, of(grads.norm_bias));
      up = &up_;
    }
    T* grad_up = of(grads.up_weight);
    const std::vector<T*> rows = addresses(grad_up, hidden, bottleneck);
    k.transpose((*up)[0], bottleneck, hidden, rows.data());
    std::copy_n((*up)[bottleneck], hidden, of(grads.up_bias));
  }

 private:
  // up = center(γ∘table - second · centred), and the norm's weight: the sum over the rows of centred∘table.
  template <typename Row>
  void outer(const Weights<T, Row>& weights, const Prepared<T, Row>& prepared, const Sums<T>& sums, T* grad_weight) {
    const auto& k = loops<T>();
    const int64_t hidden = sizes_.hidden, rows = sizes_.bottleneck + 1;
    std::fill_n(grad_weight, hidden, T(0));
    for (int64_t j = 0; j < rows; ++j) {
      k.multiply(prepared.centred[j], sums.table[j], hidden, up_[j]);
      k.add(up_[j], hidden, grad_weight);
    }
    for (int64_t j = 0; j < rows; ++j) {
      k.multiply(weights.outer_weight, sums.table[j], hidden, up_[j]);
      for (int64_t i = 0; i < rows; ++i) sums.second[j][i] = -sums.second[j][i];
    }
    const std::vector<const T*> centred(prepared.centred.begin(), prepared.centred.end());
    k.accumulate(up_.data(), up_.data(), rows, sums.second[0], sizes_.stride, 1, centred.data(), rows, hidden);
    for (int64_t j = 0; j < rows; ++j) k.centre(up_[j], hidden);
  }

  Sizes<T> sizes_;
  std::vector<T*> up_;
};

template <typename T, typename Row>
class Backward {
 public:
  Backward(const Call& call, Arena<T>& arena)
      : call_(call),
        sizes_(call.options, call.tokens, !std::is_same_v<T, Row>),
        prepared_(sizes_, arena),
        units_(sizes_, arena),
        inner_(sizes_, arena),
        direct_(sizes_, arena),
        finish_(sizes_, arena),
        sums_(sizes_, arena.take(Sums<T>::size(sizes_))),
        grad_pre_(arena.take_zeros(sizes_.tile * sizes_.stride)),
        slopes_(arena.take(sizes_.tile * sizes_.stride)),
        weighted_(arena.take(sizes_.low_rank ? sizes_.tile * sizes_.stride : 0)),
        grad_z_(addresses(arena.take(sizes_.inner ? sizes_.tile * sizes_.hidden : 0), sizes_.tile, sizes_.hidden)),
        grad_(call.grad, sizes_.hidden, arena),
        x_(call.x, sizes_.hidden, arena),
        grad_x_(call.grad_x, sizes_.hidden, arena) {}

  void prepare(int64_t group, std::optional<int64_t> next) {
    weights_.emplace(call_.weights, call_.options, group);
    prepared_.prepare(*weights_);
    next_.clear();
    if (next) Weights<T, Row>(call_.weights, call_.options, *next).ahead(call_.options, next_);
  }

  T* sums() { return sums_.numbers; }

  void clear() {
    const int64_t large = (sizes_.bottleneck + sizes_.terms) * sizes_.hidden;  // the first tile writes them
    std::fill_n(sums_.numbers + large, Sums<T>::size(sizes_) - large, T(0));
    begun_ = false;
  }

  void finish(int64_t group) { finish_.run(call_, *weights_, prepared_, sums_, group); }

  void tile(int64_t begin, int64_t count, int64_t ahead) {
    const auto& k = loops<T>();
    const auto& product = products<T, Row>();
    const int64_t bottleneck = sizes_.bottleneck, hidden = sizes_.hidden, stride = sizes_.stride;
    int64_t rows[2 * kTile];
    call_.tokens.rows(begin, begin + count + ahead, rows);
    const Row* const* x = x_.read(rows, count);
    const Row* const* grad = grad_.read(rows, count);
    grad_.ahead(rows + count, ahead, next_);
    x_.ahead(rows + count, ahead, next_);
    const Row* const* z = x;
    if constexpr (std::is_same_v<T, Row>) {
      if (sizes_.inner) z = inner_.normalise(sizes_, *weights_, call_.eps, x, count);
    }
    const T* pre = call_.pre.const_data_ptr<T>();
    for (int64_t i = 0; i < count; ++i) std::copy_n(pre + rows[i] * bottleneck, bottleneck, units_.pre + i * stride);
    units_.activate(sizes_, prepared_, call_.options, call_.eps, count, slopes_);

    const Row* const* grad_v = grad;  // of what the table gives
    if constexpr (std::is_same_v<T, Row>) {
      if (sizes_.direct) {
        grad_v = direct_.backward(
            sizes_, prepared_, units_, *weights_, call_.eps, grad, count, sums_.outer_weight, sums_.outer_bias);
      }
    }

    // The gradient of a, then of pre.
    product.dot(
        grad_v, count, prepared_.table.data(), bottleneck + 1, hidden, grad_pre_, stride, next_.data(),
        static_cast<int64_t>(next_.size()));
    next_.clear();
    if (sizes_.low_rank) {
      k.outer_backward(units_.a[0], units_.moments_a[0], units_.rstd, count, hidden, stride, grad_pre_, weighted_);
      const std::vector<const T*> a(units_.a.begin(), units_.a.end());
      k.accumulate(
          sums_.second.data(), sums_.second.data(), bottleneck + 1, weighted_, 1, stride, a.data(), count, stride);
    }
    k.multiply(grad_pre_, slopes_, count * stride, grad_pre_);
    for (int64_t i = 0; i < count; ++i) {
      std::fill_n(grad_pre_ + i * stride + bottleneck, stride - bottleneck, T(0));
      k.add(grad_pre_ + i * stride, bottleneck, sums_.bias);
    }

    const auto so_far = [&](const std::vector<T*>& sums) { return begun_ ? sums.data() : nullptr; };
    product.sum(sums_.down.data(), so_far(sums_.down), bottleneck, grad_pre_, 1, stride, z, count, hidden);
    product.sum(sums_.table.data(), so_far(sums_.table), sizes_.terms, units_.basis, 1, stride, grad_v, count, hidden);
    begun_ = true;
    Row* const* grad_x = grad_x_.write(rows, count);
    Row* const* grad_z = grad_x;
    if constexpr (std::is_same_v<T, Row>) {
      if (sizes_.inner) grad_z = grad_z_.data();
    }
    product.accumulate(
        grad_z, sizes_.inner ? nullptr : grad, count, grad_pre_, stride, 1, prepared_.down.data(), bottleneck, hidden);
    if constexpr (std::is_same_v<T, Row>) {
      for (int64_t i = 0; sizes_.inner && i < count; ++i) {
        k.normalise_backward(
            grad[i], grad_z[i], x[i], weights_->inner_weight, inner_.mean[i], inner_.rstd[i], hidden, grad_x[i],
            sums_.inner_weight, sums_.inner_bias);
      }
    }
    grad_x_.wrote(rows, count);
  }

 private:
  const Call& call_;
  Sizes<T> sizes_;
  std::optional<Weights<T, Row>> weights_;
  Prepared<T, Row> prepared_;
  Units<T> units_;
  Inner<T> inner_;
  DirectNorm<T> direct_;
  Finish<T> finish_;
  Sums<T> sums_;
  bool begun_ = false;  // the sums
  T *grad_pre_, *slopes_, *weighted_;
  std::vector<T*> grad_z_;
  Rows<Row> grad_, x_, grad_x_;
  std::vector<const Row*> next_;  // rows to fetch meanwhile
};

template <typename T, typename Row>
void run(const Call& call) {
  const auto shares = call.tokens.share(6 * call.options.hidden * call.options.bottleneck);
  each_group<T, Backward<T, Row>>(
      shares, call, Sums<T>::size(Sizes<T>(call.options, call.tokens, !std::is_same_v<T, Row>)));
}

std::vector<Tensor> adapter_backward(const AdapterBackwardArguments& arguments) {
  const Tensor& x = arguments.x;
  const AdapterParameters& parameters = arguments.parameters;
  const AdapterOptions options = check(arguments);

  const at::ScalarType dtype = accumulate_dtype(x.scalar_type());
  const Tokens tokens(x, parameters.group, options.groups);
  AdapterWeights given = parameters.weights();
  const bool bfloat16 = reads_bfloat16(x, given, options, tokens);
  const AdapterWeights weights = readable(given, dtype, bfloat16);
  AdapterWeights grads =
      given.map([&](const Tensor& weight) { return at::empty(weight.sizes(), weight.options().dtype(dtype)); });
  for (int64_t g = 0; g < options.groups; ++g) {
    if (!tokens.empty(g)) continue;
    for (const Tensor* weight : grads.all()) {
      if (weight->defined()) (parameters.group ? weight->select(0, g) : *weight).zero_();
    }
  }
  const Tensor grad_x = at::empty(x.sizes(), x.options());
  const Call call{
      contiguous(arguments.grad),
      contiguous(x),
      contiguous(arguments.pre),
      grad_x,
      weights,
      grads,
      options,
      tokens,
      parameters.eps};
  with_numbers(dtype, bfloat16, [&](auto numbers) {
    run<typename decltype(numbers)::T, typename decltype(numbers)::Row>(call);
  });

  std::vector<Tensor> results{grad_x};
  const auto from = grads.all(), like = given.all();
  for (size_t i = 0; i < from.size(); ++i) {
    if (from[i]->defined()) results.push_back(as_dtype(*from[i], like[i]->scalar_type()));
  }
  return results;
}

}  // namespace

TORCH_LIBRARY_IMPL(hyperloader, CPU, m) { implement<adapter_backward>(m); }

}  // namespace hyperloader::cpu::adapter
