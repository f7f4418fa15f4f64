// Launches with programmatic stream serialization (ptx/grid_dependency.cuh).
#pragma once

#include <cuda_runtime.h>

#include "runtime/cuda_check.h"

namespace fa {

/// Queues a kernel that may begin before the one in front of it in the stream has ended; it executes wait_for_previous_kernel itself.
inline void launch_dependent(const void* kernel, unsigned blocks, int threads, void** arguments, int shared_bytes, cudaStream_t stream, const char* what) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(blocks);
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = 1;
  cuda_check(cudaLaunchKernelExC(&config, kernel, arguments), what);
}

}  // namespace fa
