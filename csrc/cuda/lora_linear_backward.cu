// Gradients of frozen linear layers with LoRA updates on CUDA devices. No gradient of the size of a weight is formed
// for lora_A and lora_B: only the kernels' sums over the tokens are.
#include <ATen/ops/mm.h>
#include <ATen/ops/sum.h>

#include "lora_linear.cuh"
#include "sums.cuh"

namespace hyperloader::cuda {
namespace {

struct BackwardCall {
  std::vector<Tensor> grads;
  Tensor x, frozen, grad_x;            // the latter two undefined where the gradient of x is not wanted
  std::vector<Tensor> grad_A, grad_B;  // empty where they are not wanted
  double scaling;
};

template <typename X, typename C>
void backward(const BackwardCall& call, const Updates& updates, const Optional& group) {
  using S = Sum<X>;
  const Tokens tokens = tokens_of(call.x, group, updates.groups);
  const bool wants_A = !call.grad_A.empty(), wants_B = !call.grad_B.empty(), wants_x = call.grad_x.defined();
  const int64_t thin = updates.thin(), rank = updates.rank(), groups = updates.groups, in_features = call.x.size(-1);
  const int64_t count = tokens.sentences * tokens.tokens, padded_in = padded(in_features);
  int64_t results = wants_A ? thin * padded_in : 0;
  for (size_t i = 0; wants_B && i < updates.size(); ++i) {
    results += padded(updates.A[i].size(-2)) * padded(updates.B[i].size(-2));
  }
  const int64_t splits = splits_for(tokens, results);

  Workspace memory;
  const auto A = memory.reserve<C>(wants_B ? groups * thin * padded_in : 0);
  const auto A_transposed = memory.reserve<C>(wants_x ? groups * thin * padded_in : 0);
  const auto shrunk = memory.reserve<S>(wants_B ? count * rank : 0);
  const auto shrunk_grad = memory.reserve<S>(wants_A ? count * rank : 0);
  const auto A_parts = memory.reserve<S>(wants_A ? groups * splits * rank * in_features : 0);
  std::vector<Workspace::Place<C>> B;
  std::vector<Workspace::Place<S>> B_parts;
  for (size_t i = 0; i < updates.size(); ++i) {
    const int64_t out_features = updates.B[i].size(-2);
    B.push_back(memory.reserve<C>(wants_x || wants_A ? groups * thin * padded(out_features) : 0));
    B_parts.push_back(memory.reserve<S>(wants_B ? groups * splits * updates.A[i].size(-2) * out_features : 0));
  }
  memory.allocate(call.x);

  Layouts layouts;
  if (wants_B) updates.lay_out_A(layouts, memory[A], /*transposed=*/false);
  if (wants_x) updates.lay_out_A(layouts, memory[A_transposed], /*transposed=*/true);
  for (size_t i = 0; (wants_x || wants_A) && i < updates.size(); ++i) {
    updates.lay_out_B(layouts, i, memory[B[i]], /*transposed=*/true);
  }
  lay_out<C>(layouts, groups);

  LowRank<X, C> through{};  // grads to the units, and on to x
  through.tokens = tokens;
  through.rank = rank;
  through.scaling = static_cast<S>(call.scaling);
  LowRank<X, C> again = through;  // x to the units
  if (wants_x || wants_A) {
    for (size_t i = 0; i < updates.size(); ++i) {
      through.from[through.from_count++] = operand_side<X, C>(call.grads[i], updates.B[i].size(-2), memory[B[i]]);
    }
    if (wants_x) {
      through.to[through.to_count++] = result_side<X, C>(call.frozen, call.grad_x, in_features, memory[A_transposed]);
    }
    through.shrunk = wants_A ? memory[shrunk_grad] : nullptr;
    run_low_rank(through);
  }
  if (wants_B) {
    again.from[again.from_count++] = operand_side<X, C>(call.x, in_features, memory[A]);
    again.shrunk = memory[shrunk];
    run_low_rank(again);
  }
  if (!wants_A && !wants_B) return;

  TokenProducts<X> products;
  Reductions reductions;
  products.tokens = reductions.tokens = tokens;
  products.splits = splits;
  const auto add = [&](const S* units, int64_t width_of_units, const Tensor& x, int64_t width, S* parts) {
    const X* const numbers = x.const_data_ptr<X>();
    products.add({units, rank, width_of_units, numbers, width, rows_aligned(numbers, width), parts});
  };
  const auto finish = [&](const S* parts, int64_t all, int64_t rows, int64_t columns, const Tensor& grad, bool turned) {
    const int64_t size = all * columns;
    reductions.add(
        {parts,
         splits,
         size,
         splits * size,
         false,
         rows,
         columns,
         {grad.mutable_data_ptr(), grad.scalar_type()},
         turned});
  };
  if (wants_A) add(memory[shrunk_grad], rank, call.x, in_features, memory[A_parts]);
  for (size_t i = 0; i < updates.size(); ++i) {
    const int64_t own = updates.A[i].size(-2), out_features = updates.B[i].size(-2);
    if (wants_A) {
      finish(memory[A_parts] + updates.begin[i] * in_features, rank, own, in_features, call.grad_A[i], false);
    }
    if (!wants_B) continue;
    add(memory[shrunk] + updates.begin[i], own, call.grads[i], out_features, memory[B_parts[i]]);
    finish(memory[B_parts[i]], own, own, out_features, call.grad_B[i], true);
  }
  sum_products<X, C>(products);
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
  std::vector<Tensor> grads, results;
  for (const Tensor& grad : arguments.grads) grads.push_back(grad.contiguous());

  Tensor frozen, grad_x;  // Σ grad · weight, and with the updates
  if (needed.x) {
    frozen = at::mm(as_matrix(grads[0].to(dtype)), weights[0]);
    for (size_t i = 1; i < weights.size(); ++i) frozen.addmm_(as_matrix(grads[i].to(dtype)), weights[i]);
    frozen = frozen.view(x.sizes());
    grad_x = dtype == x.scalar_type() ? frozen : at::empty(x.sizes(), x.options());
    results.push_back(grad_x);
  }
  for (size_t i = 0; needed.weights && i < weights.size(); ++i) {
    const Tensor product = at::mm(as_matrix(grads[i].to(dtype)).t(), as_matrix(input.to(dtype)));
    results.push_back(product.to(weights[i].scalar_type()));
  }
  for (size_t i = 0; needed.biases && i < weights.size(); ++i) {  // in its own dtype, which may have more digits
    results.push_back(as_matrix(grads[i]).sum(0, /*keepdim=*/false, sums));
  }
  std::vector<Tensor> grad_A, grad_B;  // without entries where they are not wanted
  for (size_t i = 0; needed.lora_A && i < weights.size(); ++i)
    grad_A.push_back(at::empty(lora_A[i].sizes(), lora_A[i].options()));
  for (size_t i = 0; needed.lora_B && i < weights.size(); ++i)
    grad_B.push_back(at::empty(lora_B[i].sizes(), lora_B[i].options()));

  const Optional group = contiguous(arguments.group);
  for (size_t begin = 0; begin < weights.size(); begin += kProjections) {
    const size_t count = std::min<size_t>(kProjections, weights.size() - begin);
    const Updates updates(lora_A.slice(begin, count), lora_B.slice(begin, count), group.has_value(), groups);
    const auto part = [&](const std::vector<Tensor>& all) {
      return all.empty() ? all : std::vector<Tensor>(all.begin() + begin, all.begin() + begin + count);
    };
    const BackwardCall call{part(grads), input, frozen, grad_x, part(grad_A), part(grad_B), arguments.scaling};
    with_types(x.scalar_type(), updates.same_dtypes(x), [&](auto types) {
      backward<typename decltype(types)::X, typename decltype(types)::C>(call, updates, group);
    });
    frozen = grad_x;  // the next updates are added to it
  }
  results.insert(results.end(), grad_A.begin(), grad_A.end());
  results.insert(results.end(), grad_B.begin(), grad_B.end());
  return results;
}

}  // namespace

TORCH_LIBRARY_IMPL(hyperloader, CUDA, m) { implement<lora_linears_backward>(m); }

}  // namespace hyperloader::cuda
