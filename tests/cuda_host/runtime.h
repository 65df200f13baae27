// What the kernels' threads meet at: barriers, the collectives of a warp, shared memory. See launch.h for the launch.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

struct uint3 {
  unsigned x, y, z;
};

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;

namespace cuda_host {

constexpr int kLanes = 32;                  // of a warp
constexpr int64_t kMostShared = 227 << 10;  // bytes that a block may have on sm_90; sm_80: 163 KiB

// Bytes of shared memory that a block may have: HYPERLOADER_CUDA_HOST_SHARED, or what an H100 has.
int64_t most_shared();

// Where in a kernel something is asked for.
struct Place {
  const char* file;
  int line;
};

// The operands of a warp's lanes, null where the mask does not name the lane.
using Operands = void* [kLanes];

// Runs every thread of every block, one after the other, in the order of HYPERLOADER_CUDA_HOST_ORDER (forward,
// reversed, shuffled). Raises where the launch or a thread does what CUDA forbids.
void run(const void* kernel, dim3 grid, dim3 block, int64_t shared, const std::function<void()>& thread);

// Stops the kernel.
[[noreturn]] void fail(const std::string& message);

int thread_of_block();
inline int lane() { return thread_of_block() % kLanes; }
void* dynamic_shared();

// Waits until `count` threads of the block are here, all of them where it is negative.
void barrier(const char* name, int number, int count, Place place);

// Waits until all lanes of the mask are here; the last one calls combine for all of them. `orders`: what lanes wrote to
// memory before is seen by the others after it.
void collective(
    const char* name, unsigned mask, void* operand, void (*combine)(const Operands&), bool orders, Place place);

// Asynchronous copies of this thread: `from` null stands for zeros. What the bytes hold until then is not a number.
void copy_later(void* to, const void* from, size_t bytes);
void close_copies();                 // the copies since the last time are a batch
void finish_copies(size_t batches);  // all but the latest batches

}  // namespace cuda_host
