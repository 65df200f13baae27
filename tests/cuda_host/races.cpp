#include "races.h"

#include <algorithm>
#include <array>
#include <memory>
#include <tuple>
#include <unordered_map>

#include "symbols.h"

namespace cuda_host::races {
namespace {

constexpr uintptr_t kGrain = 2;  // bytes that are watched together: no kernel has smaller numbers

// An access by a thread, and when: after how many barriers of the whole block, and of its own.
struct Access {
  uint64_t block = 0;  // 0: there is none
  uint32_t barriers = 0, count = 0;
  int thread = 0;
  const void* code = nullptr;
};

struct Grain {
  uint64_t since = 0;    // the launch or, of shared memory, the block that the accesses belong to
  bool copies = false;   // a copy is under way
  uint64_t arrival = 0;  // by which the bytes have come, and after how many barriers; 0: by none
  uint32_t barriers = 0;
  Access write;
  std::array<Access, 2> reads;
};

using Page = std::array<Grain, 512>;

bool watching = false;
uint64_t launch_number = 0, block_number = 0, numbers = 0;
std::unordered_map<uintptr_t, std::unique_ptr<Page>> pages;
Memory variables;

// What the threads know of each other since the last barrier of the whole block: row t holds how many of the periods
// between its barriers thread t has seen of every thread. A row from before that barrier counts as new.
uint32_t barriers = 0;
std::vector<uint32_t> row_since;
std::vector<uint32_t> seen;
std::vector<std::vector<uint64_t>> arrivals;  // that each thread has waited for
std::vector<int64_t> ordered;                 // after how many barriers of the block each thread has ordered its writes

uint32_t* row(int thread) {
  const size_t count = block.count;
  uint32_t* const found = seen.data() + thread * count;
  if (row_since[thread] != barriers) {
    std::fill_n(found, count, 0);
    found[thread] = 1;
    row_since[thread] = barriers;
  }
  return found;
}

// Of the running thread's own periods.
uint32_t period(int thread) { return row_since[thread] == barriers ? seen[thread * block.count + thread] : 1; }

bool is_ordered(const Access& before, const Access& now) {
  if (before.block == 0) return true;
  if (before.block != now.block) return false;
  if (before.thread == now.thread || before.barriers < now.barriers) return true;
  return row_since[now.thread] == barriers && seen[now.thread * block.count + before.thread] >= before.count;
}

bool is_variable(const unsigned char* address) {
  return address >= variables.begin && address < variables.begin + variables.size;
}
bool is_dynamic(const unsigned char* address) {
  return address >= block.shared && address < block.shared + block.shared_bytes;
}

std::string text(const Access& access, bool writes) {
  std::string found = writes ? "a write" : "a read";
  if (access.block == block_number) {
    found += " by thread " + cuda_host::text(block.threads[access.thread]->index);
  } else {
    found += " by thread " + std::to_string(access.thread) + " of another block";
  }
  return found + " at " + line_of(access.code);
}

std::string place_of(const unsigned char* address) {
  if (is_dynamic(address)) return "dynamic shared memory + " + std::to_string(address - block.shared);
  return is_variable(address) ? "a __shared__ variable" : "global memory";
}

[[noreturn]] void report(
    const unsigned char* address, const Access& before, bool wrote, const Access& now, bool writes) {
  watching = false;
  fail("race in " + place_of(address) + ": nothing orders " + text(before, wrote) + " and " + text(now, writes));
}

uintptr_t last = 0;  // the page that was asked for last, and its number
Page* page = nullptr;

Grain& grain_of(uintptr_t address) {
  constexpr uintptr_t kBytes = std::tuple_size_v<Page> * kGrain;
  if (page == nullptr || last != address / kBytes) {
    last = address / kBytes;
    auto& found = pages[last];
    if (found == nullptr) found = std::make_unique<Page>();
    page = found.get();
  }
  return (*page)[address % kBytes / kGrain];
}

// Of two reads that nothing orders both are kept, those of different blocks or warps before others.
void keep(std::array<Access, 2>& reads, const Access& now) {
  for (Access& read : reads) {
    if (is_ordered(read, now)) {
      read = now;
      return;
    }
  }
  const auto apart = [&](const Access& read) {
    return read.block != now.block || read.thread / kLanes != now.thread / kLanes;
  };
  if (apart(reads[0])) reads[1] = now;
}

}  // namespace

// What was seen before means nothing any more, and takes fifty times the memory that it is about.
void begin_launch() {
  constexpr size_t kMostPages = 4096;
  launch_number = ++numbers;
  if (pages.size() <= kMostPages) return;
  pages.clear();
  page = nullptr;
}

void begin_block() {
  block_number = ++numbers;
  barriers = 0;
  row_since.assign(block.count, ~0u);
  seen.resize(block.count * block.count);
  arrivals.assign(block.count, {});
  ordered.assign(block.count, -1);
  variables = static_shared();
  watching = true;
}

void end_block() { watching = false; }

void join(const std::vector<Thread*>& threads) {
  if (threads.size() == block.count) {
    ++barriers;
    return;
  }
  std::vector<uint32_t> all(block.count, 0);
  for (const Thread* const thread : threads) {
    const uint32_t* const own = row(thread->number);
    for (size_t i = 0; i < block.count; ++i) all[i] = std::max(all[i], own[i]);
  }
  for (const Thread* const thread : threads) {
    std::copy(all.begin(), all.end(), row(thread->number));
    ++row(thread->number)[thread->number];
  }
}

void touch(const void* address, size_t bytes, bool writes, const void* code) {
  if (!watching) return;
  if (Fiber::on_a_stack(address)) return;  // a thread's own memory
  const auto* const begin = static_cast<const unsigned char*>(address);
  const uint64_t since = is_dynamic(begin) || is_variable(begin) ? block_number : launch_number;
  const int thread = thread_of_block();
  const Access now{block_number, barriers, period(thread), thread, code};
  const auto first = reinterpret_cast<uintptr_t>(address);
  for (uintptr_t at = first / kGrain * kGrain; at < first + bytes; at += kGrain) {
    Grain& grain = grain_of(at);
    if (grain.since != since) grain = Grain{since};
    if (grain.copies) {
      watching = false;
      fail(text(now, writes) + " of " + place_of(begin) + ", to which a copy is under way");
    }
    if (grain.arrival != 0 && grain.barriers == barriers) {
      const auto& own = arrivals[thread];
      if (std::find(own.rbegin(), own.rend(), grain.arrival) == own.rend()) {
        watching = false;
        fail(text(now, writes) + " of " + place_of(begin) + ", to which rows came that it has not waited for");
      }
    }
    if (!is_ordered(grain.write, now)) report(begin, grain.write, true, now, writes);
    if (!writes) {
      keep(grain.reads, now);
      continue;
    }
    for (const Access& read : grain.reads) {
      if (!is_ordered(read, now)) report(begin, read, false, now, true);
    }
    grain.write = now;
    grain.reads = {};
  }
}

void expect(const void* address, size_t bytes, bool copy) {
  const auto first = reinterpret_cast<uintptr_t>(address);
  for (uintptr_t at = first; at < first + bytes; at += kGrain) grain_of(at).copies = copy;
}

void arrive(const void* address, size_t bytes, uint64_t arrival) {
  const auto first = reinterpret_cast<uintptr_t>(address);
  for (uintptr_t at = first; at < first + bytes; at += kGrain) {
    Grain& grain = grain_of(at) = Grain{block_number};
    grain.arrival = arrival;
    grain.barriers = barriers;
  }
}

void waited(uint64_t arrival) { arrivals[thread_of_block()].push_back(arrival); }

void order_writes() { ordered[thread_of_block()] = barriers; }

void rows_come(const void* address, size_t bytes) {
  const auto first = reinterpret_cast<uintptr_t>(address);
  for (uintptr_t at = first; at < first + bytes; at += kGrain) {
    const Grain& grain = grain_of(at);
    const Access& write = grain.write;
    if (grain.since != block_number || write.block != block_number || ordered[write.thread] >= write.barriers) continue;
    watching = false;
    fail("rows come over " + text(write, true) + " that did not call write_before_rows");
  }
}

}  // namespace cuda_host::races
