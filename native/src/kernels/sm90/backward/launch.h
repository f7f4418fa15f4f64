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

/// The repair pass's, from those of the main kernel.
BackwardRepairParams make_backward_repair_params(const Sm90BackwardTile& tile, const BackwardArgs& args, const BackwardParams& main);

/// Parts of a call, for the laboratory's timings: the pass before the main kernel, the main kernel, the passes behind it.
inline constexpr int kPassPrepare = 1;
inline constexpr int kPassMain = 2;
inline constexpr int kPassFinish = 4;
inline constexpr int kAllPasses = kPassPrepare | kPassMain | kPassFinish;

/// Queues the kernels of a call, the main one by launch_main.
void run_backward(const Sm90BackwardTile& tile, const BackwardArgs& args, void (*launch_main)(const BackwardParams&, cudaStream_t), int passes = kAllPasses);

/// Queues one instantiation (launch_kernel.cuh), one block per key tile and key head.
template <typename Config>
void launch_backward(const BackwardParams& params, cudaStream_t stream);

/// Queues the pass before the main kernel (passes.cu).
void launch_backward_prepare(const BackwardPassParams& params, DType dtype, int padded_dim, cudaStream_t stream);

/// Queues the pass behind the main kernel (passes.cu).
void launch_backward_finish(const BackwardPassParams& params, DType dtype, int padded_dim, cudaStream_t stream);

/// Queues the pass behind finish that a causal problem needs (repair.cu).
void launch_backward_repair(const BackwardRepairParams& params, DType dtype, cudaStream_t stream);

}  // namespace fa::sm90
