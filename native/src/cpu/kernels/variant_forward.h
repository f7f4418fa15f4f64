#pragma once

#include "cpu/kernels/variant_tile.h"

namespace fa::cpu::FA_CPU_TARGET {

/// See KernelTable.
void variant_forward(const ForwardTile& tile, const VariantTile& variant);

}  // namespace fa::cpu::FA_CPU_TARGET
