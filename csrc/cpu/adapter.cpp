// Bottleneck adapter on the CPU, in tiles of tokens: both products of a tile are done while it is in the cache, and
// nothing of the size of x is allocated but the result.
#include "adapter.h"

#include <ATen/ops/empty.h>
#include <tuple>

namespace hyperloader::cpu::adapter {
namespace {

struct Call {
  Tensor x, y, pre;
  const AdapterWeights& weights;
  const AdapterOptions& options;
  const Tokens& tokens;
  double eps;
};

template <typename T, typename Row>
class Forward {
 public:
  Forward(const Call& call, Arena<T>& arena)
      : call_(call),
        sizes_(call.options, call.tokens, !std::is_same_v<T, Row>),
        prepared_(sizes_, arena),
        units_(sizes_, arena),
        inner_(sizes_, arena),
        direct_(sizes_, arena),
        x_(call.x, sizes_.hidden, arena),
        y_(call.y, sizes_.hidden, arena) {}

  void prepare(int64_t group, std::optional<int64_t> next) {
    weights_.emplace(call_.weights, call_.options, group);
    prepared_.prepare(*weights_);
    next_.clear();
    if (next) Weights<T, Row>(call_.weights, call_.options, *next).ahead(call_.options, next_);
  }

  void tile(int64_t begin, int64_t count, int64_t ahead) {
    const auto& k = loops<T>();
    const auto& product = products<T, Row>();
    const int64_t bottleneck = sizes_.bottleneck, hidden = sizes_.hidden, stride = sizes_.stride;
    int64_t rows[2 * kTile];
    call_.tokens.rows(begin, begin + count + ahead, rows);
    const Row* const* x = x_.read(rows, count);
    x_.ahead(rows + count, ahead, next_);
    const Row* const* z = x;
    if constexpr (std::is_same_v<T, Row>) {
      if (sizes_.inner) z = inner_.normalise(sizes_, *weights_, call_.eps, x, count);
    }
    product.dot(
        z, count, prepared_.down.data(), bottleneck, hidden, units_.pre, stride, next_.data(),
        static_cast<int64_t>(next_.size()));
    next_.clear();
    T* const kept = call_.pre.mutable_data_ptr<T>();
    for (int64_t i = 0; i < count; ++i) {
      k.add(weights_->down_bias, bottleneck, units_.pre + i * stride);
      std::copy_n(units_.pre + i * stride, bottleneck, kept + rows[i] * bottleneck);
    }
    units_.activate(sizes_, prepared_, call_.options, call_.eps, count, /*slopes=*/nullptr);
    write(x, y_.write(rows, count), count);
    y_.wrote(rows, count);
  }

 private:
  void write(const Row* const* x, Row* const* y, int64_t count) {
    if constexpr (std::is_same_v<T, Row>) {
      if (sizes_.direct) return direct_.forward(sizes_, prepared_, units_, *weights_, call_.eps, x, count, y);
    }
    products<T, Row>().accumulate(
        y, x, count, units_.basis, sizes_.stride, 1, prepared_.table.data(), sizes_.terms, sizes_.hidden);
    if constexpr (!std::is_same_v<T, Row>) write_cancelled(x, y);
  }

  // Where the columns nearly cancel, so would what is left of bfloat16 coefficients.
  void write_cancelled(const Row* const* x, Row* const* y) {
    const auto& k = loops<T>();
    for (int64_t i = 0; i < units_.cancelled_count; ++i) {
      const int64_t token = units_.cancelled[i];
      T* const row = units_.row;
      k.widen(x[token], Half::kBFloat16, row, sizes_.hidden);
      k.accumulate(
          &row, &row, 1, units_.basis + token * sizes_.stride, sizes_.stride, 1, prepared_.wide.data(), sizes_.terms,
          sizes_.hidden);
      k.narrow(row, y[token], Half::kBFloat16, sizes_.hidden);
    }
  }

  const Call& call_;
  Sizes<T> sizes_;
  std::optional<Weights<T, Row>> weights_;
  Prepared<T, Row> prepared_;
  Units<T> units_;
  Inner<T> inner_;
  DirectNorm<T> direct_;
  Rows<Row> x_, y_;
  std::vector<const Row*> next_;  // rows to fetch meanwhile
};

std::tuple<Tensor, Tensor> adapter(const AdapterArguments& arguments) {
  const Tensor& x = arguments.x;
  const AdapterParameters& parameters = arguments.parameters;
  const AdapterOptions options = check(arguments);

  const at::ScalarType dtype = accumulate_dtype(x.scalar_type());
  c10::SmallVector<int64_t, 4> sizes(x.sizes());
  const Tensor input = contiguous(x), y = at::empty(sizes, x.options());
  sizes.back() = options.bottleneck;
  const Tensor pre = at::empty(sizes, x.options().dtype(dtype));
  const Tokens tokens(x, parameters.group, options.groups);
  const AdapterWeights given = parameters.weights();
  const bool bfloat16 = reads_bfloat16(x, given, options, tokens);
  const AdapterWeights weights = readable(given, dtype, bfloat16);
  const Call call{input, y, pre, weights, options, tokens, parameters.eps};
  const auto shares = tokens.share(2 * options.hidden * options.bottleneck);
  with_numbers(dtype, bfloat16, [&](auto numbers) {
    using Types = decltype(numbers);
    each_tile<typename Types::T, Forward<typename Types::T, typename Types::Row>>(shares, call);
  });
  return {y, pre};
}

}  // namespace

TORCH_LIBRARY_IMPL(hyperloader, CPU, m) { implement<adapter>(m); }

}  // namespace hyperloader::cpu::adapter
