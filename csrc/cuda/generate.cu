// Weight generation on CUDA devices: all heads in one launch, their tensors in a table among the kernel's arguments.
// Weights are read, and results written, in their own dtypes; sums are taken in float32 (float64 for float64).
#include "../generate.h"
#include "products.cuh"
#include "sums.cuh"
#include "workspace.h"

namespace hyperloader::cuda {
namespace {

constexpr int kHeads = 48;  // of one launch

struct Head {
  AnyNumbers weight, given;  // (outputs, terms); the bias, in the backward the gradient (rows, outputs)
  AnyResults result, bias;   // (rows, outputs), in the backward the weight's gradient, and its bias's
  int64_t outputs;
  int64_t first;  // of its blocks of 64 outputs
};

struct Heads {
  Head of[kHeads];
  int count = 0;
  int64_t blocks = 0;
  int64_t rows, terms;
  AnyNumbers condition;

  void add(Head head) {
    head.first = blocks;
    blocks += (head.outputs + kColumnsOfProduct - 1) / kColumnsOfProduct;
    of[count++] = head;
  }

  // The head of a block of outputs.
  __device__ const Head& find(int64_t block) const {
    int low = 0, high = count - 1;
    while (low < high) {
      const int middle = (low + high + 1) / 2;
      if (of[middle].first <= block) {
        low = middle;
      } else {
        high = middle - 1;
      }
    }
    return of[low];
  }
};

template <typename S>
__device__ __forceinline__ S
number(const AnyNumbers& matrix, int64_t row, int64_t rows, int64_t column, int64_t columns) {
  return row < rows && column < columns ? matrix.load<S>(row * columns + column) : S(0);
}

template <typename S, int kRows>
__global__ void __launch_bounds__(kProductThreads, 2) generate_kernel(const __grid_constant__ Heads heads) {
  __shared__ typename Product<S, kRows>::Memory memory;
  const Head& head = heads.find(blockIdx.x);
  const int64_t output = (blockIdx.x - head.first) * kColumnsOfProduct, first = int64_t(blockIdx.y) * 16 * kRows;
  Product<S, kRows> product;
  product.template add<true, true>(
      memory, heads.terms,
      [&](int row, int64_t term) { return number<S>(heads.condition, first + row, heads.rows, term, heads.terms); },
      [&](int column, int64_t term) {
        return number<S>(head.weight, output + column, head.outputs, term, heads.terms);
      });
  product.each([&](int row, int column, S sum) {
    const int64_t at_row = first + row, at = output + column;
    if (at_row >= heads.rows || at >= head.outputs) return;
    if (head.given.data != nullptr) sum += head.given.load<S>(at);
    head.result.store<S>(at_row * head.outputs + at, sum);
  });
}

// Gradients of the weights and biases: 64 outputs of a head and 64 terms a block.
template <typename S>
__global__ void __launch_bounds__(kProductThreads, 2) generate_weights_kernel(const __grid_constant__ Heads heads) {
  __shared__ typename Product<S, 4>::Memory memory;
  const Head& head = heads.find(blockIdx.x);
  const int64_t output = (blockIdx.x - head.first) * kColumnsOfProduct;
  const int64_t term = int64_t(blockIdx.y) * kColumnsOfProduct;
  Product<S, 4> product;
  product.template add<false, false>(
      memory, heads.rows,
      [&](int at, int64_t row) { return number<S>(head.given, row, heads.rows, output + at, head.outputs); },
      [&](int at, int64_t row) { return number<S>(heads.condition, row, heads.rows, term + at, heads.terms); });
  product.each([&](int at, int column, S sum) {
    if (output + at < head.outputs && term + column < heads.terms) {
      head.result.store<S>((output + at) * heads.terms + term + column, sum);
    }
  });
  if (blockIdx.y != 0 || head.bias.data == nullptr) return;
  constexpr int kShares = kProductThreads / kColumnsOfProduct;
  __shared__ S shares[kShares][kColumnsOfProduct];
  const int at = threadIdx.x % kColumnsOfProduct, share = threadIdx.x / kColumnsOfProduct;
  S sum = 0;
  for (int64_t row = share; row < heads.rows; row += kShares) {
    sum += number<S>(head.given, row, heads.rows, output + at, head.outputs);
  }
  shares[share][at] = sum;
  __syncthreads();
  if (share != 0 || output + at >= head.outputs) return;
#pragma unroll
  for (int other = 1; other < kShares; ++other) sum += shares[other][at];
  head.bias.store<S>(output + at, sum);
}

// parts[split] (rows, terms): the part of the condition's gradient that comes through a share of all outputs.
template <typename S, int kRows>
__global__ void __launch_bounds__(kProductThreads, 2)
    generate_condition_kernel(const __grid_constant__ Heads heads, S* parts) {
  __shared__ typename Product<S, kRows>::Memory memory;
  const int64_t term = int64_t(blockIdx.y) * kColumnsOfProduct, first = int64_t(blockIdx.z) * 16 * kRows;
  const int64_t split = blockIdx.x, splits = gridDim.x, last = heads.blocks * (split + 1) / splits;
  Product<S, kRows> product;
  for (int64_t block = heads.blocks * split / splits; block < last; ++block) {
    const Head& head = heads.find(block);
    const int64_t output = (block - head.first) * kColumnsOfProduct;
    product.template add<true, false>(
        memory, kColumnsOfProduct,
        [&](int row, int64_t at) { return number<S>(head.given, first + row, heads.rows, output + at, head.outputs); },
        [&](int column, int64_t at) {
          return number<S>(head.weight, output + at, head.outputs, term + column, heads.terms);
        });
  }
  product.each([&](int row, int column, S sum) {
    if (first + row < heads.rows && term + column < heads.terms) {
      parts[(split * heads.rows + first + row) * heads.terms + term + column] = sum;
    }
  });
}

AnyNumbers from(const Tensor& tensor) { return {tensor.const_data_ptr(), tensor.scalar_type()}; }
AnyResults to(const Tensor& tensor) { return {tensor.mutable_data_ptr(), tensor.scalar_type()}; }

int64_t blocks_of(int64_t size, int64_t block) { return (size + block - 1) / block; }

Heads heads_of(const Tensor& condition) {
  Heads heads{};
  heads.condition = from(condition);
  heads.rows = condition.size(0);
  heads.terms = condition.size(1);
  return heads;
}

bool is_low(int64_t rows) { return rows <= 32; }  // half of a tall block would multiply zeros

template <typename S>
void forward(const Heads& heads) {
  if (heads.rows == 0) return;
  if (is_low(heads.rows)) {
    launch(generate_kernel<S, 2>, dim3(heads.blocks, 1), dim3(kProductThreads), 0, heads);
  } else {
    launch(generate_kernel<S, 4>, dim3(heads.blocks, blocks_of(heads.rows, 64)), dim3(kProductThreads), 0, heads);
  }
}

std::vector<Tensor> generate(const GenerateArguments& arguments) {
  check(arguments);
  const auto& [condition, weights, biases, has_bias, dtype] = arguments;
  const Guard device(condition.device());
  const Tensor rows = condition.contiguous();
  const auto options = condition.options().dtype(dtype.value_or(condition.scalar_type()));
  std::vector<Tensor> results, kept;  // kept: contiguous copies, until they are used
  for (size_t begin = 0, next = 0; begin < weights.size(); begin += kHeads) {
    Heads heads = heads_of(rows);
    for (size_t i = begin; i < std::min(weights.size(), begin + kHeads); ++i) {
      kept.push_back(weights[i].contiguous());
      results.push_back(at::empty({condition.size(0), weights[i].size(0)}, options));
      Head head{};
      head.weight = from(kept.back());
      if (has_bias.get(i)) {
        kept.push_back(biases[next++].contiguous());
        head.given = from(kept.back());
      }
      head.result = to(results.back());
      head.outputs = weights[i].size(0);
      heads.add(head);
    }
    condition.scalar_type() == at::kDouble ? forward<double>(heads) : forward<float>(heads);
  }
  return results;
}

// The gradient of the condition, of which the heads of one launch make `splits` parts.
template <typename S>
void backward(const std::vector<Heads>& launches, const Tensor& grad_condition) {
  constexpr int64_t kBlocks = 512;  // in flight on a GPU
  const int64_t rows = grad_condition.size(0), terms = grad_condition.size(1);
  const int64_t height = is_low(rows) ? 32 : 64;
  const int64_t columns = blocks_of(terms, kColumnsOfProduct), tiles = blocks_of(rows, height);
  std::vector<int64_t> splits;
  int64_t all = 0;
  for (const Heads& heads : launches) {
    splits.push_back(std::min(heads.blocks, std::max<int64_t>(kBlocks / std::max<int64_t>(columns * tiles, 1), 1)));
    all += splits.back();
  }
  Workspace memory;
  const auto parts = memory.reserve<S>(all * rows * terms);
  memory.allocate(grad_condition);
  S* part = memory[parts];
  for (size_t i = 0; i < launches.size(); ++i) {
    launch(generate_weights_kernel<S>, dim3(launches[i].blocks, columns), dim3(kProductThreads), 0, launches[i]);
    const auto kernel = is_low(rows) ? generate_condition_kernel<S, 2> : generate_condition_kernel<S, 4>;
    launch(kernel, dim3(splits[i], columns, tiles), dim3(kProductThreads), 0, launches[i], part);
    part += splits[i] * rows * terms;
  }
  Reductions reductions;
  reductions.tokens = Tokens{1, 0, nullptr, 1, 0};
  reductions.add({memory[parts], all, rows * terms, 0, false, rows, terms, to(grad_condition), false});
  reduce<S>(reductions);
}

std::vector<Tensor> generate_backward(const GenerateBackwardArguments& arguments) {
  check(arguments);
  const auto& [grads, condition, weights, has_bias] = arguments;
  const Guard device(condition.device());
  const Tensor rows = condition.contiguous();
  std::vector<Tensor> results{at::empty(condition.sizes(), condition.options())}, biases, kept;
  const auto sums = condition.options().dtype(accumulate_dtype(condition.scalar_type()));
  std::vector<Heads> launches;
  for (size_t i = 0; i < weights.size(); ++i) {
    if (i % kHeads == 0) launches.push_back(heads_of(rows));
    kept.push_back(weights[i].contiguous());
    Head head{};
    head.weight = from(kept.back());
    kept.push_back(grads[i].contiguous());
    head.given = from(kept.back());
    results.push_back(at::empty(weights[i].sizes(), weights[i].options()));
    head.result = to(results.back());
    if (has_bias.get(i)) {
      biases.push_back(at::empty({weights[i].size(0)}, sums));
      head.bias = to(biases.back());
    }
    head.outputs = weights[i].size(0);
    launches.back().add(head);
  }
  condition.scalar_type() == at::kDouble ? backward<double>(launches, results[0])
                                         : backward<float>(launches, results[0]);
  results.insert(results.end(), biases.begin(), biases.end());
  return results;
}

}  // namespace

TORCH_LIBRARY_IMPL(hyperloader, CUDA, m) {
  implement<generate>(m);
  implement<generate_backward>(m);
}

}  // namespace hyperloader::cuda
