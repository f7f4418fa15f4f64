#pragma once

#include "cpu/kernels/kernels.h"

namespace fa::cpu::FA_CPU_TARGET {

/// See KernelTable.
void dropout_row(const DropoutKey& key, uint32_t query, int64_t keys, uint8_t* kept);

}  // namespace fa::cpu::FA_CPU_TARGET
