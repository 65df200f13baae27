// The block that runs, for the parts of the runtime.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "fiber.h"
#include "runtime.h"

namespace cuda_host {

enum class State { kReady, kWaits, kEnded };

struct Copy {
  void* to;
  const void* from;
  size_t bytes;
};

struct Thread {
  Fiber fiber;
  int number;
  uint3 index;
  State state;
  const char* name;  // of what it waits for
  Place place;
  std::vector<Copy> copies;  // of no batch yet
  std::deque<std::vector<Copy>> batches;
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

// Rows on their way to those who wait for them.
struct Arrivals {
  int phase = 0;
  uint64_t number = 0;  // of the use that has ended last
  bool expected = false;
  size_t bytes = 0;
  std::vector<Copy> copies;
  std::vector<Thread*> waiting;
};

struct Block {
  std::vector<std::unique_ptr<Thread>> threads;  // of this block and, after them, of larger ones before
  size_t count = 0;
  std::deque<Thread*> ready;
  Thread* running = nullptr;
  Fiber system;
  std::vector<std::vector<Collective>> collectives;  // of each warp
  std::map<int, Barrier> barriers;
  std::map<const void*, Arrivals> arrivals;
  unsigned char* shared = nullptr;
  size_t shared_bytes = 0;
  std::string error;
};

extern Block block;  // one kernel runs at a time

enum class Order { kForward, kReversed, kShuffled };

// Sets the order in which blocks and threads run from now on.
void set_order(Order order);
void arrange(std::vector<uint3>& blocks);

std::string text(uint3 index);
std::string text(const char* name, Place place);
bool same(const char* name, Place place, const char* other_name, Place other);

void run_block(uint3 index, dim3 size, int64_t shared, const std::function<void()>& thread);

// The running thread waits, until somebody makes it ready.
void wait(const char* name, Place place);
// These threads may go on.
void make_ready(std::vector<Thread*>& threads);
// These threads may go on, the running one among them; another may go first.
void go_on(std::vector<Thread*> threads);

// The bytes of a copy are not a number, and nobody's, from its beginning to its end.
void begin_copy(void* to, size_t bytes);
void end_copy(const Copy& copy);

constexpr int kNaN = 0xff;  // every byte: not a number in all dtypes

// The memory of every `__shared__` variable of the library, none where AddressSanitizer guards each of them.
struct Memory {
  unsigned char* begin = nullptr;
  size_t size = 0;
};
Memory static_shared();

// Fills it before each block of a launch: at first all of it, then what the first block has written to, since one
// kernel has little of the library's variables.
class StaticShared {
 public:
  void fill();

 private:
  int64_t blocks_ = 0;
  size_t first_ = 0, last_ = 0;
};

}  // namespace cuda_host
