// Shared memory, and what is copied into it while its threads go on.
#include <dlfcn.h>
#include <link.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <iterator>

#include "block.h"
#include "races.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace cuda_host {

void end_copy(const Copy& copy) {
#if defined(__SANITIZE_ADDRESS__)
  ASAN_UNPOISON_MEMORY_REGION(copy.to, copy.bytes);
#endif
  if (copy.from != nullptr) {
    races::touch(copy.from, copy.bytes, false);
    memcpy(copy.to, copy.from, copy.bytes);
  } else {
    memset(copy.to, 0, copy.bytes);
  }
  races::expect(copy.to, copy.bytes, false);
  races::touch(copy.to, copy.bytes, true);
}

int64_t most_shared() {
  constexpr int64_t kOfH100 = 227 << 10;
  const char* const wanted = std::getenv("HYPERLOADER_CUDA_HOST_SHARED");
  return wanted == nullptr ? kOfH100 : std::atoll(wanted);
}

// They are variables of the system's thread: side by side in the memory that it has for this library.
Memory static_shared() {
  static thread_local char present;  // without a variable in use the system gives none
  asm volatile("" ::"r"(&present));
  struct Found {
    uintptr_t here;
    Memory memory;
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

void StaticShared::fill() {
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

void begin_copy(void* to, size_t bytes) {
  races::touch(to, bytes, true);
  races::expect(to, bytes, true);
  memset(to, kNaN, bytes);
#if defined(__SANITIZE_ADDRESS__)
  ASAN_POISON_MEMORY_REGION(to, bytes);
#endif
}

void copy_later(void* to, const void* from, size_t bytes) {
  const auto aligned = [&](const void* address) { return reinterpret_cast<uintptr_t>(address) % bytes == 0; };
  if (!aligned(to) || !aligned(from)) fail("an asynchronous copy between addresses that are not aligned");
  begin_copy(to, bytes);
  block.running->copies.push_back({to, from, bytes});
}

void close_copies() {
  block.running->batches.push_back(std::move(block.running->copies));
  block.running->copies.clear();
}

void finish_copies(size_t batches) {
  auto& own = block.running->batches;
  for (; own.size() > batches; own.pop_front()) {
    for (const Copy& copy : own.front()) end_copy(copy);
  }
}

}  // namespace cuda_host
