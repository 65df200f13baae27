// Weight generation on CUDA devices: all heads in one launch, 64 outputs of one head and up to 64 rows a block.
//
// A block copies its weights and the conditions to shared memory, where a row of 256 bytes is 16 pieces in an order of
// its own, so that eight threads that read the same terms of outputs eight apart meet no bank twice. A thread
// multiplies one row or two with eight neighbouring outputs, and writes them in one access. With O outputs of all
// heads, R rows, T terms, p bytes a parameter and b a result:
//
//     memory               p · O · (T + 1) + b · R · O: every parameter read and every result written once
//     second cache         the same, the parameters once for every 64 rows, and p · R · T · O / 64 for the conditions
//     multiply-adds        R · O · T, with R in steps of 32
//     shared memory        5 bytes a multiply-add for 32 rows, 2.5 for 64, as a warp's threads share what they read
//     launches             1 for every 48 heads
#include "generate.cuh"

namespace hyperloader::cuda {
namespace {

// Rows of `kTerms` numbers in shared memory.
template <typename S>
struct Terms {
  static constexpr int kBytes = 256, kTogether = 16 / sizeof(S), kTerms = kBytes / sizeof(S);

  S* numbers;

  __device__ S* piece(int row, int term) const {
    return numbers + row * kTerms + (term / kTogether ^ row / 8 % 8) * kTogether;
  }
  __device__ Numbers<S, kTogether> load(int row, int term) const {
    return cuda::load<kTogether>(piece(row, term), kTogether, true);
  }
};

template <typename S, int kRows>
__global__ void __launch_bounds__(kGenerateThreads, sizeof(S) == 8 ? 1 : 2)
    generate_kernel(const __grid_constant__ Heads heads) {
  using Own = Terms<S>;
  constexpr int kHeight = 32 * kRows, kTerms = Own::kTerms;
  __shared__ __align__(16) S memory[(kHeight + kOutputs) * kTerms];
  const Own left{memory}, right{memory + kHeight * kTerms};
  const Head& head = heads.find(blockIdx.x);
  const int output = (static_cast<int>(blockIdx.x) - static_cast<int>(head.first)) * kOutputs;
  const int first = static_cast<int>(blockIdx.y) * kHeight;
  const int row = static_cast<int>(threadIdx.x) / 8 * kRows, column = static_cast<int>(threadIdx.x) % 8 * 8;
  S sums[kRows][8] = {};
#pragma unroll 1
  for (int term = 0; term < heads.terms; term += kTerms) {
    if (term > 0) __syncthreads();
    fetch<S, kOutputs, kTerms>(head.weight, output, head.outputs, term, heads.terms, right);
    fetch<S, kHeight, kTerms>(heads.condition, first, heads.rows, term, heads.terms, left);
    fetched();
    __syncthreads();
#pragma unroll 4
    for (int at = 0; at < kTerms; at += Own::kTogether) {
      Numbers<S, Own::kTogether> a[kRows];
#pragma unroll
      for (int r = 0; r < kRows; ++r) a[r] = left.load(row + r, at);
#pragma unroll
      for (int c = 0; c < 8; ++c) {
        const auto b = right.load(column + c, at);
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
#pragma unroll
          for (int i = 0; i < Own::kTogether; ++i) sums[r][c] += a[r].at[i] * b.at[i];
        }
      }
    }
  }
  const int64_t at = output + column, left_over = head.outputs - at;
  Numbers<S, 8> bias{};
  if (head.given.data != nullptr) bias = head.given.load<S, 8>(at, left_over, in_eights(head.given.data, 0));
  const bool aligned = in_eights(head.result.data, head.outputs);
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    if (first + row + r >= heads.rows) continue;
    Numbers<S, 8> result;
#pragma unroll
    for (int c = 0; c < 8; ++c) result.at[c] = sums[r][c] + bias.at[c];
    head.result.store((first + row + r) * head.outputs + at, result, left_over, aligned);
  }
}

template <typename S>
void run(const Heads& heads) {
  const auto tiles = [&](int64_t height) { return dim3(heads.blocks, (heads.rows + height - 1) / height); };
  if (heads.rows <= 32) {
    launch(generate_kernel<S, 1>, tiles(32), dim3(kGenerateThreads), 0, heads);
  } else {
    launch(generate_kernel<S, 2>, tiles(64), dim3(kGenerateThreads), 0, heads);
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
    Heads heads(rows);
    for (size_t i = begin; i < std::min(weights.size(), begin + kHeads); ++i) {
      kept.push_back(weights[i].contiguous());
      results.push_back(at::empty({condition.size(0), weights[i].size(0)}, options));
      Head head{};
      head.weight = numbers_of(kept.back());
      if (has_bias.get(i)) {
        kept.push_back(biases[next++].contiguous());
        head.given = numbers_of(kept.back());
      }
      head.result = results_of(results.back());
      head.outputs = weights[i].size(0);
      heads.add(head);
    }
    condition.scalar_type() == at::kDouble ? run<double>(heads) : run<float>(heads);
  }
  return results;
}

}  // namespace

TORCH_LIBRARY_IMPL(hyperloader, CUDA, m) { implement<generate>(m); }

}  // namespace hyperloader::cuda
