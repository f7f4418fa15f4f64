// Additions to grad_q in bulk: the consumer warpgroups leave their parts of a tile in shared memory, and a thread of the producer warpgroup has them added, or
// in turns stored where the block comes first. The consumers' own additions would stand in the way of whatever else goes through their queues to memory, the
// waits for barriers and statistics of the next step among them.
#pragma once

#include "kernels/sm90/backward/config.h"
#include "kernels/sm90/backward/steps.cuh"
#include "kernels/sm90/backward/turns.cuh"
#include "ptx/bulk_copy.cuh"
#include "ptx/fence_proxy.cuh"
#include "ptx/mbarrier.cuh"
#include "ptx/reduce.cuh"

namespace fa::sm90 {

/// One adder's steps of the block, every Config::kAdders-th, in one thread. Consumers say of a step that its parts are there a step later
/// (BackwardConsumer::announce), and with the first that those of the step before are, which there is not.
///
/// In turns the thread waits until the key tile behind has added its part of the query tile, adds, and publishes that. Consumers and loads have no part in it:
/// a key tile's addition follows the other's by what a word and an addition take on their way, whatever a step takes.
template <typename Config>
__device__ __forceinline__ void add_steps_in_bulk(const BackwardParams& params, const KeyTile& tile, typename Config::SharedStorage& smem, int adder) {
  constexpr uint32_t kBytes = sizeof(smem.grad_q[0]);
  constexpr int kLast = Config::kStages - 1;
  const int steps = params.num_q_tiles - tile.first_step;
  Turns<Config> turns(params, smem, tile);
  int end_stored = 0;
  int* g_added = nullptr;
  if constexpr (Config::kInTurns) {
    end_stored = end_begun<Config>(params, tile);
    g_added = added_steps_words<Config>(params, tile) + adder;
  }
  if (Config::kAdders == 1 || adder == kLast) {
    ptx::mbarrier_wait(&smem.grad_q_full[kLast], 0);
  }
  int group_head = 0, i = adder;
#pragma unroll 1
  for (int n = adder; n < params.group_size * steps; n += Config::kAdders, i += Config::kAdders) {
    while (i >= steps) {
      i -= steps;
      ++group_head;
    }
    const int query_tile = Config::kFromLastQueryTile ? params.num_q_tiles - 1 - i : tile.first_step + i;
    const int stage = n % Config::kStages;
    const uint32_t phase = static_cast<uint32_t>(n / Config::kStages % 2);
    float* g_tile = params.grad_q_accumulator +
                    ((tile.first_head + group_head) * params.padded_rows + static_cast<int64_t>(query_tile) * Config::kTileQ) * Config::kHeadDim;
    ptx::mbarrier_wait(&smem.grad_q_full[stage], stage == kLast ? phase ^ 1 : phase);
    if constexpr (Config::kInTurns) {
      while (!turns.has_come(group_head, query_tile)) {
      }
    }
    if (query_tile < end_stored) {
      ptx::bulk_store(g_tile, smem.grad_q[stage][0], kBytes);
    } else {
      ptx::bulk_reduce_add(g_tile, smem.grad_q[stage][0], kBytes);
    }
    ptx::bulk_commit();
    ptx::bulk_wait_read();
    ptx::mbarrier_arrive(&smem.grad_q_empty[stage]);
    if (Config::kInTurns && tile.first_key > 0) {
      if (i + Config::kAdders < steps) {  // beside the addition
        turns.has_come(group_head, query_tile + Config::kAdders);
      }
      ptx::bulk_wait();
      ptx::fence_proxy_async_global();
      ptx::store_release(g_added, n / Config::kAdders + 1);
    }
  }
}

/// One adder's part of the block's additions; it counts itself when all are done.
template <typename Config>
__device__ __forceinline__ void add_in_bulk(const BackwardParams& params, typename Config::SharedStorage& smem, int adder) {
  const KeyTile tile = key_tile<Config>(params);
  add_steps_in_bulk<Config>(params, tile, smem, adder);
  ptx::bulk_wait();
  ptx::fence_proxy_async_global();
  ptx::increment_release(params.tiles_done + tile.batch * params.heads_kv + tile.kv_head);
}

}  // namespace fa::sm90
