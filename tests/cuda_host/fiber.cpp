#include "fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <new>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace cuda_host {
namespace {

constexpr size_t kStack = 256 << 10, kMost = 1024;  // bytes of a stack, which take memory when they are used; stacks

// All stacks, side by side.
char* stacks() {
  static char* const found = [] {
    constexpr int kKind = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    void* const memory = mmap(nullptr, kMost * kStack, PROT_READ | PROT_WRITE, kKind, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    return static_cast<char*>(memory);
  }();
  return found;
}

size_t stacks_used = 0;

Fiber* running = nullptr;  // the one that was entered last
Fiber* left = nullptr;     // and the one before

}  // namespace

#if defined(__x86_64__)
// Saves the registers that a function must keep and changes stacks. swapcontext would call the system each time.
asm(R"(
.text
.type cuda_host_change_stacks, @function
cuda_host_change_stacks:
  push %rbp
  push %rbx
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp, (%rdi)
  mov %rsi, %rsp
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbx
  pop %rbp
  ret
.size cuda_host_change_stacks, . - cuda_host_change_stacks
)");
extern "C" void cuda_host_change_stacks(void** save, void* next) __attribute__((visibility("hidden")));
#endif

bool Fiber::on_a_stack(const void* address) { return address >= stacks() && address < stacks() + stacks_used * kStack; }

void Fiber::prepare(void (*run)(void*), void* argument) {
  if (stack_ == nullptr) {
    if (stacks_used == kMost) throw std::bad_alloc();
    stack_ = stacks() + stacks_used++ * kStack;
  }
#if defined(__SANITIZE_ADDRESS__)
#if defined(__x86_64__)
  char* const lowest = top_ == nullptr ? stack_ + kStack : static_cast<char*>(top_);
#else
  char* const lowest = stack_;
#endif
  ASAN_UNPOISON_MEMORY_REGION(lowest, stack_ + kStack - lowest);  // of functions that it never returned from
#endif
  run_ = run;
  argument_ = argument;
  fake_ = nullptr;
#if defined(__x86_64__)
  // As `change_stacks` finds it: six registers, where to go on, and the place of a return address never used.
  constexpr int kRegisters = 6;
  auto* const top = reinterpret_cast<void**>(stack_ + kStack) - 2;
  top[0] = reinterpret_cast<void*>(&Fiber::begin);
  top[1] = nullptr;
  for (int i = 1; i <= kRegisters; ++i) top[-i] = nullptr;
  top_ = top - kRegisters;
#else
  if (top_ == nullptr) top_ = new ucontext_t;
  auto* const context = static_cast<ucontext_t*>(top_);
  getcontext(context);
  context->uc_stack.ss_sp = stack_;
  context->uc_stack.ss_size = kStack;
  context->uc_link = nullptr;
  makecontext(context, &Fiber::begin, 0);
#endif
}

void Fiber::enter(Fiber& from) {
  left = &from;
  running = this;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&from.fake_, stack_ == nullptr ? bottom_ : stack_, stack_ == nullptr ? size_ : kStack);
#endif
#if defined(__x86_64__)
  cuda_host_change_stacks(&from.top_, top_);
#else
  if (from.top_ == nullptr) from.top_ = new ucontext_t;
  swapcontext(static_cast<ucontext_t*>(from.top_), static_cast<ucontext_t*>(top_));
#endif
  from.arrived();
}

void Fiber::arrived() {
#if defined(__SANITIZE_ADDRESS__)
  const void* bottom = nullptr;
  size_t size = 0;
  __sanitizer_finish_switch_fiber(fake_, &bottom, &size);
  if (left->stack_ == nullptr) {  // the system's own thread
    left->bottom_ = bottom;
    left->size_ = size;
  }
#endif
}

void Fiber::begin() {
  Fiber& self = *running;
  self.arrived();
  self.run_(self.argument_);
  std::abort();  // it returned
}

}  // namespace cuda_host
