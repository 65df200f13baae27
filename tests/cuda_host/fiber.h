// Threads of execution that take turns on one thread of the system.
#pragma once

#include <cstddef>

namespace cuda_host {

constexpr size_t kStack = 256 << 10;  // bytes of a fiber's stack

class Fiber {
 public:
  Fiber() = default;
  Fiber(const Fiber&) = delete;
  ~Fiber();

  // Sets it to the beginning of run(argument), which must not return. What it did before is forgotten.
  void prepare(void (*run)(void*), void* argument);

  // Leaves `from`, which may be the system's own thread, and goes on here.
  void enter(Fiber& from);

  bool holds(const void* address) const { return stack_ != nullptr && address >= stack_ && address < stack_ + kStack; }

 private:
  static void begin();
  void arrived();

  char* stack_ = nullptr;
  void* top_ = nullptr;  // its stack pointer while another runs
  void (*run_)(void*) = nullptr;
  void* argument_ = nullptr;
  void* fake_ = nullptr;          // AddressSanitizer's, while another runs
  const void* bottom_ = nullptr;  // of the system's own stack
  size_t size_ = 0;
};

}  // namespace cuda_host
