// Which kernels this machine runs.
#pragma once

#include "cpu/kernels/kernels.h"

namespace fa::cpu {

/// The kernels of the best instruction set that the machine and the build have, or of a lower one that FLASH_ATTENTION_CPU_ISA (plain, avx2, avx512) names when
/// the process first asks.
const KernelTable& kernels();

}  // namespace fa::cpu
