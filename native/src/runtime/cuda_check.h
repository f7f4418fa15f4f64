// Turns a CUDA error into fa::Error with the driver's own words.
#pragma once

#include <cuda_runtime_api.h>

#include "plan/error.h"

namespace fa {

/// Throws if status is an error. what: the call and what it was for, e.g. "cudaMalloc of 4096 bytes".
inline void cuda_check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) {
    return;
  }
  cudaGetLastError();  // take the error off the runtime's own record: it is reported here
  const fa_status kind = status == cudaErrorMemoryAllocation                                    ? FA_STATUS_OUT_OF_MEMORY
                         : status == cudaErrorInsufficientDriver || status == cudaErrorNoDevice ? FA_STATUS_DEVICE_UNAVAILABLE
                                                                                                : FA_STATUS_DEVICE_ERROR;
  fail(kind, "%s failed: %s (%s)", what, cudaGetErrorString(status), cudaGetErrorName(status));
}

}  // namespace fa
