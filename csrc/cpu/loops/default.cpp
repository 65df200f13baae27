// The inner loops for any machine of the compiler's target.
#include "loops.h"

#define HYPERLOADER_ISA plain
#define HYPERLOADER_NAME "default"
#define HYPERLOADER_VECTOR_BYTES 16
#define HYPERLOADER_DOT_COLUMNS 2
#define HYPERLOADER_SUM_ROWS 6
#define HYPERLOADER_SUM_VECTORS 2
#include "implementation.h"
