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
  int tasks, layer_count, position_count, layer_rows, position_rows, embedding, hidden, size;
  S scales[3], eps;

  __host__ __device__ int rows() const { return tasks * layer_count * position_count; }
  __device__ int task_of(int row) const { return row % tasks; }
  // An index out of range is clamped: the host does not check indices that lie on the device.
  __device__ int layer_of(int row) const { return clamp(layers[row / tasks % layer_count], layer_rows); }
  __device__ int position_of(int row) const { return clamp(positions[row / tasks / layer_count], position_rows); }
  __device__ static int clamp(int64_t index, int count) {
    return index < 0 ? 0 : index < count ? static_cast<int>(index) : count - 1;
  }
};

// Where the numbers of a row stand.
struct Places {
  int input, hidden, before, forward_width;                               // both directions
  int grad_input, grad_hidden, grad_before, along_standard, grad, width;  // the backward

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
    const S* from, int stride, const T* weights, int units, int terms, const Visit& visit) {
  constexpr int kLanes = 8, kUnits = 32 / kLanes, kTogether = 16 / sizeof(T);
  const bool aligned = reinterpret_cast<uintptr_t>(weights) % 16 == 0 && terms % kTogether == 0;
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
#pragma unroll 1
  for (int first = warp_of_block() * kUnits; first < units; first += kWarps * kUnits) {
    const int unit = first + lane_of_warp() / kLanes;
    const T* const own = weights + (unit < units ? unit : 0) * terms;
    S sums[kRowsOfBlock] = {};
    const auto add = [&](const Numbers<T, kTogether>& weight, int i) {
#pragma unroll
      for (int j = 0; j < kTogether; ++j) {
        if (!aligned && i + j >= terms) continue;
#pragma unroll
        for (int row = 0; row < kRowsOfBlock; ++row) {
          sums[row] += static_cast<S>(weight.at[j]) * from[row * stride + i + j];
        }
      }
    };
    constexpr int kAtOnce = 4, kStride = kLanes * kTogether;  // loads on their way together
#pragma unroll 1
    for (int begin = lane * kTogether; begin < terms; begin += kAtOnce * kStride) {
      Numbers<T, kTogether> weight[kAtOnce];
#pragma unroll
      for (int n = 0; n < kAtOnce; ++n) {
        const int i = begin + n * kStride;
        weight[n] = aligned ? load_whole<kTogether>(own + i, i < terms) : load<kTogether>(own + i, terms - i, false);
      }
#pragma unroll
      for (int n = 0; n < kAtOnce; ++n) {
        if (begin + n * kStride < terms) add(weight[n], begin + n * kStride);
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
__device__ __forceinline__ void before_norm(const Condition<T>& c, const Places& at, S* rows, int stride) {
  const int begin = static_cast<int>(blockIdx.x) * kRowsOfBlock, width = 3 * c.embedding;
  for (int i = warp_of_block(); i < 3 * kRowsOfBlock; i += kWarps) {  // a warp for an embedding of a row
    const int part = i / kRowsOfBlock, own = i % kRowsOfBlock, row = begin + own;
    const bool exists = row < c.rows();
    const int index = !exists ? 0 : part == 0 ? c.task_of(row) : part == 1 ? c.layer_of(row) : c.position_of(row);
    const T* const from = (part == 0 ? c.task : part == 1 ? c.layer : c.position) + int64_t{index} * c.embedding;
    S* const to = rows + own * stride + at.input + part * c.embedding;
    for (int j = threadIdx.x % 32; j < c.embedding; j += 32) to[j] = exists ? static_cast<S>(from[j]) : S(0);
  }
  __syncthreads();
  linear(rows + at.input, stride, c.first_weight, c.hidden, width, [&](int row, int unit, S sum) {
    const S value = c.scales[0] * sum + static_cast<S>(c.first_bias[unit]);
    rows[row * stride + at.hidden + unit] = value > 0 ? value : S(0);
  });
  __syncthreads();
  linear(rows + at.hidden, stride, c.second_weight, c.size, c.hidden, [&](int row, int unit, S sum) {
    rows[row * stride + at.before + unit] = c.scales[1] * sum + static_cast<S>(c.second_bias[unit]);
  });
  __syncthreads();
}

// Mean and reciprocal deviation of a row, by the warp that has its number.
template <typename T, typename S>
__device__ __forceinline__ void standardise(const Condition<T>& c, const S* before, S& mean, S& rstd) {
  S sum = 0, squares = 0;
  for (int i = threadIdx.x % 32; i < c.size; i += 32) sum += before[i];
  mean = sum_warp(sum) / S(c.size);
  for (int i = threadIdx.x % 32; i < c.size; i += 32) squares += (before[i] - mean) * (before[i] - mean);
  rstd = inverse_root(sum_warp(squares) / S(c.size) + c.eps);
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
    c.tasks = static_cast<int>(weights.task_embedding.size(0));
    c.layer_count = static_cast<int>(weights.layers.size(0));
    c.position_count = static_cast<int>(weights.positions.size(0));
    c.layer_rows = static_cast<int>(weights.layer_embedding.size(0));
    c.position_rows = static_cast<int>(weights.position_embedding.size(0));
    c.embedding = static_cast<int>(weights.task_embedding.size(1));
    c.hidden = static_cast<int>(weights.first_weight.size(0));
    c.size = static_cast<int>(weights.second_weight.size(0));
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
