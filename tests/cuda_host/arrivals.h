// Rows that the device copies by itself, and what threads wait for them at.
#pragma once

#include "runtime.h"

namespace cuda_host {

// Whether it does: HYPERLOADER_CUDA_HOST_ROWS is not 0, as on an H100; 0: as on an A100.
bool copies_rows();

void prepare_arrival(const void* arrival);
// By one thread a use: so many bytes come, and nothing more.
void expect_bytes(const void* arrival, size_t bytes);
// They arrive when somebody waits and as many as expected are on their way. Until then they are not a number.
void copy_for(const void* arrival, void* to, const void* from, size_t bytes);
// By every thread that wrote where rows come to later.
void order_writes();
// Until the use of this phase, 0 or 1, has ended.
void wait_for(const void* arrival, int phase, Place place);

}  // namespace cuda_host
