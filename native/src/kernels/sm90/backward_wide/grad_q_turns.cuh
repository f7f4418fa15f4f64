// Deterministic mode: the blocks add to a query tile of grad_q in the order of their keys. A counter per query tile and block of the cluster, whose columns
// are its own, says how many key tiles have been added. Two threads of the producer warpgroup do the bookkeeping, so that the consumers meet shared memory
// alone: one looks for the block's turn, up to kTurnStages steps ahead, the other reports additions.
//
// Nobody waits for a block of the grid behind its own: key tiles are launched in the order in which they are added.
#pragma once

#include "kernels/sm90/backward_wide/block.cuh"
#include "kernels/sm90/backward_wide/config.h"
#include "ptx/mbarrier.cuh"
#include "ptx/reduce.cuh"

namespace fa::sm90 {

template <typename Config>
class GradQTurns {
  using SharedStorage = typename Config::SharedStorage;

 public:
  __device__ __forceinline__ GradQTurns(const BackwardParams& params, SharedStorage& smem)
      : params_(params), smem_(smem), block_(cluster_block<Config>(params)) {}

  /// Lets the consumers add, step by step, as soon as all key tiles in front have been. Runs in one thread.
  __device__ __forceinline__ void open() const {
    const int turn = block_.tile.first_key / Config::kTileKv;
    for_each_step([&](int* g_counter, int stage, uint32_t phase) {
      while (turn > 0 && ptx::load_acquire(g_counter) < turn) {
      }
      ptx::mbarrier_wait(&smem_.grad_q_counted[stage], phase ^ 1);  // of the round before
      ptx::mbarrier_arrive(&smem_.grad_q_open[stage]);
    });
  }

  /// Counts the block's additions, step by step. Runs in one thread.
  __device__ __forceinline__ void count() const {
    for_each_step([&](int* g_counter, int stage, uint32_t phase) {
      ptx::mbarrier_wait(&smem_.grad_q_added[stage], phase);
      ptx::increment_release(g_counter);
      ptx::mbarrier_arrive(&smem_.grad_q_counted[stage]);
    });
  }

 private:
  /// Calls step(the query tile's counter, stage, parity) in the consumers' order.
  template <typename Step>
  __device__ __forceinline__ void for_each_step(const Step& step) const {
    const int64_t tiles_per_head = params_.padded_rows / Config::kTileQ;
    StepCursor<Config::kTurnStages> cursor;
#pragma unroll 1
    for (int group_head = 0; group_head < params_.group_size; ++group_head) {
      int* g_counters = params_.grad_q_counters + (block_.tile.first_head + group_head) * tiles_per_head * Config::kClusterSize + block_.rank;
#pragma unroll 1
      for (int query_tile = params_.num_q_tiles - 1; query_tile >= block_.tile.first_step; --query_tile) {
        step(g_counters + query_tile * Config::kClusterSize, cursor.stage, cursor.phase);
        cursor.advance();
      }
    }
  }

  const BackwardParams& params_;
  SharedStorage& smem_;
  const ClusterBlock block_;
};

}  // namespace fa::sm90
