#include "arrivals.h"

#include <cstdlib>
#include <string_view>

#include "block.h"
#include "races.h"

namespace cuda_host {
namespace {

Arrivals& of(const void* arrival) {
  const auto found = block.arrivals.find(arrival);
  if (found == block.arrivals.end()) fail("an arrival that was not prepared");
  return found->second;
}

bool complete(const Arrivals& own) {
  size_t bytes = 0;
  for (const Copy& copy : own.copies) bytes += copy.bytes;
  if (own.expected && bytes > own.bytes) fail("more bytes come than an arrival expects");
  return own.expected && bytes == own.bytes;
}

// Who waits for a complete arrival may go on; the running thread does.
void wake(Arrivals& own) {
  if (!complete(own)) return;
  make_ready(own.waiting);
  own.waiting.clear();
}

}  // namespace

bool copies_rows() {
  const char* const wanted = std::getenv("HYPERLOADER_CUDA_HOST_ROWS");
  return wanted == nullptr || std::string_view(wanted) != "0";
}

void prepare_arrival(const void* arrival) { block.arrivals[arrival] = {}; }

void expect_bytes(const void* arrival, size_t bytes) {
  Arrivals& own = of(arrival);
  if (own.expected) fail("an arrival is used again before its phase has ended");
  own.expected = true;
  own.bytes = bytes;
  wake(own);
}

void copy_for(const void* arrival, void* to, const void* from, size_t bytes) {
  const auto whole = [](const void* address) { return reinterpret_cast<uintptr_t>(address) % 16 == 0; };
  if (!whole(to) || !whole(from) || bytes % 16 != 0) fail("a row that is not whole 16 bytes");
  races::rows_come(to, bytes);
  begin_copy(to, bytes);
  Arrivals& own = of(arrival);
  own.copies.push_back({to, from, bytes});
  wake(own);
}

void order_writes() { races::order_writes(); }

void wait_for(const void* arrival, int phase, Place place) {
  Arrivals& own = of(arrival);
  while (own.phase == phase && !complete(own)) {
    own.waiting.push_back(block.running);
    wait("Arrival::wait", place);
  }
  if (own.phase == phase) {
    static uint64_t uses = 0;
    own.number = ++uses;
    for (const Copy& copy : own.copies) {
      races::arrive(copy.to, copy.bytes, 0);  // whoever asked for them
      end_copy(copy);
      races::arrive(copy.to, copy.bytes, own.number);
    }
    own.copies.clear();
    own.expected = false;
    own.phase ^= 1;
  }
  races::waited(own.number);
}

}  // namespace cuda_host
