// Definition of launch_modified_backward, included where kernels are instantiated.
#pragma once

#include "kernels/sm90/backward_modified/config.h"
#include "kernels/sm90/backward_modified/kernel.cuh"
#include "kernels/sm90/backward_modified/launch.h"
#include "runtime/cuda_check.h"

namespace fa::sm90 {

template <typename Config>
void launch_modified_backward(const ModifiedBackwardParams& params, int blocks, cudaStream_t stream) {
  constexpr int kSharedBytes = static_cast<int>(Config::kTile.shared_memory_bytes());
  // More than 48 KiB must be asked for, per device; the call is cheap.
  cuda_check(cudaFuncSetAttribute(backward_modified_kernel<Config>, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes),
             "shared memory request of the sm90 backward kernel with modified scores");
  void* arguments[] = {const_cast<ModifiedBackwardParams*>(&params)};
  cuda_check(cudaLaunchKernel(reinterpret_cast<const void*>(backward_modified_kernel<Config>), dim3(static_cast<unsigned>(blocks)), dim3(Config::kThreads),
                              arguments, kSharedBytes, stream),
             "launch of the sm90 backward kernel with modified scores");
}

}  // namespace fa::sm90
