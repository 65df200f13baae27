// Finds accesses to one address that nothing orders, one of them a write. Compiled with CUDA_HOST_RACES alone, where
// the compiler announces every access.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "block.h"

namespace cuda_host::races {

#if defined(CUDA_HOST_RACES)
void begin_launch();
void begin_block();
void end_block();
// What each of these threads did before, all of them do after.
void join(const std::vector<Thread*>& threads);
// The running thread reads or writes; `code` is what it runs.
void touch(const void* address, size_t bytes, bool writes, const void* code = __builtin_return_address(0));
// From now on nobody may touch these bytes, or again.
void expect(const void* address, size_t bytes, bool copy);
// These bytes have arrived, for those who wait for them (`waited`) and, after a barrier of the block, for everybody;
// what was done to them before is over.
void arrive(const void* address, size_t bytes, uint64_t arrival);
void waited(uint64_t arrival);
// The running thread's writes until now come before rows that are copied to the same bytes.
void order_writes();
// Rows come to these bytes: whoever wrote to them has ordered that.
void rows_come(const void* address, size_t bytes);
#else
inline void begin_launch() {}
inline void begin_block() {}
inline void end_block() {}
inline void join(const std::vector<Thread*>&) {}
inline void touch(const void*, size_t, bool, const void* = nullptr) {}
inline void expect(const void*, size_t, bool) {}
inline void arrive(const void*, size_t, uint64_t) {}
inline void waited(uint64_t) {}
inline void order_writes() {}
inline void rows_come(const void*, size_t) {}
#endif

}  // namespace cuda_host::races
