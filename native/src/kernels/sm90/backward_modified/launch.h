// Host side of the Hopper backward kernel with modified scores.
#pragma once

#include <cuda_runtime.h>

#include "kernels/sm90/backward_modified/params.h"
#include "plan/plan.h"
#include "plan/problem.h"
#include "plan/sm90_backward_modified.h"

namespace fa::sm90 {

/// The main kernel's parameters for a call with this tile: tensor maps (if there are keys), workspace, limits, order of work.
ModifiedBackwardParams make_modified_backward_params(const Sm90ModifiedBackwardTile& tile, const BackwardArgs& args);

/// The parameters of the passes around it.
ModifiedPassParams make_modified_pass_params(const Sm90ModifiedBackwardTile& tile, const BackwardArgs& args, const ModifiedBackwardParams& main);
ModifiedRepairParams make_modified_repair_params(const Sm90ModifiedBackwardTile& tile, const BackwardArgs& args, const ModifiedBackwardParams& main);
GradBiasZerosParams make_grad_bias_zeros_params(const Sm90ModifiedBackwardTile& tile, const BackwardArgs& args);

/// Parts of a call, for the laboratory's timings: the passes before the main kernel, the main kernel, the passes behind it.
inline constexpr int kModifiedPassPrepare = 1;
inline constexpr int kModifiedPassMain = 2;
inline constexpr int kModifiedPassFinish = 4;
inline constexpr int kModifiedFinishOutside = 16;  ///< grad_q is finished by a pass of its own whatever the problem
inline constexpr int kAllModifiedPasses = kModifiedPassPrepare | kModifiedPassMain | kModifiedPassFinish;

/// Queues the kernels of a call, the main one by launch_main on so many blocks.
using ModifiedBackwardLauncher = void (*)(const ModifiedBackwardParams&, int blocks, cudaStream_t);
void run_modified_backward(const Sm90ModifiedBackwardTile& tile, const BackwardArgs& args, ModifiedBackwardLauncher launch_main, int blocks, int passes);

/// Queues a call that plan_sm90_backward_modified planned (launch.cu).
void launch_modified_backward(const Plan& plan, const BackwardArgs& args, int passes = kAllModifiedPasses);

/// Queues one instantiation (launch_kernel.cuh). blocks: at most one per multiprocessor, at most the number of work items; each takes up key tiles until there
/// are none.
template <typename Config>
void launch_modified_backward(const ModifiedBackwardParams& params, int blocks, cudaStream_t stream);

/// Queue the passes before and behind the main kernel (passes.cu, repair.cu).
void launch_modified_prepare(const ModifiedPassParams& params, DType dtype, int padded_dim, cudaStream_t stream);
void launch_modified_finish(const ModifiedPassParams& params, DType dtype, int padded_dim, cudaStream_t stream);
void launch_modified_grad_sinks(const ModifiedPassParams& params, cudaStream_t stream);
void launch_modified_repair(const ModifiedRepairParams& params, DType dtype, cudaStream_t stream);
/// Zeros in the gradient of a bias where the main kernel computes no dS (grad_bias.cu).
void launch_modified_grad_bias_zeros(const GradBiasZerosParams& params, cudaStream_t stream);

}  // namespace fa::sm90
