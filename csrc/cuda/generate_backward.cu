// Gradients of weight generation on CUDA devices: of the weights, the biases and the conditions from one read of the
// results' gradients and of the weights, and a second launch that adds up the parts of the conditions' gradient.
//
// A block takes a share of all heads' outputs, 64 at a time, with 64 terms: their gradients, weights and conditions lie
// in shared memory, where a thread multiplies four outputs with four terms for the weights' gradient, and one row or
// two to four with four terms for the conditions', which it keeps in registers to its last output. Rows beyond 64 are
// taken in turn, and what they sum to so far waits in the block's part: there the products take longer than that. With
// O outputs of all heads, R rows, T terms, p bytes a parameter and b a gradient, beside S = min(O / 64, 264) shares:
//
//     memory               p · O · (2 T + 1) + b · R · O · T / 64, and 4 · S · R · T written and read again
//     second cache         the same, and p · R · T for each share; with more than 64 rows p · R · T · O / 64, and
//                          8 · R · T · O / 64 for the sums that wait
//     multiply-adds        (R + R in steps of 32) · O · T
//     shared memory        4.25 bytes a multiply-add for 32 rows, 3 for 64
//     launches             1 for every 48 heads, and 1
#include "generate.cuh"
#include "sums.cuh"
#include "workspace.h"

namespace hyperloader::cuda {
namespace {

constexpr int kTerms = 64;

// kHeight rows of 64 numbers in shared memory, the next row in other banks.
template <typename S, int kHeight>
struct Part {
  static constexpr int kStride = 64 + 16 / sizeof(S);

  S (*rows)[kStride];

  static constexpr int64_t bytes() { return kHeight * kStride * static_cast<int64_t>(sizeof(S)); }
  __device__ Numbers<S, 4>& four(int row, int column) const {
    return *reinterpret_cast<Numbers<S, 4>*>(&rows[row][column]);
  }
  __device__ S* piece(int row, int column) const { return &rows[row][column]; }
};

template <typename S, int kRows>
struct Parts {
  static constexpr int kHeight = 16 * kRows;

  Part<S, kHeight> grads, conditions;
  Part<S, kOutputs> weights;

  static constexpr int64_t bytes() { return 2 * Part<S, kHeight>::bytes() + Part<S, kOutputs>::bytes(); }
  __device__ explicit Parts(char* memory)
      : grads{reinterpret_cast<decltype(grads.rows)>(memory)},
        conditions{reinterpret_cast<decltype(conditions.rows)>(memory + grads.bytes())},
        weights{reinterpret_cast<decltype(weights.rows)>(memory + 2 * grads.bytes())} {}
};

// sums (4 outputs, 4 terms) += gradsᵀ · conditions over `rows` rows.
template <typename S, int kRows>
__device__ __forceinline__ void add_rows(
    S (&sums)[4][4], const Parts<S, kRows>& parts, int rows, int output, int term) {
#pragma unroll 4
  for (int row = 0; row < rows; ++row) {
    const auto a = parts.grads.four(row, output), b = parts.conditions.four(row, term);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) sums[i][j] += a.at[i] * b.at[j];
    }
  }
}

// sums (kRows rows, 4 terms) += grads · weights over the outputs.
template <typename S, int kRows>
__device__ __forceinline__ void add_outputs(S (&sums)[kRows][4], const Parts<S, kRows>& parts, int row, int term) {
#pragma unroll 2
  for (int output = 0; output < kOutputs; output += 4) {
    Numbers<S, 4> a[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) a[r] = parts.grads.four(row + r, output);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const auto b = parts.weights.four(output + i, term);
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
#pragma unroll
        for (int j = 0; j < 4; ++j) sums[r][j] += a[r].at[i] * b.at[j];
      }
    }
  }
}

// to[share] (rows, terms): the part of the condition's gradient that comes through a share of all outputs.
template <typename S, int kRows>
__global__ void __launch_bounds__(kGenerateThreads, sizeof(S) == 8 ? 1 : 2)
    generate_backward_kernel(const __grid_constant__ Heads heads, S* to) {
  constexpr int kHeight = 16 * kRows;
  const Parts<S, kRows> parts(dynamic_shared<char>());
  const int64_t terms = heads.terms, first_term = int64_t(blockIdx.y) * kTerms;
  const int row = static_cast<int>(threadIdx.x) / 16 * kRows, term = static_cast<int>(threadIdx.x) % 16 * 4;
  const int output = static_cast<int>(threadIdx.x) / 16 * 4;
  const bool terms_aligned = terms % 4 == 0, tall = heads.rows > kHeight;
  const int64_t own_term = first_term + term, terms_left = terms - own_term;
  to += blockIdx.x * heads.rows * terms;

  const auto rows_at = [&](int64_t first) {
    return static_cast<int>(heads.rows - first < kHeight ? heads.rows - first : kHeight);
  };
  const auto fetch_conditions = [&](int64_t first) {
    fetch<S, kHeight, kTerms>(heads.condition, first, heads.rows, first_term, terms, parts.conditions);
  };
  const auto each_row = [&](int64_t first, const auto& visit) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (first + row + r < heads.rows) visit(r, to + (first + row + r) * terms + own_term);
    }
  };

  S of_rows[kRows][4] = {};
  if (!tall) fetch_conditions(0);
  const int64_t begin = heads.blocks * blockIdx.x / gridDim.x, last = heads.blocks * (blockIdx.x + 1) / gridDim.x;
  for (int64_t block = begin; block < last; ++block) {
    const Head& head = heads.find(block);
    const int64_t first_output = (block - head.first) * kOutputs;
    fetch<S, kOutputs, kTerms>(head.weight, first_output, head.outputs, first_term, terms, parts.weights);
    S of_outputs[4][4] = {}, of_bias = 0;
    for (int64_t first = 0; first < heads.rows; first += kHeight) {
      fetch<S, kHeight, kOutputs>(head.given, first, heads.rows, first_output, head.outputs, parts.grads);
      if (tall) {
        fetch_conditions(first);
        each_row(first, [&](int r, const S* from) {
          const auto before = load<4>(from, block == begin ? 0 : terms_left, terms_aligned);
#pragma unroll
          for (int j = 0; j < 4; ++j) of_rows[r][j] = before.at[j];
        });
      }
      fetched();
      __syncthreads();
      add_rows(of_outputs, parts, rows_at(first), output, term);
      add_outputs(of_rows, parts, row, term);
      if (threadIdx.x < kOutputs) {
        for (int at = 0; at < rows_at(first); ++at) of_bias += parts.grads.rows[at][threadIdx.x];
      }
      if (tall) {
        each_row(first, [&](int r, S* at) {
          store<4>(at, {of_rows[r][0], of_rows[r][1], of_rows[r][2], of_rows[r][3]}, terms_left, terms_aligned);
        });
      }
      __syncthreads();
    }
    const bool aligned = in_eights(head.result.data, terms);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const Numbers<S, 4> sums{of_outputs[i][0], of_outputs[i][1], of_outputs[i][2], of_outputs[i][3]};
      const int64_t at = first_output + output + i;
      if (at < head.outputs) head.result.store(at * terms + own_term, sums, terms_left, aligned);
    }
    const int64_t at = first_output + threadIdx.x;
    if (head.bias.data != nullptr && blockIdx.y == 0 && threadIdx.x < kOutputs && at < head.outputs) {
      head.bias.store<S>(at, of_bias);
    }
  }
  if (tall) return;
  each_row(0, [&](int r, S* at) {
    store<4>(at, {of_rows[r][0], of_rows[r][1], of_rows[r][2], of_rows[r][3]}, terms_left, terms_aligned);
  });
}

template <typename S>
void run(const std::vector<Heads>& launches, const Tensor& grad_condition) {
  constexpr int64_t kBlocks = 264;  // two for each multiprocessor
  const int64_t rows = grad_condition.size(0), terms = grad_condition.size(1);
  const int64_t columns = std::max<int64_t>((terms + kTerms - 1) / kTerms, 1);
  int64_t all = 0;
  std::vector<int64_t> shares;
  for (const Heads& heads : launches) {
    shares.push_back(std::min(heads.blocks, std::max<int64_t>(kBlocks / columns, 1)));
    all += shares.back();
  }
  Workspace memory;
  const auto parts = memory.reserve<S>(all * rows * terms);
  memory.allocate(grad_condition);
  S* part = memory[parts];
  const bool low = rows <= 32;  // half of a tall block would multiply zeros
  const auto kernel = low ? generate_backward_kernel<S, 2> : generate_backward_kernel<S, 4>;
  for (size_t i = 0; i < launches.size(); ++i) {
    launch(
        kernel, dim3(shares[i], columns), dim3(kGenerateThreads), low ? Parts<S, 2>::bytes() : Parts<S, 4>::bytes(),
        launches[i], part);
    part += shares[i] * rows * terms;
  }
  Reductions reductions;
  reductions.groups = 1;
  reductions.add({memory[parts], all, rows * terms, 0, nullptr, rows, terms, results_of(grad_condition), false});
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
    if (i % kHeads == 0) launches.emplace_back(rows);
    kept.push_back(weights[i].contiguous());
    Head head{};
    head.weight = numbers_of(kept.back());
    kept.push_back(grads[i].contiguous());
    head.given = numbers_of(kept.back());
    results.push_back(at::empty(weights[i].sizes(), weights[i].options()));
    head.result = results_of(results.back());
    if (has_bias.get(i)) {
      biases.push_back(at::empty({weights[i].size(0)}, sums));
      head.bias = results_of(biases.back());
    }
    head.outputs = weights[i].size(0);
    launches.back().add(head);
  }
  condition.scalar_type() == at::kDouble ? run<double>(launches, results[0]) : run<float>(launches, results[0]);
  results.insert(results.end(), biases.begin(), biases.end());
  return results;
}

}  // namespace

TORCH_LIBRARY_IMPL(hyperloader, CUDA, m) { implement<generate_backward>(m); }

}  // namespace hyperloader::cuda
