// The inner loops, written once with the compiler's vector types. Every <instruction set>.cpp includes this
// file after naming the instruction set (HYPERLOADER_ISA), its vectors (HYPERLOADER_VECTOR_BYTES) and its tiles.
// Nothing here may call an inline function of a header: its one copy would be shared with code for other machines.

namespace hyperloader::cpu::HYPERLOADER_ISA {
namespace {

#include "vectors.h"
#include "panels.h"
#include "products.h"
#include "transpose.h"
#include "activations.h"
#include "rows.h"
#include "dtypes.h"

template <typename T>
constexpr Loops<T> table() {
  return {
      HYPERLOADER_NAME,
      kLanes<T>,
      dot<T>,
      accumulate<T>,
      transpose<T>,
      activate<T>,
      activate_with_slope<T>,
      find_cancelled<T>,
      outer_basis<T>,
      outer_backward<T>,
      multiply<T>,
      add<T>,
      centre<T>,
      moments<T>,
      normalise<T>,
      normalise_backward<T>,
      widen<T>,
      narrow<T>,
  };
}

}  // namespace

extern const Loops<float> kFloat = table<float>();
extern const Loops<double> kDouble = table<double>();

}  // namespace hyperloader::cpu::HYPERLOADER_ISA
