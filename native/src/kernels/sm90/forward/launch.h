// Host side of the Hopper forward kernel.
#pragma once

#include <cuda_runtime.h>

#include "kernels/sm90/forward/config.h"
#include "kernels/sm90/forward/params.h"
#include "plan/problem.h"
#include "plan/sm90_forward_tiles.h"

namespace fa::sm90 {

/// The kernel's parameters for a call with this tile, number of blocks and order of work (one that sm90_forward_order may return): tensor maps, limits.
/// batch, len_q >= 1.
ForwardParams make_forward_params(const Sm90ForwardTile& tile, const ForwardArgs& args, int64_t blocks, Sm90ForwardOrder order);

/// The same with a last round that is shared, in the call's workspace.
SharedForwardParams make_shared_forward_params(const Sm90ForwardTile& tile, const ForwardArgs& args, int64_t blocks, Sm90ForwardOrder order);

/// The same for a kernel with modified scores.
ModifiedForwardParams make_modified_forward_params(const Sm90ForwardTile& tile, const ForwardArgs& args, int64_t blocks, Sm90ForwardOrder order);

/// The same for a kernel that goes through lists of visible tiles, which lie in the call's workspace.
MaskedForwardParams make_masked_forward_params(const Sm90ForwardTile& tile, const ForwardArgs& args, int64_t blocks);
/// What writes them.
VisibleTilesJob visible_tiles_job_of(const Sm90ForwardTile& tile, const ForwardArgs& args);

/// Queues one instantiation (launch_kernel.cuh) with `blocks` blocks.
template <typename Config>
void launch_forward(const typename Config::Params& params, int64_t blocks, cudaStream_t stream);

}  // namespace fa::sm90
