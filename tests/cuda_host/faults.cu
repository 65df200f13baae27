// Kernels with the faults that the runtime, the race check and the sanitizers are there to find; sound, with `sound`.
#include <cstring>
#include <memory>
#include <string>

#include "copy.cuh"
#include "launch.h"

namespace hyperloader::cuda {
namespace {

constexpr int kThreads = 64;  // of a block: two warps
constexpr unsigned kAllLanes = 0xffffffffu;

// Each thread reads what its neighbour has written to shared memory.
__global__ void no_barrier(float* to, bool sound) {
  __shared__ float numbers[kThreads];
  numbers[threadIdx.x] = float(threadIdx.x);
  if (sound) __syncthreads();
  to[threadIdx.x] = numbers[(threadIdx.x + 1) % kThreads];
}

// The same within a warp, where a shuffle orders nothing.
__global__ void no_barrier_of_the_warp(float* to, bool sound) {
  float* const numbers = dynamic_shared<float>();
  numbers[threadIdx.x] = float(threadIdx.x);
  __shfl_sync(kAllLanes, 1, 0);
  if (sound) __syncwarp();
  to[threadIdx.x] = numbers[threadIdx.x ^ 1];
}

// What was read is written again before everybody has read it.
__global__ void no_barrier_before_the_next_write(float* to, bool sound) {
  __shared__ float number;
  float sum = 0;
  for (int i = 0; i < 3; ++i) {
    if (threadIdx.x == 0) number = float(i);
    __syncthreads();
    sum += number;
    if (sound) __syncthreads();
  }
  to[threadIdx.x] = sum;
}

__global__ void all_blocks_write_one_place(float* to, bool sound) {
  if (threadIdx.x == 0) to[sound ? blockIdx.x : 0] = 1;
}

__global__ void one_block_reads_what_another_writes(float* to, bool sound) {
  if (threadIdx.x != 0) return;
  if (blockIdx.x == 0) to[0] = 1;
  if (blockIdx.x == 1) to[1] = sound ? 1 : to[0];
}

__global__ void beyond_global_memory(float* to, bool sound) { to[threadIdx.x + (sound ? 0 : 1)] = 1; }

__global__ void beyond_dynamic_shared_memory(float* to, bool sound) {
  dynamic_shared<float>()[threadIdx.x + (sound ? 0 : 1)] = float(threadIdx.x);
  to[threadIdx.x] = 1;
}

__global__ void beyond_a_shared_variable(float* to, bool sound) {
  __shared__ float numbers[2][kThreads];
  numbers[0][threadIdx.x + (sound ? 0 : 1)] = float(threadIdx.x);
  to[threadIdx.x] = 1;
}

__global__ void sixteen_bytes_not_aligned(float* to, bool sound) {
  if (threadIdx.x == 0) *reinterpret_cast<float4*>(to + (sound ? 0 : 1)) = float4{1, 2, 3, 4};
}

__global__ void shared_memory_that_nothing_was_written_to(float* to, bool sound) {
  __shared__ float numbers[kThreads];
  float* const also = dynamic_shared<float>();
  if (sound) numbers[threadIdx.x] = also[threadIdx.x] = 1;
  to[threadIdx.x] = numbers[threadIdx.x] + also[threadIdx.x];
}

// Every fourth thread copies 16 bytes for itself and its neighbours; the second batch is of zeros.
__global__ void no_wait_for_a_copy(float* to, bool sound) {
  float* const numbers = dynamic_shared<float>();
  const int own = int(threadIdx.x) / 4 * 4;
  const bool copies = threadIdx.x % 4 == 0;
  if (copies) copy_async_16(numbers + own, to + own, true);
  copy_commit();
  if (copies) copy_async_16(numbers + kThreads + own, to, false);
  copy_commit();
  if (sound) {
    copy_wait<1>();
  } else {
    copy_wait<2>();
  }
  __syncthreads();
  to[threadIdx.x] = 1 + numbers[threadIdx.x];
}

// The zeros have arrived with the last batch.
__global__ void zeros_of_a_copy(float* to, bool) {
  float* const numbers = dynamic_shared<float>();
  copy_async_16(numbers + 4 * threadIdx.x, to, false);
  copy_commit();
  copy_wait<0>();
  to[threadIdx.x] = numbers[4 * threadIdx.x + 3];
}

// The device copies 256 bytes for all threads, twice to the same place.
struct Rows {
  static constexpr int kBytes = kThreads * sizeof(float);

  Arrival* arrival;
  float* numbers;

  __device__ Rows() : arrival(dynamic_shared<Arrival>()), numbers(dynamic_shared<float>() + 4) {
    if (threadIdx.x == 0) arrival->prepare();
    __syncthreads();
  }
  __device__ void fetch(const float* from, int expected, unsigned thread = 0) const {
    if (threadIdx.x != thread) return;
    arrival->expect(expected);
    arrival->copy(numbers, from, kBytes / 2);
    arrival->copy(numbers + kThreads / 2, from + kThreads / 2, kBytes / 2);
  }
};

__global__ void no_wait_for_rows(float* to, bool sound) {
  const Rows rows;
  rows.fetch(to, rows.kBytes);
  if (sound) rows.arrival->wait(0);
  const float found = 1 + rows.numbers[threadIdx.x];
  __syncthreads();
  to[threadIdx.x] = found;
}

__global__ void some_threads_do_not_wait_for_rows(float* to, bool sound) {
  const Rows rows;
  rows.fetch(to, rows.kBytes);
  if (sound || threadIdx.x < 32) rows.arrival->wait(0);
  __syncwarp();
  const float found = 1 + rows.numbers[threadIdx.x];
  __syncthreads();
  to[threadIdx.x] = found;
}

__global__ void rows_that_nobody_copies(float* to, bool sound) {
  const Rows rows;
  rows.fetch(to, sound ? rows.kBytes : rows.kBytes + 16);
  rows.arrival->wait(0);
  const float found = 1 + rows.numbers[threadIdx.x];
  __syncthreads();
  to[threadIdx.x] = found;
}

__global__ void rows_that_nobody_expects(float* to, bool sound) {
  const Rows rows;
  rows.fetch(to, sound ? rows.kBytes : rows.kBytes - 16);
  rows.arrival->wait(0);
  const float found = 1 + rows.numbers[threadIdx.x];
  __syncthreads();
  to[threadIdx.x] = found;
}

__global__ void no_barrier_before_the_next_rows(float* to, bool sound) {
  const Rows rows;
  float sum = 0;
  for (int i = 0; i < 2; ++i) {
    rows.fetch(to, rows.kBytes, i * (kThreads - 1));
    rows.arrival->wait(i);
    sum += 1 + rows.numbers[threadIdx.x];
    if (sound) __syncthreads();
  }
  __syncthreads();
  to[threadIdx.x] = sum;
}

__global__ void rows_over_what_was_written(float* to, bool sound) {
  const Rows rows;
  rows.numbers[threadIdx.x] = 1;
  if (sound) write_before_rows();
  __syncthreads();
  rows.fetch(to, rows.kBytes);
  rows.arrival->wait(0);
  const float found = 1 + rows.numbers[threadIdx.x];
  __syncthreads();
  to[threadIdx.x] = found;
}

__global__ void some_threads_reach_no_barrier(float* to, bool sound) {
  if (sound || threadIdx.x < 32) __syncthreads();
  to[threadIdx.x] = 1;
}

__global__ void two_barriers_at_once(float* to, bool sound) {
  if (sound || threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  to[threadIdx.x] = 1;
}

__global__ void some_lanes_reach_no_shuffle(float* to, bool sound) {
  int found = 1;
  if (sound || threadIdx.x % 32 != 5) found = __shfl_xor_sync(kAllLanes, found, 1);
  to[threadIdx.x] = float(found);
}

__global__ void shuffle_from_outside_of_the_mask(float* to, bool sound) {
  if (threadIdx.x < 16) __shfl_sync(0xffffu, 1, sound ? 15 : 16);
  to[threadIdx.x] = 1;
}

__global__ void lane_outside_of_its_mask(float* to, bool sound) {
  if (sound ? threadIdx.x < 16 : threadIdx.x < 17) __syncwarp(0xffffu);
  to[threadIdx.x] = 1;
}

#define FAULT(name) {#name, name}
const std::pair<const char*, void (*)(float*, bool)> kFaults[] = {
    FAULT(no_barrier),
    FAULT(no_barrier_of_the_warp),
    FAULT(no_barrier_before_the_next_write),
    FAULT(all_blocks_write_one_place),
    FAULT(one_block_reads_what_another_writes),
    FAULT(beyond_global_memory),
    FAULT(beyond_dynamic_shared_memory),
    FAULT(beyond_a_shared_variable),
    FAULT(sixteen_bytes_not_aligned),
    FAULT(shared_memory_that_nothing_was_written_to),
    FAULT(no_wait_for_a_copy),
    FAULT(zeros_of_a_copy),
    FAULT(no_wait_for_rows),
    FAULT(some_threads_do_not_wait_for_rows),
    FAULT(rows_that_nobody_copies),
    FAULT(rows_that_nobody_expects),
    FAULT(no_barrier_before_the_next_rows),
    FAULT(rows_over_what_was_written),
    FAULT(some_threads_reach_no_barrier),
    FAULT(two_barriers_at_once),
    FAULT(some_lanes_reach_no_shuffle),
    FAULT(shuffle_from_outside_of_the_mask),
    FAULT(lane_outside_of_its_mask),
};

}  // namespace
}  // namespace hyperloader::cuda

// Runs the fault on 64 numbers, in three blocks; returns what the launch raised, else their sum as text.
extern "C" const char* cuda_host_fault(const char* name, int sound) {
  namespace cuda = hyperloader::cuda;
  static std::string text;
  const auto fault = std::find_if(std::begin(cuda::kFaults), std::end(cuda::kFaults), [&](const auto& one) {
    return strcmp(one.first, name) == 0;
  });
  if (fault == std::end(cuda::kFaults)) return "there is no such fault";
  const std::unique_ptr<float[]> numbers(new float[cuda::kThreads]());
  const int64_t shared = 4 * cuda::kThreads * static_cast<int64_t>(sizeof(float));
  const bool small = fault->second == cuda::beyond_dynamic_shared_memory;
  const bool apart =
      fault->second == cuda::all_blocks_write_one_place || fault->second == cuda::one_block_reads_what_another_writes;
  try {
    cuda::launch(
        fault->second, dim3(apart ? 3 : 1), dim3(cuda::kThreads), small ? shared / 4 : shared, numbers.get(),
        sound != 0);
    float sum = 0;
    for (int i = 0; i < cuda::kThreads; ++i) sum += numbers[i];
    text = std::to_string(sum);
  } catch (const std::exception& error) {
    text = error.what();
  }
  return text.c_str();
}
