// Launches with programmatic stream serialization (ptx/grid_dependency.cuh).
#pragma once

#include <cuda_runtime.h>

#include "runtime/cuda_check.h"

namespace fa {

/// Queues a kernel that may begin before the one in front of it in the stream has ended; it executes wait_for_previous_kernel itself before it touches what
/// kernels in front write or read. One that touches no such thing need not, but may then end before they do: what follows it and needs them is launched
/// ordinarily, which waits for all. While the stream is being captured the launch is an ordinary one, since not every driver of CUDA 12 captures the attribute.
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
  cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
  const bool known = cudaStreamIsCapturing(stream, &capture) == cudaSuccess;
  if (!known) {
    cudaGetLastError();  // take the error off the runtime's own record
  }
  config.numAttrs = known && capture == cudaStreamCaptureStatusNone ? 1 : 0;
  cuda_check(cudaLaunchKernelExC(&config, kernel, arguments), what);
}

}  // namespace fa
