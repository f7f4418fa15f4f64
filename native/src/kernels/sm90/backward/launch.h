// Host side of the Hopper backward kernel.
#pragma once

#include <cuda_runtime.h>

#include "kernels/sm90/backward/params.h"
#include "plan/problem.h"
#include "plan/sm90_backward_tiles.h"

namespace fa::sm90 {

/// The main kernel's parameters for a call with this tile: tensor maps, workspace, limits, order of work. batch, len_kv >= 1.
BackwardParams make_backward_params(const Sm90BackwardTile& tile, const BackwardArgs& args);

/// The parameters of the passes around it. batch, len_q >= 1.
BackwardPassParams make_backward_pass_params(const Sm90BackwardTile& tile, const BackwardArgs& args);

/// Queues one instantiation (launch_kernel.cuh), one block per key tile and key head.
template <typename Config>
void launch_backward(const BackwardParams& params, cudaStream_t stream);

/// Queues the pass before the main kernel (passes.cu).
void launch_backward_prepare(const BackwardPassParams& params, DType dtype, int padded_dim, cudaStream_t stream);

/// Queues the pass behind the main kernel (passes.cu).
void launch_backward_finish(const BackwardPassParams& params, DType dtype, int padded_dim, cudaStream_t stream);

}  // namespace fa::sm90
