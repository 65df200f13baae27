// The inner loops for any machine of the compiler's target, and the choice among all of them.
#include <ATen/Version.h>

#include <string>

#include "kernels.h"

#define HYPERLOADER_ISA plain
#define HYPERLOADER_NAME "default"
#define HYPERLOADER_VECTOR_BYTES 16
#define HYPERLOADER_DOT_COLUMNS 2
#define HYPERLOADER_SUM_ROWS 6
#define HYPERLOADER_SUM_VECTORS 2
#include "kernels_impl.h"

namespace hyperloader::cpu {

#if defined(__x86_64__)
namespace avx2 {
extern const Kernels<float> kFloat;
extern const Kernels<double> kDouble;
}  // namespace avx2
namespace avx512 {
extern const Kernels<float> kFloat;
extern const Kernels<double> kDouble;
}  // namespace avx512

namespace {
// What PyTorch itself has chosen.
bool can(const char* capability) {
  static const std::string chosen = at::get_cpu_capability();
  return chosen == capability;
}
}  // namespace

template <>
const Kernels<float>& kernels<float>() {
  static const Kernels<float>& best = can("AVX512") ? avx512::kFloat : can("AVX2") ? avx2::kFloat : plain::kFloat;
  return best;
}

template <>
const Kernels<double>& kernels<double>() {
  static const Kernels<double>& best = can("AVX512") ? avx512::kDouble : can("AVX2") ? avx2::kDouble : plain::kDouble;
  return best;
}
#else
template <>
const Kernels<float>& kernels<float>() {
  return plain::kFloat;
}

template <>
const Kernels<double>& kernels<double>() {
  return plain::kDouble;
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
