#pragma once

#include "cpu/kernels/kernels.h"

namespace fa::cpu::FA_CPU_TARGET {

/// o and lse of one query tile.
void forward(const ForwardTile& tile);

}  // namespace fa::cpu::FA_CPU_TARGET
