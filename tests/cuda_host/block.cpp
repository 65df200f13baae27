// The threads of a block take turns: each runs until it has to wait for others.
#include "block.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string_view>

#include "races.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace cuda_host {

Block block;

namespace {

Order order;
std::mt19937 random_numbers;
const std::function<void()>* body = nullptr;

template <typename Items>
void arrange_any(Items& items) {
  if (order == Order::kReversed) std::reverse(items.begin(), items.end());
  if (order == Order::kShuffled) std::shuffle(items.begin(), items.end(), random_numbers);
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

// Why no thread can go on: one that waits, and one that it may wait for, of its own warp if there is such a thread.
std::string why_stuck() {
  const Thread *waits = nullptr, *other = nullptr;
  for (size_t i = 0; i < block.count; ++i) {
    const Thread* const thread = block.threads[i].get();
    if (waits == nullptr && thread->state == State::kWaits) waits = thread;
  }
  for (size_t i = 0; i < block.count; ++i) {
    const Thread* const thread = block.threads[i].get();
    if (thread->state != State::kEnded && same(thread->name, thread->place, waits->name, waits->place)) continue;
    const auto near = [&](const Thread* one) { return one->number / kLanes == waits->number / kLanes; };
    if (other == nullptr || (near(thread) && !near(other))) other = thread;
  }
  std::string found = "thread " + text(waits->index) + " waits at " + text(waits->name, waits->place);
  if (other == nullptr) return found;
  found += ", thread " + text(other->index);
  return found + (other->state == State::kEnded ? " has ended" : " waits at " + text(other->name, other->place));
}

}  // namespace

void set_order(Order wanted) {
  order = wanted;
  random_numbers.seed(0);
}

void arrange(std::vector<uint3>& blocks) { arrange_any(blocks); }

std::string text(uint3 index) {
  return "(" + std::to_string(index.x) + ", " + std::to_string(index.y) + ", " + std::to_string(index.z) + ")";
}

std::string text(const char* name, Place place) {
  const std::string_view file(place.file);
  return std::string(name) + " (" + std::string(file.substr(file.rfind('/') + 1)) + ":" + std::to_string(place.line) +
         ")";
}

bool same(const char* name, Place place, const char* other_name, Place other) {
  return strcmp(name, other_name) == 0 && place.line == other.line && strcmp(place.file, other.file) == 0;
}

void run_block(uint3 index, dim3 size, int64_t shared, const std::function<void()>& thread) {
  body = &thread;
  blockIdx = index;
  block.error.clear();
  block.ready.clear();
  block.barriers.clear();
  block.arrivals.clear();
  block.count = size_t(size.x) * size.y * size.z;
  block.collectives.assign((block.count + kLanes - 1) / kLanes, {});
  const std::unique_ptr<unsigned char[]> memory(new unsigned char[shared]);
  block.shared = memory.get();
  block.shared_bytes = shared;
  memset(block.shared, kNaN, shared);

  std::vector<Thread*> all;
  while (block.threads.size() < block.count) block.threads.push_back(std::make_unique<Thread>());
  for (size_t i = 0; i < block.count; ++i) {
    Thread& own = *block.threads[i];
    const auto number = static_cast<unsigned>(i);
    own.number = static_cast<int>(i);
    own.index = {number % size.x, number / size.x % size.y, number / size.x / size.y};
    own.copies.clear();
    own.batches.clear();
    own.fiber.prepare(run_thread, &own);
    all.push_back(&own);
  }
  races::begin_block();
  make_ready(all);
  leave(block.system);
  races::end_block();
  const auto ended = [](Thread* thread) { return thread->state == State::kEnded; };
  if (block.error.empty() && !std::all_of(all.begin(), all.end(), ended)) block.error = why_stuck();
}

void wait(const char* name, Place place) {
  Thread& own = *block.running;
  own.state = State::kWaits;
  own.name = name;
  own.place = place;
  leave(own.fiber);
}

void make_ready(std::vector<Thread*>& threads) {
  arrange_any(threads);
  for (Thread* const thread : threads) {
    thread->state = State::kReady;
    block.ready.push_back(thread);
  }
}

void go_on(std::vector<Thread*> threads) {
  Thread& own = *block.running;
  make_ready(threads);
  leave(own.fiber);
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

}  // namespace cuda_host
