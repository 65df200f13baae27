// The choice among the inner loops: the best that the processor has and whose registers the operating system saves.
// PyTorch's own choice, and with it ATEN_CPU_CAPABILITY, can only limit it.
#include <ATen/Version.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <string>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "loops.h"

namespace hyperloader::cpu {

namespace plain {
extern const Loops<float> kFloat;
extern const Loops<double> kDouble;
}  // namespace plain

#if defined(__x86_64__)
namespace avx2 {
extern const Loops<float> kFloat;
extern const Loops<double> kDouble;
}  // namespace avx2
namespace avx512 {
extern const Loops<float> kFloat;
extern const Loops<double> kDouble;
}  // namespace avx512
#endif
#if defined(HYPERLOADER_AVX512_BF16)
namespace avx512_bfloat16 {
extern const Products<float, BFloat16> kProducts;
}  // namespace avx512_bfloat16
#endif

#if defined(__x86_64__)
namespace {

enum class InstructionSet { kDefault, kAvx2, kAvx512 };  // each has what those before it have

// Everything that avx2.cpp is compiled for; both compilers take popcnt for granted beside avx2.
bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("popcnt");
}

// Clang, unlike GCC, takes f16c for granted beside avx512f; its older releases cannot ask for it by name.
bool has_f16c() {
#if defined(__clang__)
  unsigned int a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
#else
  return true;
#endif
}

// Everything that avx512.cpp is compiled for.
bool has_avx512() {
  return has_avx2() && has_f16c() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

InstructionSet of_processor() {
  __builtin_cpu_init();
  if (has_avx512()) return InstructionSet::kAvx512;
  return has_avx2() ? InstructionSet::kAvx2 : InstructionSet::kDefault;
}

InstructionSet limit() {
  const std::string chosen = at::get_cpu_capability();
  if (chosen == "AVX512") return InstructionSet::kAvx512;
  return chosen == "AVX2" ? InstructionSet::kAvx2 : InstructionSet::kDefault;
}

InstructionSet best() {
  static const InstructionSet best = std::min(of_processor(), limit());
  return best;
}

}  // namespace

template <>
const Loops<float>& loops<float>() {
  switch (best()) {
    case InstructionSet::kAvx512: return avx512::kFloat;
    case InstructionSet::kAvx2: return avx2::kFloat;
    default: return plain::kFloat;
  }
}

template <>
const Loops<double>& loops<double>() {
  switch (best()) {
    case InstructionSet::kAvx512: return avx512::kDouble;
    case InstructionSet::kAvx2: return avx2::kDouble;
    default: return plain::kDouble;
  }
}
#else
template <>
const Loops<float>& loops<float>() {
  return plain::kFloat;
}

template <>
const Loops<double>& loops<double>() {
  return plain::kDouble;
}

#endif

namespace {

template <typename T>
Products<T, T> products_of_loops() {
  return {loops<T>().dot, loops<T>().accumulate, loops<T>().accumulate};
}

}  // namespace

template <>
const Products<float, float>& products<float, float>() {
  static const Products<float, float> found = products_of_loops<float>();
  return found;
}

template <>
const Products<double, double>& products<double, double>() {
  static const Products<double, double> found = products_of_loops<double>();
  return found;
}

#if defined(HYPERLOADER_AVX512_BF16)
bool multiplies_bfloat16() {
  static const bool found = [] {                   // once: a virtual machine may take microseconds to answer
    constexpr unsigned int kAvx512Bf16 = 1U << 5;  // of leaf 7.1; older compilers do not know its name
    unsigned int a = 0, b = 0, c = 0, d = 0;
    return best() == InstructionSet::kAvx512 && __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && (a & kAvx512Bf16) != 0;
  }();
  return found;
}

template <>
const Products<float, BFloat16>& products<float, BFloat16>() {
  return avx512_bfloat16::kProducts;
}
#else
bool multiplies_bfloat16() { return false; }

template <>
const Products<float, BFloat16>& products<float, BFloat16>() {
  TORCH_CHECK_NOT_IMPLEMENTED(false, "products of bfloat16 rows are not compiled");
}
#endif

const char* const kInstructionSets[] = {
    "default",
#if defined(__x86_64__)
    "avx2",
    "avx512",
#endif
    nullptr,
};

}  // namespace hyperloader::cpu
