#include "runtime.h"

#include <c10/util/Exception.h>
#include <dlfcn.h>
#include <link.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <string_view>
#include <vector>

#include "fiber.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace cuda_host {
namespace {

enum class State { kReady, kWaits, kEnded };

struct Thread {
  Fiber fiber;
  int number;
  uint3 index;
  State state;
  const char* name;  // of what it waits for
  Place place;
};

struct Collective {
  const char* name;
  Place place;
  unsigned mask, here;
  Operands operands;
};

struct Barrier {
  const char* name;
  Place place;
  size_t count;
  std::vector<Thread*> here;
};

// A block that runs.
struct Block {
  std::vector<std::unique_ptr<Thread>> threads;
  std::deque<Thread*> ready;
  Thread* running = nullptr;
  Fiber system;
  std::vector<std::vector<Collective>> collectives;  // of each warp
  std::map<int, Barrier> barriers;
  unsigned char* shared = nullptr;
  std::string error;
};

enum class Order { kForward, kReversed, kShuffled };

Block block;  // one kernel runs at a time
Order order;
std::mt19937 random_numbers;
const std::function<void()>* body = nullptr;

std::string text(uint3 index) {
  return "(" + std::to_string(index.x) + ", " + std::to_string(index.y) + ", " + std::to_string(index.z) + ")";
}

std::string text(Place place) {
  const std::string_view file(place.file);
  return std::string(file.substr(file.rfind('/') + 1)) + ":" + std::to_string(place.line);
}

std::string text(const char* name, Place place) { return std::string(name) + " (" + text(place) + ")"; }

bool same(const char* name, Place place, const char* other_name, Place other) {
  return strcmp(name, other_name) == 0 && place.line == other.line && strcmp(place.file, other.file) == 0;
}

template <typename Items>
void arrange(Items& items) {
  if (order == Order::kReversed) std::reverse(items.begin(), items.end());
  if (order == Order::kShuffled) std::shuffle(items.begin(), items.end(), random_numbers);
}

void make_ready(std::vector<Thread*> threads) {
  arrange(threads);
  for (Thread* const thread : threads) {
    thread->state = State::kReady;
    block.ready.push_back(thread);
  }
}

// Another thread goes on, or where none can the system's own.
void leave(Fiber& from) {
  if (block.ready.empty() || !block.error.empty()) {
    block.running = nullptr;
    block.system.enter(from);
    return;
  }
  Thread* const next = block.ready.front();
  block.ready.pop_front();
  block.running = next;
  threadIdx = next->index;
  if (&next->fiber != &from) next->fiber.enter(from);
}

void wait(const char* name, Place place) {
  Thread& own = *block.running;
  own.state = State::kWaits;
  own.name = name;
  own.place = place;
  leave(own.fiber);
}

void run_thread(void* argument) {
  auto& own = *static_cast<Thread*>(argument);
  try {
    (*body)();
  } catch (const std::exception& error) {
    block.error = error.what();
  }
  own.state = State::kEnded;
  leave(own.fiber);
}

// Why no thread can go on.
std::string why_stuck() {
  const Thread *waits = nullptr, *ended = nullptr;
  std::string found;
  for (const auto& thread : block.threads) {
    if (thread->state == State::kEnded) ended = thread.get();
    if (thread->state != State::kWaits ||
        (waits != nullptr && same(waits->name, waits->place, thread->name, thread->place)))
      continue;
    found += (found.empty() ? "thread " : ", thread ") + text(thread->index) + " waits at " +
             text(thread->name, thread->place);
    if (waits != nullptr) break;
    waits = thread.get();
  }
  return found + (ended == nullptr ? "" : ", thread " + text(ended->index) + " has ended");
}

// The memory of every `__shared__` variable: that of the system's thread in this library.
std::pair<unsigned char*, size_t> static_shared() {
  struct Found {
    uintptr_t here;
    std::pair<unsigned char*, size_t> memory{nullptr, 0};
  } found{reinterpret_cast<uintptr_t>(&static_shared)};
  dl_iterate_phdr(
      [](dl_phdr_info* library, size_t, void* argument) {
        auto& found = *static_cast<Found*>(argument);
        bool own = false;
        size_t size = 0;
        for (int i = 0; i < library->dlpi_phnum; ++i) {
          const auto& part = library->dlpi_phdr[i];
          const uintptr_t begin = library->dlpi_addr + part.p_vaddr;
          own |= part.p_type == PT_LOAD && found.here >= begin && found.here < begin + part.p_memsz;
          if (part.p_type == PT_TLS) size = part.p_memsz;
        }
        if (own) found.memory = {static_cast<unsigned char*>(library->dlpi_tls_data), size};
        return own ? 1 : 0;
      },
      &found);
  return found.memory;
}

constexpr int kNaN = 0xff;  // every byte: not a number in all dtypes

// Fills the memory of `__shared__` variables before each block of a launch: at first all of it, then what the first
// block has written to, since few of the library's kernels have much.
class StaticShared {
 public:
  void fill() {
    const auto [begin, size] = static_shared();
    if (begin == nullptr) return;
    const auto is_nan = [](unsigned char byte) { return byte == kNaN; };
    if (blocks_ == 1) {
      first_ = std::find_if_not(begin, begin + size, is_nan) - begin;
      for (last_ = size; last_ > first_ && is_nan(begin[last_ - 1]);) --last_;
    }
    if (blocks_ == 0) last_ = size;
    memset(begin + first_, kNaN, last_ - first_);
    ++blocks_;
  }

 private:
  int64_t blocks_ = 0;
  size_t first_ = 0, last_ = 0;
};

void run_block(uint3 index, dim3 size, int64_t shared) {
  blockIdx = index;
  block.error.clear();
  block.ready.clear();
  block.barriers.clear();
  const size_t count = size_t(size.x) * size.y * size.z;
  block.collectives.assign((count + kLanes - 1) / kLanes, {});
  const std::unique_ptr<unsigned char[]> memory(shared == 0 ? nullptr : new unsigned char[shared]);
  block.shared = memory.get();
  if (shared != 0) memset(block.shared, kNaN, shared);

  std::vector<Thread*> all;
  while (block.threads.size() < count) block.threads.push_back(std::make_unique<Thread>());
  for (size_t i = 0; i < count; ++i) {
    Thread& thread = *block.threads[i];
    const auto number = static_cast<unsigned>(i);
    thread.number = static_cast<int>(i);
    thread.index = {number % size.x, number / size.x % size.y, number / size.x / size.y};
    thread.fiber.prepare(run_thread, &thread);
    all.push_back(&thread);
  }
  make_ready(all);
  leave(block.system);
  const auto ended = [](Thread* thread) { return thread->state == State::kEnded; };
  if (block.error.empty() && !std::all_of(all.begin(), all.end(), ended)) block.error = why_stuck();
}

std::string name_of(const void* kernel) {
  Dl_info found{};
  return dladdr(kernel, &found) != 0 && found.dli_sname != nullptr ? found.dli_sname : "a kernel";
}

void check_launch(dim3 grid, dim3 size) {
  constexpr unsigned kMostBlocks = 65535, kMostThreads = 1024, kMostDeep = 64;  // along y and z; of a block; along z
  TORCH_CHECK(
      grid.x <= 0x7fffffffu && grid.y <= kMostBlocks && grid.z <= kMostBlocks, "a grid must have at most 2^31 - 1, ",
      kMostBlocks, ", ", kMostBlocks, " blocks, got ", text({grid.x, grid.y, grid.z}));
  TORCH_CHECK(
      uint64_t(size.x) * size.y * size.z <= kMostThreads && size.z <= kMostDeep && size.x * size.y * size.z > 0,
      "a block must have 1 to ", kMostThreads, " threads, got ", text({size.x, size.y, size.z}));
}

}  // namespace

void run(const void* kernel, dim3 grid, dim3 size, int64_t shared, const std::function<void()>& thread) {
  static std::mutex one_at_a_time;
  const std::lock_guard<std::mutex> lock(one_at_a_time);
  check_launch(grid, size);
  const char* const wanted = std::getenv("HYPERLOADER_CUDA_HOST_ORDER");
  const std::string name = wanted == nullptr ? "forward" : wanted;
  TORCH_CHECK_VALUE(
      name == "forward" || name == "reversed" || name == "shuffled",
      "HYPERLOADER_CUDA_HOST_ORDER must be forward, reversed or shuffled, got ", name);
  order = name == "forward" ? Order::kForward : name == "reversed" ? Order::kReversed : Order::kShuffled;
  random_numbers.seed(0);
  body = &thread;
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
  for (const uint3 index : blocks) {
    variables.fill();
    run_block(index, size, shared);
    TORCH_CHECK(block.error.empty(), name_of(kernel), ", block ", text(index), ": ", block.error);
  }
}

void fail(const std::string& message) {
  Thread& own = *block.running;
  block.error = "thread " + text(own.index) + ": " + message;
  own.state = State::kEnded;
  leave(own.fiber);
  std::abort();  // it is never entered again
}

int thread_of_block() { return block.running->number; }

void* dynamic_shared() { return block.shared; }

void barrier(const char* name, int number, int count, Place place) {
  const size_t wanted = count < 0 ? size_t(blockDim.x) * blockDim.y * blockDim.z : count;
  const auto [found, first] = block.barriers.try_emplace(number, Barrier{name, place, wanted, {}});
  Barrier& barrier = found->second;
  if (!same(name, place, barrier.name, barrier.place) || barrier.count != wanted) {
    fail(text(name, place) + ", while others wait at " + text(barrier.name, barrier.place));
  }
  barrier.here.push_back(block.running);
  if (barrier.here.size() < wanted) return wait(name, place);
  std::vector<Thread*> all = std::move(barrier.here);
  block.barriers.erase(found);
  Thread& own = *block.running;
  make_ready(std::move(all));
  leave(own.fiber);
}

void collective(
    const char* name, unsigned mask, void* operand, void (*combine)(const Operands&), bool orders, Place place) {
  Thread& thread = *block.running;
  auto& waiting = block.collectives[thread.number / kLanes];
  const unsigned own = 1u << lane();
  if ((mask & own) == 0) fail(text(name, place) + " with a mask that leaves out the lane itself");
  auto found = std::find_if(waiting.begin(), waiting.end(), [&](const Collective& c) { return (c.mask & mask) != 0; });
  if (found == waiting.end()) found = waiting.insert(found, Collective{name, place, mask, 0, {}});
  if (found->mask != mask || !same(name, place, found->name, found->place)) {
    fail(text(name, place) + ", while other lanes of its mask wait at " + text(found->name, found->place));
  }
  found->here |= own;
  found->operands[lane()] = operand;
  if (found->here != mask) return wait(name, place);
  const Collective all = *found;
  waiting.erase(found);
  combine(all.operands);
  std::vector<Thread*> lanes;
  const int first = thread.number / kLanes * kLanes;
  for (int i = 0; i < kLanes; ++i) {
    if ((mask >> i & 1u) != 0) lanes.push_back(block.threads[first + i].get());
  }
  make_ready(std::move(lanes));
  leave(thread.fiber);
}

}  // namespace cuda_host
