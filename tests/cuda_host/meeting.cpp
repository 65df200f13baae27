// Where threads wait for each other.
#include <algorithm>
#include <cstring>

#include "block.h"
#include "races.h"

namespace cuda_host {

void barrier(const char* name, int number, int count, Place place) {
  const size_t wanted = count < 0 ? block.count : count;
  const auto [found, first] = block.barriers.try_emplace(number, Barrier{name, place, wanted, {}});
  Barrier& barrier = found->second;
  if (!same(name, place, barrier.name, barrier.place) || barrier.count != wanted) {
    fail(text(name, place) + ", while others wait at " + text(barrier.name, barrier.place));
  }
  barrier.here.push_back(block.running);
  if (barrier.here.size() < wanted) return wait(name, place);
  std::vector<Thread*> all = std::move(barrier.here);
  block.barriers.erase(found);
  races::join(all);
  go_on(std::move(all));
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
  if (orders) races::join(lanes);
  go_on(std::move(lanes));
}

}  // namespace cuda_host
