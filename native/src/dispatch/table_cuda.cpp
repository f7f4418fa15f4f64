#include "dispatch/table.h"
#include "runtime/cuda_device_guard.h"

namespace fa {

namespace {

/// A launcher with the call's device current; the caller's current device is restored afterwards.
template <auto Launch, class Args>
void on_device(const Plan& plan, const Args& args) {
  const CudaDeviceGuard guard(args.device.index);
  Launch(plan, args);
}

}  // namespace

const KernelFamily kKernelFamilies[] = {
    {FA_KERNEL_CPU, cpu_forward, cpu_backward},
    {FA_KERNEL_SM80, on_device<sm80_forward, ForwardArgs>, on_device<sm80_backward, BackwardArgs>},
    {FA_KERNEL_SM90, on_device<sm90_forward, ForwardArgs>, on_device<sm90_backward, BackwardArgs>},
};
const int kNumKernelFamilies = sizeof(kKernelFamilies) / sizeof(kKernelFamilies[0]);

const OperationTable kOperations[] = {
    {FA_DEVICE_CPU, cpu_dropout_mask, cpu_merge, cpu_merge_backward},
    {FA_DEVICE_CUDA, cuda_dropout_mask, cuda_merge, cuda_merge_backward},
};
const int kNumOperations = sizeof(kOperations) / sizeof(kOperations[0]);

}  // namespace fa
