// Definition of launch_forward, included where kernels are instantiated.
#pragma once

#include "kernels/sm90/forward/config.h"
#include "kernels/sm90/forward/kernel.cuh"
#include "kernels/sm90/forward/launch.h"
#include "runtime/cuda_check.h"
#include "runtime/launch_dependent.h"

namespace fa::sm90 {

template <typename Config>
void launch_forward(const typename Config::Params& params, int64_t blocks, cudaStream_t stream) {
  constexpr int kSharedBytes = Config::kTeams * sizeof(typename Config::SharedStorage);
  // More than 48 KiB must be asked for, per device; the call is cheap.
  cuda_check(cudaFuncSetAttribute(forward_kernel<Config>, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes),
             "shared memory request of the sm90 forward kernel");
  void* arguments[] = {const_cast<typename Config::Params*>(&params)};
  if constexpr (Config::Scores::kMask) {
    launch_dependent(reinterpret_cast<const void*>(forward_kernel<Config>), static_cast<unsigned>(blocks), Config::kThreads, arguments, kSharedBytes, stream,
                     "launch of the sm90 forward kernel with masks");
  } else {
    cuda_check(cudaLaunchKernel(reinterpret_cast<const void*>(forward_kernel<Config>), dim3(static_cast<unsigned>(blocks)), dim3(Config::kThreads), arguments,
                                kSharedBytes, stream),
               "launch of the sm90 forward kernel");
  }
}

}  // namespace fa::sm90
