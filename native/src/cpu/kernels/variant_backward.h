#pragma once

#include "cpu/kernels/variant_tile.h"

namespace fa::cpu::FA_CPU_TARGET {

// See KernelTable.
bool variant_backward_scores(BackwardTile* tile, VariantTile* variant, KeyTile keys, bool first);
void variant_backward_accumulate(const BackwardTile& tile, const VariantTile& variant, KeyTile keys, bool visited, bool first, float* grad_k, float* grad_v);

}  // namespace fa::cpu::FA_CPU_TARGET
