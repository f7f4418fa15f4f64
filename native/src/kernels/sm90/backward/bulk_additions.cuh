// Additions to grad_q in bulk: the consumer warpgroups leave their parts of a tile in shared memory, and a thread of the producer warpgroup has them added, or
// by the first key tile stored. The consumers' own additions would stand in the way of whatever else goes through their queues to memory, the waits for
// barriers and statistics of the next step among them.
#pragma once

#include "kernels/sm90/backward/config.h"
#include "kernels/sm90/backward/steps.cuh"
#include "ptx/bulk_copy.cuh"
#include "ptx/fence_proxy.cuh"
#include "ptx/mbarrier.cuh"
#include "ptx/reduce.cuh"

namespace fa::sm90 {

/// All steps of the block, in one thread. The first key tile counts the query tiles of each head that it has stored, and all count themselves when done.
template <typename Config>
__device__ __forceinline__ void add_in_bulk(const BackwardParams& params, typename Config::SharedStorage& smem) {
  constexpr uint32_t kBytes = sizeof(smem.grad_q[0]);
  const KeyTile tile = key_tile<Config>(params);
  const bool is_first = tile.first_key == 0;
  uint32_t phase = 0;
#pragma unroll 1
  for (int head = tile.first_head; head < tile.first_head + params.group_size; ++head) {
    float* g_tile = params.grad_q_accumulator + (head * params.padded_rows + static_cast<int64_t>(params.num_q_tiles) * Config::kTileQ) * Config::kHeadDim;
#pragma unroll 1
    for (int step = params.num_q_tiles - 1; step >= tile.first_step; --step) {
      g_tile -= Config::kTileQ * Config::kHeadDim;
#pragma unroll
      for (int w = 0; w < Config::kWarpgroups; ++w) {
        ptx::mbarrier_wait(&smem.grad_q_full[w], phase);
        if (is_first) {
          ptx::bulk_store(g_tile + w * kGradQBlock, smem.grad_q[w], kBytes);
        } else {
          ptx::bulk_reduce_add(g_tile + w * kGradQBlock, smem.grad_q[w], kBytes);
        }
        ptx::bulk_commit();
      }
      if (is_first) {
        ptx::bulk_wait();
        ptx::fence_proxy_async_global();
        ptx::increment_release(params.grad_q_counters + head);
      } else {
        ptx::bulk_wait_read();
      }
#pragma unroll
      for (int w = 0; w < Config::kWarpgroups; ++w) {
        ptx::mbarrier_arrive(&smem.grad_q_empty[w]);
      }
      phase ^= 1;
    }
  }
  ptx::bulk_wait();
  ptx::fence_proxy_async_global();
  ptx::increment_release(params.tiles_done + tile.batch * params.heads_kv + tile.kv_head);
}

}  // namespace fa::sm90
