// Gradients of the bottleneck adapter on the CPU, in tiles of tokens.
#include "adapter_sums.h"

#include <ATen/ops/empty.h>

namespace hyperloader::cpu::adapter {
namespace {

struct Call {
  Tensor grad, x, pre, grad_x;
  const AdapterWeights &weights, &grads;
  const AdapterOptions& options;
  const Tokens& tokens;
  double eps;
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

  void finish(int64_t group) { finish_.run(call_.grads, call_.options, *weights_, prepared_, sums_, group); }

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
  Finish<T, Row> finish_;
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
  AdapterWeights grads = given.map([&](const Tensor& weight) {
    return at::empty(weight.sizes(), weight.options().dtype(bfloat16 ? at::kBFloat16 : dtype));
  });
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
