// Weight generation on the CPU: one pass over all heads in blocks of their outputs. A block of a head's weight is read
// once, in the backward once again for both of its products, and nothing but the results is written. In bfloat16 the
// products are the library's wherever the processor has them.
#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/zeros.h>
#include "../generate.h"
#include "workers.h"

namespace hyperloader::cpu {
namespace {

constexpr int64_t kBlock = 128;  // outputs of a head: the block of the weight, transposed, stays in the first cache

// `count` outputs of head `head`, from `begin` on.
struct Block {
  size_t head;
  int64_t begin, count;
};

std::vector<Block> blocks_of(at::TensorList weights) {
  std::vector<Block> blocks;
  for (size_t head = 0; head < weights.size(); ++head) {
    const int64_t outputs = weights[head].size(0);
    for (int64_t begin = 0; begin < outputs; begin += kBlock) {
      blocks.push_back({head, begin, std::min(kBlock, outputs - begin)});
    }
  }
  return blocks;
}

std::vector<Tensor> all_contiguous_as(at::TensorList tensors, at::ScalarType dtype) {
  std::vector<Tensor> found;
  found.reserve(tensors.size());
  for (const Tensor& tensor : tensors) found.push_back(contiguous_as(tensor, dtype));
  return found;
}

// One share of the blocks per thread, as equal as their numbers allow; blocks are of nearly one size.
int64_t shares_of(const std::vector<Block>& blocks, int64_t work) {
  constexpr int64_t kWorthAThread = int64_t{1} << 19;  // multiplications
  const int64_t most = at::in_parallel_region() ? 1 : at::get_num_threads();
  const auto count = static_cast<int64_t>(blocks.size());
  return std::clamp<int64_t>(std::min(count * work / kWorthAThread, count), 1, most);
}

// Calls work(memory, first block, last block) for every share, with `size` numbers of memory each.
template <typename T, typename Work>
void in_shares(int64_t shares, int64_t blocks, T* memory, int64_t size, const Work& work) {
  at::parallel_for(0, shares, 1, [&](int64_t begin, int64_t end) {
    for (int64_t share = begin; share < end; ++share) {
      work(memory + share * size, blocks * share / shares, blocks * (share + 1) / shares);
    }
  });
}

template <typename T>
void forward(
    const Tensor& condition, const std::vector<Tensor>& weights, const std::vector<Tensor>& biases,
    const std::vector<Tensor>& results) {
  const auto& k = loops<T>();
  const int64_t rows = condition.size(0), terms = condition.size(1);
  const T* coefficients = condition.const_data_ptr<T>();
  const std::vector<Block> blocks = blocks_of(weights);
  const int64_t shares = shares_of(blocks, rows * terms * kBlock), size = (terms + 1) * kBlock;
  const Tensor memory = memory_for<T>(shares * size);
  const auto run = [&](T* own, int64_t first, int64_t last) {
    const std::vector<T*> transposed = addresses(own, terms, kBlock);
    const std::vector<const T*> in(transposed.begin(), transposed.end());
    T* const zeros = own + terms * kBlock;
    std::fill_n(zeros, kBlock, T(0));
    std::vector<T*> out(rows);
    std::vector<const T*> from(rows);
    for (int64_t index = first; index < last; ++index) {
      const Block& block = blocks[index];
      const Tensor &weight = weights[block.head], &bias = biases[block.head], &result = results[block.head];
      k.transpose(weight.const_data_ptr<T>() + block.begin * terms, block.count, terms, transposed.data());
      from.assign(rows, bias.defined() ? bias.const_data_ptr<T>() + block.begin : zeros);
      for (int64_t row = 0; row < rows; ++row) {
        out[row] = result.mutable_data_ptr<T>() + row * weight.size(0) + block.begin;
      }
      k.accumulate(out.data(), from.data(), rows, coefficients, terms, 1, in.data(), terms, block.count);
    }
  };
  in_shares<T>(shares, static_cast<int64_t>(blocks.size()), memory.mutable_data_ptr<T>(), size, run);
}

// grad_condition = Σ over the heads of grad · weight, grad_weights[i] = gradᵀ · condition, grad_biases[i] = Σ grad.
template <typename T>
void backward(
    const std::vector<Tensor>& grads, const Tensor& condition, const std::vector<Tensor>& weights,
    const Tensor& grad_condition, const std::vector<Tensor>& grad_weights, const std::vector<Tensor>& grad_biases) {
  const auto& k = loops<T>();
  const int64_t rows = condition.size(0), terms = condition.size(1);
  const std::vector<T*> conditions = addresses(const_cast<T*>(condition.const_data_ptr<T>()), rows, terms);
  const std::vector<const T*> in(conditions.begin(), conditions.end());
  const std::vector<Block> blocks = blocks_of(weights);
  const int64_t shares = shares_of(blocks, 2 * rows * terms * kBlock);
  const int64_t sum = round_up(rows * terms, k.lanes), size = sum + round_up(rows * kBlock, k.lanes);
  const Tensor memory = memory_for<T>(shares * size);
  T* const numbers = memory.mutable_data_ptr<T>();
  const auto run = [&](T* own, int64_t first, int64_t last) {
    std::fill_n(own, rows * terms, T(0));
    const std::vector<T*> sums = addresses(own, rows, terms);
    T* const grad = own + sum;  // (rows, count) of a block
    std::vector<const T*> weight_rows(kBlock);
    std::vector<T*> to(kBlock);
    for (int64_t index = first; index < last; ++index) {
      const Block& block = blocks[index];
      const int64_t outputs = weights[block.head].size(0);
      const T* all = grads[block.head].const_data_ptr<T>() + block.begin;
      for (int64_t row = 0; row < rows; ++row) std::copy_n(all + row * outputs, block.count, grad + row * block.count);
      const T* const weight = weights[block.head].const_data_ptr<T>();
      T* const grad_weight = grad_weights[block.head].mutable_data_ptr<T>();
      for (int64_t i = 0; i < block.count; ++i) {
        weight_rows[i] = weight + (block.begin + i) * terms;
        to[i] = grad_weight + (block.begin + i) * terms;
      }
      k.accumulate(sums.data(), sums.data(), rows, grad, block.count, 1, weight_rows.data(), block.count, terms);
      k.accumulate(to.data(), nullptr, block.count, grad, 1, block.count, in.data(), rows, terms);
      if (!grad_biases[block.head].defined()) continue;
      T* bias = grad_biases[block.head].mutable_data_ptr<T>() + block.begin;
      std::fill_n(bias, block.count, T(0));
      for (int64_t row = 0; row < rows; ++row) k.add(grad + row * block.count, block.count, bias);
    }
  };
  in_shares<T>(shares, static_cast<int64_t>(blocks.size()), numbers, size, run);
  T* const total = grad_condition.mutable_data_ptr<T>();
  std::fill_n(total, rows * terms, T(0));
  for (int64_t share = 0; share < shares; ++share) k.add(numbers + share * size, rows * terms, total);
}

bool by_library(const Tensor& condition, at::TensorList weights) {
  return is_bfloat16(condition) && std::all_of(weights.begin(), weights.end(), is_bfloat16) && multiplies_bfloat16() &&
         at::globalContext().userEnabledMkldnn();
}

std::vector<Tensor> generate(const GenerateArguments& arguments) {
  check(arguments);
  const auto& [condition, weights, biases, has_bias, dtype] = arguments;
  const at::ScalarType accumulated = accumulate_dtype(condition.scalar_type());
  const at::ScalarType wanted = dtype.value_or(condition.scalar_type());
  if (wanted == at::kBFloat16 && by_library(condition, weights) && by_library(condition, biases)) {
    const WithoutAutocast dtypes_as_given;
    std::vector<Tensor> results;
    for (size_t i = 0, next = 0; i < weights.size(); ++i) {
      results.push_back(at::linear(condition, weights[i], has_bias.get(i) ? Optional(biases[next++]) : Optional()));
    }
    return results;
  }
  const Tensor rows = contiguous_as(condition, accumulated);
  std::vector<Tensor> shifts, results;
  for (size_t i = 0, next = 0; i < weights.size(); ++i) {
    shifts.push_back(has_bias.get(i) ? contiguous_as(biases[next++], accumulated) : Tensor());
    results.push_back(at::empty({condition.size(0), weights[i].size(0)}, rows.options()));
  }
  const std::vector<Tensor> heads = all_contiguous_as(weights, accumulated);
  if (accumulated == at::kDouble) {
    forward<double>(rows, heads, shifts, results);
  } else {
    forward<float>(rows, heads, shifts, results);
  }
  for (Tensor& result : results) result = as_dtype(result, wanted);
  return results;
}

std::vector<Tensor> backward_by_library(const GenerateBackwardArguments& arguments) {
  const auto& [grads, condition, weights, has_bias] = arguments;
  const WithoutAutocast dtypes_as_given;
  const Tensor sum = at::zeros(condition.sizes(), condition.options().dtype(at::kFloat));
  std::vector<Tensor> results{Tensor()};
  for (size_t i = 0; i < weights.size(); ++i) {
    sum.add_(at::mm(grads[i], weights[i]));
    results.push_back(at::mm(grads[i].t(), condition));
  }
  for (size_t i = 0; i < weights.size(); ++i) {
    if (has_bias.get(i)) results.push_back(at::sum(grads[i], 0, /*keepdim=*/false, at::kFloat));
  }
  results[0] = sum.to(at::kBFloat16);
  return results;
}

std::vector<Tensor> generate_backward(const GenerateBackwardArguments& arguments) {
  check(arguments);
  const auto& [grads, condition, weights, has_bias] = arguments;
  const at::ScalarType accumulated = accumulate_dtype(condition.scalar_type());
  if (by_library(condition, weights) && by_library(condition, grads)) return backward_by_library(arguments);
  const Tensor rows = contiguous_as(condition, accumulated);
  const Tensor grad_condition = at::empty(rows.sizes(), rows.options());
  std::vector<Tensor> grad_weights, grad_biases;
  for (size_t i = 0; i < weights.size(); ++i) {
    grad_weights.push_back(at::empty(weights[i].sizes(), rows.options()));
    grad_biases.push_back(has_bias.get(i) ? at::empty({weights[i].size(0)}, rows.options()) : Tensor());
  }
  const std::vector<Tensor> heads = all_contiguous_as(weights, accumulated),
                            given = all_contiguous_as(grads, accumulated);
  if (accumulated == at::kDouble) {
    backward<double>(given, rows, heads, grad_condition, grad_weights, grad_biases);
  } else {
    backward<float>(given, rows, heads, grad_condition, grad_weights, grad_biases);
  }
  std::vector<Tensor> results{as_dtype(grad_condition, condition.scalar_type())};
  for (size_t i = 0; i < weights.size(); ++i) results.push_back(as_dtype(grad_weights[i], weights[i].scalar_type()));
  for (size_t i = 0; i < weights.size(); ++i) {
    if (grad_biases[i].defined()) results.push_back(grad_biases[i]);
  }
  return results;
}

}  // namespace

TORCH_LIBRARY_IMPL(hyperloader, CPU, m) {
  implement<generate>(m);
  implement<generate_backward>(m);
}

}  // namespace hyperloader::cpu
