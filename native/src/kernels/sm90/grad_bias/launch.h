// Host side of the Hopper kernel for the gradient of a shared bias.
#pragma once

#include <cuda_runtime.h>

#include "kernels/sm90/grad_bias/params.h"
#include "plan/problem.h"

namespace fa::sm90 {

/// Queues the kernel that writes args.grad_bias. shift, delta: rows of the workspace (params.h), complete when the kernel runs.
void launch_shared_grad_bias(const BackwardArgs& args, const float* shift, const float* delta, int64_t padded_rows);

/// Queues one instantiation (launch_kernel.cuh).
template <typename Config>
void launch_shared_grad_bias(const SharedGradBiasParams& params, int blocks, cudaStream_t stream);

}  // namespace fa::sm90
