// Gradients of frozen linear layers with LoRA updates on CUDA devices. No gradient of the size of a weight is formed
// for lora_A and lora_B: only the kernels' sums over the tokens are.
//
// In half precision, where a block can hold all factors, tiles and sums (`lora_linear_resident.cuh`), x and the
// gradients are read once. Each block leaves R · (in + Σ out / layers) sums for each of the groups that it comes to,
// which are read again: worth it where tokens are more, or the sums so few that another launch takes longer. Else what
// goes through the units, of x and of all gradients, is one launch, and the sums read the same tokens once more, right
// after it and beginning with those that it read last, which the second cache still holds.
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/sum.h>

#include <numeric>

#include "lora_linear.cuh"
#include "lora_linear_resident.cuh"
#include "sums.cuh"

namespace hyperloader::cuda {
namespace {

constexpr int64_t kOfLaunch = int64_t{10} << 20;  // bytes that the second cache moves while a launch begins

struct BackwardCall {
  std::vector<Tensor> grads;
  Tensor x, grad_x;                    // grad_x is undefined where it is not wanted
  std::vector<Tensor> grad_A, grad_B;  // empty where they are not wanted
  double scaling;

  bool aligned() const {
    return rows_aligned(x) &&
           std::all_of(grads.begin(), grads.end(), [](const Tensor& g) { return rows_aligned(g); }) &&
           (!grad_x.defined() || rows_aligned(grad_x));
  }
};

// The layers, but for what a kernel leaves.
template <typename X, typename C>
LowRank<X, C> low_rank(const BackwardCall& call, const Updates& updates, const Tokens& tokens, Workspace& memory) {
  LowRank<X, C> through = updates.call<X, C>(call.x, call.scaling, memory);
  through.tokens = tokens;
  through.aligned = call.aligned();
  through.x = call.x.const_data_ptr<X>();
  for (int i = 0; i < through.count; ++i) through.of[i].grad = call.grads[i].const_data_ptr<X>();
  if (call.grad_x.defined()) {
    through.grad_x = call.grad_x.mutable_data_ptr();
    through.wide = call.grad_x.scalar_type() != call.x.scalar_type();
  }
  return through;
}

// to (rank, features), or with `transposed` (features, rank), of each group.
Reduction reduction(
    const void* from, int64_t parts, int64_t part_stride, int64_t group_stride, const int* owners, int64_t rank,
    const Tensor& to, bool transposed) {
  const int64_t features = to.size(transposed ? -2 : -1);
  return {from,      parts, part_stride, group_stride,
          owners,    rank,  features,    {to.mutable_data_ptr(), to.scalar_type()},
          transposed};
}

// The most parts that so many blocks leave: a stretch ends where a block or a sentence does.
int64_t most_parts(const Tokens& tokens, int64_t blocks) {
  const int64_t tiles = tokens.tiles();
  const int64_t share = std::lcm(tiles / blocks, tokens.tiles_of_sentence);  // where both do
  return blocks + tokens.sentences - (tiles % blocks == 0 ? tiles / share : 1);
}

// As many blocks as leave parts that are worth it, half of those that could run at least; 0 where there are none.
int64_t blocks_for(const Tokens& tokens, int64_t width, const LowRankRoom& room, int64_t number_bytes) {
  const int64_t most = std::min(tokens.tiles(), multiprocessors());
  const int64_t read_again = tokens.all() * width * number_bytes;
  for (int64_t blocks = most; 2 * blocks >= most && blocks > 0; --blocks) {
    const int64_t moved = 2 * most_parts(tokens, blocks) * room.part * static_cast<int64_t>(sizeof(float));
    if (moved <= read_again + kOfLaunch) return blocks;
  }
  return 0;
}

// All gradients in one launch and the sum of what its blocks leave, or false where that is not to be had or not worth
// it.
template <typename X>
bool backward_at_once(const BackwardCall& call, const Updates& updates, const Tokens& tokens) {
  if (call.grad_A.empty() || call.grad_B.empty() || !call.grad_x.defined() || !call.aligned()) return false;
  if (call.grad_x.scalar_type() != call.x.scalar_type()) return false;
  const int64_t in_features = call.x.size(-1);
  const LowRankRoom room = LowRankRoom::of<X>(updates, call.grads, in_features);
  if (room.stages == 0) return false;
  int64_t width = in_features;
  for (const Tensor& grad : call.grads) width += grad.size(-1);
  const int64_t blocks = blocks_for(tokens, width, room, sizeof(X)), places = blocks + tokens.sentences;
  if (blocks == 0) return false;

  Workspace memory;
  const auto sums = memory.reserve<float>(places * room.part);
  const auto owners = memory.reserve<int>(places);
  const LowRank<X, X> through = low_rank<X, X>(call, updates, tokens, memory);
  launch(
      resident_low_rank_kernel<X>, dim3(blocks), dim3(kThreads), room.bytes(), through, room,
      LowRankParts{memory[sums], memory[owners]});

  Reductions reductions;
  reductions.groups = tokens.groups;
  for (int i = 0; i < through.count; ++i) {
    const float *const A = memory[sums] + through.of[i].first * in_features, *const B = memory[sums] + room.B_part[i];
    const int64_t rank = updates.rank(i);
    reductions.add(reduction(A, places, room.part, 0, memory[owners], rank, call.grad_A[i], false));
    reductions.add(reduction(B, places, room.part, 0, memory[owners], rank, call.grad_B[i], true));
  }
  reduce<float>(reductions);
  return true;
}

template <typename X, typename C>
void backward(const BackwardCall& call, const Updates& updates, const Optional& group) {
  using S = Sum<X>;
  const Tokens tokens = tokens_of(call.x, group, updates.groups());
  if constexpr (kIsHalf<C>) {
    if (backward_at_once<X>(call, updates, tokens)) return;
  }
  const int64_t in_features = call.x.size(-1), layers = call.grads.size(), units = updates.units();
  const int64_t count = tokens.all();
  const bool wants_A = !call.grad_A.empty(), wants_B = !call.grad_B.empty(), wants_x = call.grad_x.defined();
  int64_t blocks = wants_A ? sum_blocks(units, in_features) : 0;
  for (int64_t i = 0; wants_B && i < layers; ++i) {
    blocks += sum_blocks(padded_units(updates.rank(i)), call.grads[i].size(-1));
  }
  const int64_t splits = sum_splits(tokens, blocks);

  Workspace memory;
  const auto shrunk = memory.reserve<C>(wants_B ? count * units : 0);
  const auto shrunk_grad = memory.reserve<C>(wants_A ? count * units : 0);
  const auto A_parts = memory.reserve<S>(wants_A ? updates.groups() * splits * units * in_features : 0);
  std::vector<Workspace::Place<S>> B_parts;
  for (int64_t i = 0; i < layers; ++i) {
    const int64_t numbers = padded_units(updates.rank(i)) * call.grads[i].size(-1);
    B_parts.push_back(memory.reserve<S>(wants_B ? updates.groups() * splits * numbers : 0));
  }
  LowRank<X, C> through = low_rank<X, C>(call, updates, tokens, memory);
  through.reads_x = wants_B;
  through.reads_grads = wants_x || wants_A;
  through.shrunk = wants_B ? memory[shrunk] : nullptr;
  through.shrunk_grad = wants_A ? memory[shrunk_grad] : nullptr;
  run_low_rank(through);
  if (!wants_A && !wants_B) return;

  UnitSums<X, C> sums{};
  sums.tokens = tokens;
  sums.stride = units;
  sums.splits = splits;
  sums.aligned = through.aligned;
  Reductions reductions;
  reductions.groups = tokens.groups;
  const auto add = [&](const S* from, int64_t all, int64_t rank, const Tensor& to, bool transposed) {
    const int64_t part = all * to.size(transposed ? -2 : -1);
    reductions.add(reduction(from, splits, part, splits * part, nullptr, rank, to, transposed));
  };
  if (wants_A) sums.of[sums.count++] = {through.shrunk_grad, units, through.x, in_features, memory[A_parts]};
  for (int64_t i = 0; i < layers; ++i) {
    const Projection<X, C>& layer = through.of[i];
    const int64_t rank = updates.rank(i);
    if (wants_A) add(memory[A_parts] + layer.first * in_features, units, rank, call.grad_A[i], false);
    if (wants_B) {
      sums.of[sums.count++] = {through.shrunk + layer.first, layer.units, layer.grad, layer.out, memory[B_parts[i]]};
      add(memory[B_parts[i]], layer.units, rank, call.grad_B[i], true);
    }
  }
  sum_units(sums);
  reduce<S>(reductions);
}

std::vector<Tensor> lora_linears_backward(const LoraLinearsBackwardArguments& arguments) {
  const int64_t groups = check(arguments);
  const LoraNeeded needed = LoraNeeded::from(arguments.needed);
  const Tensor& x = arguments.x;
  const at::TensorList weights = arguments.weights, lora_A = arguments.lora_A, lora_B = arguments.lora_B;
  const Guard device(x.device());
  const WithoutAutocast dtypes_as_given;
  const at::ScalarType dtype = product_dtype(x, weights[0]), sums = accumulate_dtype(x.scalar_type());
  const Tensor input = x.contiguous();
  std::vector<Tensor> grads, grad_A, grad_B;  // grad_A and grad_B are empty where they are not wanted
  for (const Tensor& grad : arguments.grads) grads.push_back(grad.contiguous());
  for (const Tensor& factor : lora_A) {
    if (needed.lora_A) grad_A.push_back(at::empty(factor.sizes(), factor.options()));
  }
  for (const Tensor& factor : lora_B) {
    if (needed.lora_B) grad_B.push_back(at::empty(factor.sizes(), factor.options()));
  }

  const Optional group = contiguous(arguments.group);
  Tensor grad_x;
  const bool low_rank = needed.x || needed.lora_A || needed.lora_B;
  for (size_t begin = 0; low_rank && begin < weights.size(); begin += kProjections) {
    const size_t count = std::min<size_t>(kProjections, weights.size() - begin);
    const Updates updates(lora_A.slice(begin, count), lora_B.slice(begin, count), group.has_value(), groups);
    const auto part = [&](const std::vector<Tensor>& all) {
      return all.empty() ? all : std::vector<Tensor>(all.begin() + begin, all.begin() + begin + count);
    };
    Tensor through;
    if (needed.x) through = at::empty(as_matrix(input).sizes(), x.options().dtype(dtype));
    const BackwardCall call{part(grads), input, through, part(grad_A), part(grad_B), arguments.scaling};
    with_types(x.scalar_type(), updates.same_dtypes(x), [&](auto types) {
      backward<typename decltype(types)::X, typename decltype(types)::C>(call, updates, group);
    });
    if (needed.x) grad_x = begin == 0 ? through : grad_x.add_(through);
  }

  std::vector<Tensor> results;
  if (needed.x) {  // what went through the updates, and the frozen products added to it
    for (size_t i = 0; i < weights.size(); ++i) grad_x.addmm_(as_matrix(grads[i].to(dtype)), weights[i]);
    results.push_back(grad_x.to(x.scalar_type()).view(x.sizes()));
  }
  for (size_t i = 0; needed.weights && i < weights.size(); ++i) {
    const Tensor product = at::mm(as_matrix(grads[i].to(dtype)).t(), as_matrix(input.to(dtype)));
    results.push_back(product.to(weights[i].scalar_type()));
  }
  for (size_t i = 0; needed.biases && i < weights.size(); ++i) {  // in its own dtype, which may have more digits
    results.push_back(as_matrix(grads[i]).sum(0, /*keepdim=*/false, sums));
  }
  results.insert(results.end(), grad_A.begin(), grad_A.end());
  results.insert(results.end(), grad_B.begin(), grad_B.end());
  return results;
}

}  // namespace

TORCH_LIBRARY_IMPL(hyperloader, CUDA, m) { implement<lora_linears_backward>(m); }

}  // namespace hyperloader::cuda
