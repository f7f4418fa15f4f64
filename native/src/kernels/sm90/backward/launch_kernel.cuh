// Definition of launch_backward, included where kernels are instantiated.
#pragma once

#include "kernels/sm90/backward/config.h"
#include "kernels/sm90/backward/kernel.cuh"
#include "kernels/sm90/backward/launch.h"
#include "runtime/cuda_check.h"
#include "runtime/launch_dependent.h"

namespace fa::sm90 {

template <typename Config>
void launch_backward(const BackwardParams& params, cudaStream_t stream) {
  constexpr int kSharedBytes = static_cast<int>(Config::kTile.shared_memory_bytes());
  // More than 48 KiB must be asked for, per device; the call is cheap.
  cuda_check(cudaFuncSetAttribute(backward_kernel<Config>, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes),
             "shared memory request of the sm90 backward kernel");
  void* arguments[] = {const_cast<BackwardParams*>(&params)};
  const auto blocks = static_cast<unsigned>(static_cast<int64_t>(params.order.num_tiles) * params.order.num_heads);
  launch_dependent(reinterpret_cast<const void*>(backward_kernel<Config>), blocks, Config::kThreads, arguments, kSharedBytes, stream,
                   "launch of the sm90 backward kernel");
}

}  // namespace fa::sm90
