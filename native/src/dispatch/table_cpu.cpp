#include "dispatch/table.h"

namespace fa {

const KernelFamily kKernelFamilies[] = {
    {FA_KERNEL_CPU, cpu_forward, cpu_backward},
};
const int kNumKernelFamilies = sizeof(kKernelFamilies) / sizeof(kKernelFamilies[0]);

}  // namespace fa
