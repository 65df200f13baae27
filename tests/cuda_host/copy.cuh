// Stands in for csrc/cuda/copy.cuh: what is copied arrives when it is waited for, and no sooner.
#pragma once

#include "arrivals.h"

namespace hyperloader::cuda {

inline void copy_async_16(void* shared, const void* global, bool valid) {
  cuda_host::copy_later(shared, valid ? global : nullptr, 16);
}

inline void copy_commit() { cuda_host::close_copies(); }

template <int kBatches>
void copy_wait() {
  cuda_host::finish_copies(kBatches);
}

inline bool copies_rows() { return cuda_host::copies_rows(); }

struct Arrival {
  uint64_t state;

  void prepare() { cuda_host::prepare_arrival(this); }
  void expect(int bytes) { cuda_host::expect_bytes(this, bytes); }
  void copy(void* shared, const void* global, int bytes) { cuda_host::copy_for(this, shared, global, bytes); }
  void wait(int phase, const char* file = __builtin_FILE(), int line = __builtin_LINE()) const {
    cuda_host::wait_for(this, phase, {file, line});
  }
};

inline void write_before_rows() { cuda_host::order_writes(); }

inline void store_16(void* global, const uint4& words) { *static_cast<uint4*>(global) = words; }

}  // namespace hyperloader::cuda
