// Threads of execution that take turns on one thread of the system.
#pragma once

#include <cstddef>

namespace cuda_host {

// Of all fibers there may be as many as a block has threads.
class Fiber {
 public:
  Fiber() = default;
  Fiber(const Fiber&) = delete;

  // Sets it to the beginning of run(argument), which must not return. What it did before is forgotten.
  void prepare(void (*run)(void*), void* argument);

  // Leaves `from`, which may be the system's own thread, and goes on here.
  void enter(Fiber& from);

  static bool on_a_stack(const void* address);

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
