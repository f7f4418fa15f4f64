// Definition of launch_shared_grad_bias, included where kernels are instantiated.
#pragma once

#include "kernels/sm90/grad_bias/config.h"
#include "kernels/sm90/grad_bias/kernel.cuh"
#include "kernels/sm90/grad_bias/launch.h"
#include "runtime/cuda_check.h"

namespace fa::sm90 {

template <typename Config>
void launch_shared_grad_bias(const SharedGradBiasParams& params, int blocks, cudaStream_t stream) {
  constexpr int kSharedBytes = static_cast<int>(Config::kTile.shared_memory_bytes());
  // More than 48 KiB must be asked for, per device; the call is cheap.
  cuda_check(cudaFuncSetAttribute(shared_grad_bias_kernel<Config>, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes),
             "shared memory request of the sm90 kernel for the gradient of a bias");
  void* arguments[] = {const_cast<SharedGradBiasParams*>(&params)};
  cuda_check(cudaLaunchKernel(reinterpret_cast<const void*>(shared_grad_bias_kernel<Config>), dim3(static_cast<unsigned>(blocks)), dim3(Config::kThreads),
                              arguments, kSharedBytes, stream),
             "launch of the sm90 kernel for the gradient of a bias");
}

}  // namespace fa::sm90
