// A launch: every block, one after the other.
#include <c10/util/Exception.h>

#include <cstdlib>
#include <mutex>
#include <string>
#include <vector>

#include "block.h"
#include "races.h"
#include "symbols.h"

namespace cuda_host {
namespace {

void check_launch(dim3 grid, dim3 size) {
  constexpr unsigned kMostBlocks = 65535, kMostThreads = 1024, kMostDeep = 64;  // along y and z; of a block; along z
  TORCH_CHECK(
      grid.x <= 0x7fffffffu && grid.y <= kMostBlocks && grid.z <= kMostBlocks, "a grid must have at most 2^31 - 1, ",
      kMostBlocks, ", ", kMostBlocks, " blocks, got ", text({grid.x, grid.y, grid.z}));
  TORCH_CHECK(
      uint64_t(size.x) * size.y * size.z <= kMostThreads && size.z <= kMostDeep && size.x * size.y * size.z > 0,
      "a block must have 1 to ", kMostThreads, " threads, got ", text({size.x, size.y, size.z}));
}

bool recording = false;
std::string launched;  // since it was asked for

Order wanted_order() {
  const char* const wanted = std::getenv("HYPERLOADER_CUDA_HOST_ORDER");
  const std::string name = wanted == nullptr ? "forward" : wanted;
  TORCH_CHECK_VALUE(
      name == "forward" || name == "reversed" || name == "shuffled",
      "HYPERLOADER_CUDA_HOST_ORDER must be forward, reversed or shuffled, got ", name);
  return name == "forward" ? Order::kForward : name == "reversed" ? Order::kReversed : Order::kShuffled;
}

}  // namespace

void run(const void* kernel, dim3 grid, dim3 size, int64_t shared, const std::function<void()>& thread) {
  static std::mutex one_at_a_time;
  const std::lock_guard<std::mutex> lock(one_at_a_time);
  check_launch(grid, size);
  if (recording) launched += function_of(kernel) + "\t" + std::to_string(uint64_t(grid.x) * grid.y * grid.z) + "\n";
  set_order(wanted_order());
  gridDim = grid;
  blockDim = size;
  std::vector<uint3> blocks;
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) blocks.push_back({x, y, z});
    }
  }
  arrange(blocks);
  StaticShared variables;
  races::begin_launch();
  for (const uint3 index : blocks) {
    variables.fill();
    run_block(index, size, shared, thread);
    TORCH_CHECK(block.error.empty(), function_of(kernel), ", block ", text(index), ": ", block.error);
  }
}

}  // namespace cuda_host

// From now on launches are recorded, or not any more; returns those recorded before, one a line: kernel, tab, blocks.
extern "C" const char* cuda_host_record(int record) {
  static std::string found;
  found.swap(cuda_host::launched);
  cuda_host::launched.clear();
  cuda_host::recording = record != 0;
  return found.c_str();
}
