// Host side of the paired Hopper backward kernel; everything around the main kernel is that of kernels/sm90/backward.
#pragma once

#include <cuda_runtime.h>

#include "kernels/sm90/backward/params.h"

namespace fa::sm90 {

/// Queues one instantiation (launch_kernel.cuh), one cluster of blocks per key tile and key head.
template <typename Config>
void launch_backward_pair(const BackwardParams& params, cudaStream_t stream);

}  // namespace fa::sm90
