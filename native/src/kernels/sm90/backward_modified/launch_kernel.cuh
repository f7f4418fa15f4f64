// Definition of launch_modified_backward, included where kernels are instantiated.
#pragma once

#include "kernels/sm90/backward_modified/config.h"
#include "kernels/sm90/backward_modified/kernel.cuh"
#include "kernels/sm90/backward_modified/launch.h"
#include "runtime/cuda_check.h"
#include "runtime/launch_dependent.h"

namespace fa::sm90 {

template <typename Config>
void launch_modified_backward(const ModifiedBackwardParams& params, int blocks, cudaStream_t stream) {
  constexpr int kSharedBytes = static_cast<int>(Config::kTile.shared_memory_bytes());
  // More than 48 KiB must be asked for, per device; the call is cheap.
  cuda_check(cudaFuncSetAttribute(backward_modified_kernel<Config>, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes),
             "shared memory request of the sm90 backward kernel with modified scores");
  void* arguments[] = {const_cast<ModifiedBackwardParams*>(&params)};
  const void* kernel = reinterpret_cast<const void*>(backward_modified_kernel<Config>);
  const char* what = "launch of the sm90 backward kernel with modified scores";
  if constexpr (Config::kBeginsEarly) {
    launch_dependent(kernel, static_cast<unsigned>(blocks), Config::kThreads, arguments, kSharedBytes, stream, what);
  } else {
    cuda_check(cudaLaunchKernel(kernel, dim3(static_cast<unsigned>(blocks)), dim3(Config::kThreads), arguments, kSharedBytes, stream), what);
  }
}

}  // namespace fa::sm90
