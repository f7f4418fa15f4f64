#include "dispatch/table.h"

namespace fa {

const KernelFamily kKernelFamilies[] = {
    {FA_KERNEL_CPU, cpu_forward, cpu_backward},
};
const int kNumKernelFamilies = sizeof(kKernelFamilies) / sizeof(kKernelFamilies[0]);

const OperationTable kOperations[] = {
    {FA_DEVICE_CPU, cpu_dropout_mask, cpu_merge, cpu_merge_backward},
};
const int kNumOperations = sizeof(kOperations) / sizeof(kOperations[0]);

}  // namespace fa
