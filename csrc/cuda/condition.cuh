// What the condition's forward and backward share on CUDA devices: a block computes four rows, in shared memory.
//
// With R rows, E numbers of an embedding, H hidden units, D numbers of a condition, W = H (3 E + D) weights and b bytes
// a parameter (of whichever dtype: nothing is converted before):
//
//     memory               b · (W + R · D) forward, and about twice that backward
//     second cache         b · W · R / 4 forward: every block reads all weights; backward twice that, and for the sums
//                          over the rows 8 · R · W
//     multiply-adds        R · W forward, 3 R · W backward
//     launches             1 forward, 2 backward
#pragma once

#include "../condition.h"
#include "dispatch.h"
#include "tiles.cuh"
#include "workspace.h"

namespace hyperloader::cuda {

constexpr int kRowsOfBlock = 4;  // that share a read of the weights

// T is the dtype of the parameters.
template <typename T>
struct Condition {
  using S = Sum<T>;

  const T *task, *layer, *position;  // (any, embedding)
  const int64_t *layers, *positions;
  const T *first_weight, *first_bias, *second_weight, *second_bias, *norm_weight, *norm_bias;
  int64_t tasks, layer_count, position_count, layer_rows, position_rows, embedding, hidden, size;
  S scales[3], eps;

  __host__ __device__ int64_t rows() const { return tasks * layer_count * position_count; }
  __device__ int64_t task_of(int64_t row) const { return row % tasks; }
  // An index out of range is clamped: the host does not check indices that lie on the device.
  __device__ int64_t layer_of(int64_t row) const { return clamp(layers[row / tasks % layer_count], layer_rows); }
  __device__ int64_t position_of(int64_t row) const {
    return clamp(positions[row / tasks / layer_count], position_rows);
  }
  __device__ static int64_t clamp(int64_t index, int64_t count) {
    return index < 0 ? 0 : index < count ? index : count - 1;
  }
};

// Where the numbers of a row stand.
struct Places {
  int64_t input, hidden, before, forward_width;                               // both directions
  int64_t grad_input, grad_hidden, grad_before, along_standard, grad, width;  // the backward

  template <typename T>
  explicit Places(const Condition<T>& c)
      : input(0),
        hidden(3 * c.embedding),
        before(hidden + c.hidden),
        forward_width(before + c.size),
        grad_input(forward_width),
        grad_hidden(grad_input + 3 * c.embedding),
        grad_before(grad_hidden + c.hidden),
        along_standard(grad_before + c.size),
        grad(along_standard + c.size),
        width(grad + c.size) {}
};

// visit(row of the block, unit, Σ weights[unit] · from[row]) for (units, terms): eight lanes for each unit, 16 bytes of
// its weights a lane.
template <typename S, typename T, typename Visit>
__device__ __forceinline__ void linear(
    const S* from, int64_t stride, const T* weights, int64_t units, int64_t terms, const Visit& visit) {
  constexpr int kLanes = 8, kUnits = 32 / kLanes, kTogether = 16 / sizeof(T);
  const bool aligned = reinterpret_cast<uintptr_t>(weights) % 16 == 0 && terms % kTogether == 0;
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  for (int64_t first = warp_of_block() * kUnits; first < units; first += kWarps * kUnits) {
    const int64_t unit = first + static_cast<int>(threadIdx.x) % 32 / kLanes;
    S sums[kRowsOfBlock] = {};
#pragma unroll 4
    for (int64_t i = lane * kTogether; i < terms; i += kLanes * kTogether) {
      const auto weight = load<kTogether>(weights + unit * terms + i, unit < units ? terms - i : 0, aligned);
#pragma unroll
      for (int j = 0; j < kTogether; ++j) {
        if (i + j >= terms) continue;
#pragma unroll
        for (int row = 0; row < kRowsOfBlock; ++row) {
          sums[row] += static_cast<S>(weight.at[j]) * from[row * stride + i + j];
        }
      }
    }
#pragma unroll
    for (int row = 0; row < kRowsOfBlock; ++row) {
#pragma unroll
      for (int mask = 1; mask < kLanes; mask *= 2) sums[row] += __shfl_xor_sync(kAllLanes, sums[row], mask);
      if (lane == row && unit < units) visit(row, unit, sums[row]);
    }
  }
}

template <typename S>
__device__ __forceinline__ S sum_warp(S number) {
#pragma unroll
  for (int mask = 1; mask < 32; mask *= 2) number += __shfl_xor_sync(kAllLanes, number, mask);
  return number;
}

// The block's rows up to what the norm takes, in `rows` (shared memory), `stride` numbers each.
template <typename T, typename S>
__device__ __forceinline__ void before_norm(const Condition<T>& c, const Places& at, S* rows, int64_t stride) {
  const int64_t begin = int64_t(blockIdx.x) * kRowsOfBlock, width = 3 * c.embedding;
  for (int64_t i = threadIdx.x; i < kRowsOfBlock * width; i += kThreads) {
    const int64_t row = begin + i / width, part = i % width / c.embedding, element = i % c.embedding;
    S value = 0;
    if (row < c.rows()) {
      const int64_t index = part == 0 ? c.task_of(row) : part == 1 ? c.layer_of(row) : c.position_of(row);
      value = static_cast<S>((part == 0 ? c.task : part == 1 ? c.layer : c.position)[index * c.embedding + element]);
    }
    rows[i / width * stride + at.input + i % width] = value;
  }
  __syncthreads();
  linear(rows + at.input, stride, c.first_weight, c.hidden, width, [&](int row, int64_t unit, S sum) {
    const S value = c.scales[0] * sum + static_cast<S>(c.first_bias[unit]);
    rows[row * stride + at.hidden + unit] = value > 0 ? value : S(0);
  });
  __syncthreads();
  linear(rows + at.hidden, stride, c.second_weight, c.size, c.hidden, [&](int row, int64_t unit, S sum) {
    rows[row * stride + at.before + unit] = c.scales[1] * sum + static_cast<S>(c.second_bias[unit]);
  });
  __syncthreads();
}

// Mean and reciprocal deviation of a row, by the warp that has its number.
template <typename T, typename S>
__device__ __forceinline__ void standardise(const Condition<T>& c, const S* before, S& mean, S& rstd) {
  S sum = 0, squares = 0;
  for (int64_t i = threadIdx.x % 32; i < c.size; i += 32) sum += before[i];
  mean = sum_warp(sum) / S(c.size);
  for (int64_t i = threadIdx.x % 32; i < c.size; i += 32) squares += (before[i] - mean) * (before[i] - mean);
  rstd = 1 / ::sqrt(sum_warp(squares) / S(c.size) + c.eps);
}

// The tensors, contiguous, kept while they are used.
template <typename T>
struct ConditionNumbers {
  using S = Sum<T>;

  std::vector<Tensor> kept;
  Condition<T> condition{};

  explicit ConditionNumbers(const ConditionArguments& arguments) {
    const ConditionWeights& weights = arguments.weights;
    Condition<T>& c = condition;
    c.task = numbers(weights.task_embedding);
    c.layer = numbers(weights.layer_embedding);
    c.position = numbers(weights.position_embedding);
    c.layers = indices(weights.layers);
    c.positions = indices(weights.positions);
    c.first_weight = numbers(weights.first_weight);
    c.first_bias = numbers(weights.first_bias);
    c.second_weight = numbers(weights.second_weight);
    c.second_bias = numbers(weights.second_bias);
    c.norm_weight = numbers(weights.norm_weight);
    c.norm_bias = numbers(weights.norm_bias);
    c.tasks = weights.task_embedding.size(0);
    c.layer_count = weights.layers.size(0);
    c.position_count = weights.positions.size(0);
    c.layer_rows = weights.layer_embedding.size(0);
    c.position_rows = weights.position_embedding.size(0);
    c.embedding = weights.task_embedding.size(1);
    c.hidden = weights.first_weight.size(0);
    c.size = weights.second_weight.size(0);
    for (int i = 0; i < 3; ++i) c.scales[i] = static_cast<S>(arguments.scales[i]);
    c.eps = static_cast<S>(arguments.eps);
    TORCH_CHECK_VALUE(c.layer_rows > 0 || c.rows() == 0, "layers must name rows of layer_embedding, which has none");
    TORCH_CHECK_VALUE(
        c.position_rows > 0 || c.rows() == 0, "positions must name rows of position_embedding, which has none");
  }

  const T* numbers(const Tensor& tensor) {
    kept.push_back(tensor.contiguous());
    return kept.back().const_data_ptr<T>();
  }
  const int64_t* indices(const Tensor& tensor) {
    kept.push_back(tensor.contiguous());
    return kept.back().const_data_ptr<int64_t>();
  }
};

template <typename T>
dim3 blocks_of(const Condition<T>& c) {
  return dim3((c.rows() + kRowsOfBlock - 1) / kRowsOfBlock);
}

}  // namespace hyperloader::cuda
