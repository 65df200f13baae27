// Gradients of the bottleneck adapter on CUDA devices, in four launches: the weights are laid out; the tokens; sums
// over them; what the weights' gradients are of those sums.
#include "adapter_backward_resident.cuh"
#include "adapter_backward_streamed.cuh"
#include "adapter_finish.cuh"

#include <ATen/ops/native_layer_norm.h>
#include <ATen/ops/native_layer_norm_backward.h>

namespace hyperloader::cuda {
namespace {

struct Call {
  Tensor grad, x, z, pre, grad_x;
  const AdapterWeights &weights, &grads;
  const AdapterOptions& options;
  const Optional& group;
  double eps;
};

// Where asynchronous copies of whole 16 bytes can fetch the tokens, and the weights fit into shared memory.
template <typename X>
std::optional<BackwardRoom> resident_room(const Call& call, bool aligned) {
  constexpr int64_t kTogether = 16 / sizeof(float);
  const auto [hidden, bottleneck, groups, norm, activation] = call.options;
  if (!aligned || !rows_aligned(call.pre.const_data_ptr<float>(), bottleneck)) return std::nullopt;
  const BackwardRoom room = BackwardRoom::of<X>(hidden, bottleneck);
  return room.stages > 0 ? std::optional(room) : std::nullopt;
}

// How a block comes by its weights: with room for them they stay in shared memory, of `tall` tiles they pass through
// it, else its lanes read them.
struct Way {
  std::optional<BackwardRoom> room;
  int tall = 0;

  bool blocked() const { return room || tall > 0; }
};

template <typename X, typename C>
Way way_of(const Call& call, const Tokens& tokens, bool aligned) {
  Way way;
  if constexpr (kIsHalf<C>) {
    way.room = resident_room<X>(call, aligned);
    if (!way.room && aligned) way.tall = streamed_backward_tiles<C>(tokens, call.options);
  }
  return way;
}

template <typename X, typename C>
void tokens_backward(const Call& call, const Backward<X, C>& backward, const Way& way) {
  const bool outer = has_outer(call.options.norm);
  const int64_t tiles = backward.tokens.tiles();
  if constexpr (kIsHalf<C>) {
    if (way.room) {
      const auto kernel = outer ? resident_backward_kernel<X, true> : resident_backward_kernel<X, false>;
      const int64_t blocks = tiles == 0 ? 0 : std::min(tiles, blocks_at_once(kernel, kThreads, way.room->bytes()));
      return launch(kernel, dim3(blocks), dim3(kThreads), way.room->bytes(), backward, *way.room);
    }
    if (way.tall > 0) return run_streamed(backward, way.tall, outer);
  }
  const auto kernel = outer ? adapter_backward_kernel<X, C, true> : adapter_backward_kernel<X, C, false>;
  launch(kernel, dim3(tiles), dim3(kThreads), shared_bytes<Sum<X>, C>(call.options.bottleneck), backward);
}

template <typename X, typename C>
void run(const Call& call) {
  using S = Sum<X>;
  const int64_t hidden = call.options.hidden, bottleneck = call.options.bottleneck, groups = call.options.groups;
  const bool outer = has_outer(call.options.norm), inner = has_inner(call.options.norm);
  const bool grouped = call.group.has_value();
  const FewNumbers places(bottleneck, outer);
  Backward<X, C> backward{
      tokens_of(call.x, call.group, groups),
      /*aligned=*/false,
      /*residual=*/!inner,
      {},
      call.options.activation,
      static_cast<S>(call.eps),
      call.grad.const_data_ptr<X>(),
      call.pre.const_data_ptr<S>(),
      call.grad_x.mutable_data_ptr<X>(),
      nullptr,
      nullptr,
      places};
  backward.aligned = rows_aligned(backward.grad, hidden) && rows_aligned(backward.grad_x, hidden);
  const Tokens& tokens = backward.tokens;
  const Way way = way_of<X, C>(call, tokens, backward.aligned);
  const int64_t count = tokens.sentences * tokens.tokens;
  const int64_t blocks =
      sum_blocks(places.weighted, hidden) + sum_blocks(places.units, hidden) + sum_blocks(places.basis, places.units);
  const int64_t splits = sum_splits(tokens, blocks), parts = groups * splits;
  Workspace memory;
  const AdapterLayout<S, C> layout(call.options, Direction::kBackward, way.blocked(), memory);
  const auto few = memory.reserve<C>(count * places.width);
  const auto basis = memory.reserve<X>(count * places.units);
  const auto down_parts = memory.reserve<S>(parts * places.weighted * hidden);
  const auto up_parts = memory.reserve<S>(parts * places.units * hidden);
  const auto few_parts = memory.reserve<S>(parts * places.basis * places.units);
  memory.allocate(call.x);
  backward.weights = layout.lay_out(call.weights, grouped, memory);
  backward.few = memory[few];
  backward.basis = memory[basis];
  tokens_backward(call, backward, way);

  UnitSums<X, C> sums{};
  sums.tokens = tokens;
  sums.stride = places.width;
  sums.splits = splits;
  sums.aligned = true;
  const auto add = [&](int64_t begin, int64_t number, const X* numbers, int64_t width, S* parts) {
    sums.of[sums.count++] = {memory[few] + begin, number, numbers, width, parts};
    sums.aligned &= rows_aligned(numbers, width);
  };
  add(0, places.weighted, call.z.const_data_ptr<X>(), hidden, memory[down_parts]);
  add(places.basis, places.units, backward.grad, hidden, memory[up_parts]);
  add(0, places.basis, memory[basis], places.units, memory[few_parts]);
  sum_units(sums);

  AdapterWeights grads = call.grads;
  Finish<S> finish{
      GivenAdapter(call.weights, call.options, grouped),
      hidden,
      bottleneck,
      splits,
      outer,
      inner,
      places,
      memory[down_parts],
      memory[up_parts],
      memory[few_parts],
      backward.weights.centred};
  finish.down = results(grads.down_weight);
  finish.down_bias = results(grads.down_bias);
  finish.up = results(grads.up_weight);
  finish.up_bias = results(grads.up_bias);
  if (outer) {
    finish.norms[0] = results(grads.norm_weight);
    finish.norms[1] = results(grads.norm_bias);
  }
  if (inner) {
    const auto [weight, bias] = grads.inner_norm(call.options.norm);
    finish.norms[2] = results(weight);
    finish.norms[3] = results(bias);
  }
  cuda::finish(finish, groups);
}

std::vector<Tensor> adapter_backward(const AdapterBackwardArguments& arguments) {
  const Tensor& x = arguments.x;
  const AdapterParameters& parameters = arguments.parameters;
  const AdapterOptions options = check(arguments);
  const AdapterWeights weights = parameters.weights();
  const Guard device(x.device());
  const WithoutAutocast dtypes_as_given;

  const Tensor input = x.contiguous(), grad = arguments.grad.contiguous(), pre = arguments.pre.contiguous();
  const Optional group = contiguous(parameters.group);
  AdapterWeights grads = weights.map([](const Tensor& weight) { return at::empty(weight.sizes(), weight.options()); });
  Tensor grad_x = at::empty(x.sizes(), x.options()), z = input, mean, rstd;
  const bool inner = has_inner(options.norm);
  if (inner) std::tie(z, mean, rstd) = at::native_layer_norm(input, {options.hidden}, {}, {}, parameters.eps);
  const Call call{grad, input, z, pre, grad_x, weights, grads, options, group, parameters.eps};
  with_types(x.scalar_type(), same_dtypes(x, weights), [&](auto types) {
    run<typename decltype(types)::X, typename decltype(types)::C>(call);
  });
  if (inner) {
    grad_x = std::get<0>(
        at::native_layer_norm_backward(grad_x, input, {options.hidden}, mean, rstd, {}, {}, {true, false, false}));
    grad_x.add_(grad);
  }

  std::vector<Tensor> results{grad_x};
  for (Tensor* found : grads.all()) {
    if (found->defined()) results.push_back(*found);
  }
  return results;
}

}  // namespace

TORCH_LIBRARY_IMPL(hyperloader, CUDA, m) { implement<adapter_backward>(m); }

}  // namespace hyperloader::cuda
