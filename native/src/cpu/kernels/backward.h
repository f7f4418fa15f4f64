#pragma once

#include "cpu/kernels/kernels.h"

namespace fa::cpu::FA_CPU_TARGET {

// The steps of the backward pass of one query tile; see KernelTable.
void backward_begin(BackwardTile* tile);
void backward_scores(BackwardTile* tile, KeyTile keys, bool first);
void backward_accumulate(const BackwardTile& tile, KeyTile keys, bool first, float* grad_k, float* grad_v);
void backward_end(const BackwardTile& tile, bool empty);

}  // namespace fa::cpu::FA_CPU_TARGET
