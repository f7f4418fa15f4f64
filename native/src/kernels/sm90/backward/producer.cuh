// The producer: one thread that brings the block's k and v, and keeps the rings of q and grad_o tiles full, each with its row of log-sum-exp or delta.
#pragma once

#include "kernels/sm90/backward/config.h"
#include "kernels/sm90/backward/finish.cuh"
#include "kernels/sm90/backward/steps.cuh"
#include "kernels/sm90/backward/turns.cuh"
#include "ptx/mbarrier.cuh"
#include "ptx/reduce.cuh"
#include "ptx/tma.cuh"

namespace fa::sm90 {

/// Loads a tile of k or v, which stay for the whole block.
template <typename Config>
__device__ __forceinline__ void load_key_tile(const CUtensorMap* map, typename Config::Element (&s_tile)[Config::kPanels][Config::kTileKv][64], uint64_t* full,
                                              const KeyTile& tile) {
  ptx::mbarrier_arrive_expect_tx(full, sizeof(s_tile));
#pragma unroll
  for (int panel = 0; panel < Config::kPanels; ++panel) {
    ptx::tma_load_4d(map, full, s_tile[panel], 64 * panel, tile.first_key, tile.kv_head, tile.batch, ptx::L2Hint::kEvictFirst);
  }
}

/// Waits until a buffer is free and loads a tile of q or grad_o, and tile_q floats beside it.
template <typename Config>
__device__ __forceinline__ void load_query_tile(const CUtensorMap* map, typename Config::Element (&s_tile)[Config::kPanels][Config::kTileQ][64],
                                                const CUtensorMap* map_statistics, float (&s_statistics)[Config::kTileQ], int statistics_row, uint64_t* full,
                                                uint64_t* empty, uint32_t phase, int first_row, int head, int batch) {
  ptx::mbarrier_wait(empty, phase ^ 1);
  ptx::mbarrier_arrive_expect_tx(full, sizeof(s_tile) + sizeof(s_statistics));
#pragma unroll
  for (int panel = 0; panel < Config::kPanels; ++panel) {
    ptx::tma_load_4d(map, full, s_tile[panel], 64 * panel, first_row, head, batch, ptx::L2Hint::kEvictLast);
  }
  ptx::tma_load_2d(map_statistics, full, s_statistics, first_row, statistics_row);
}

/// The first key tile's word to the others of its head: how many query tiles of grad_q it has stored. A buffer of q that is free again says that the step which
/// used it has stored its tile.
template <typename Config>
class StoredTiles {
 public:
  /// Loads after which a tile is known to be stored.
  static constexpr int kLag = Config::kStages;

  __device__ __forceinline__ StoredTiles(int* g_counter, int steps) : g_counter_(g_counter), steps_(steps), left_(steps) {}

  /// Called behind the wait for a free buffer of q, once per load and kLag times more.
  __device__ __forceinline__ void advance() {
    if (loads_++ < kLag || steps_ == 0) {
      return;
    }
    ptx::increment_release(g_counter_);
    if (--left_ == 0) {  // the next query head of the group
      left_ = steps_;
      ++g_counter_;
    }
  }

 private:
  int* g_counter_;
  const int steps_;
  int left_;
  int loads_ = 0;
};

/// Runs in one thread.
template <typename Config>
__device__ __forceinline__ void produce_backward(const BackwardParams& params, typename Config::SharedStorage& smem) {
  const KeyTile tile = key_tile<Config>(params);
  load_key_tile<Config>(&params.map_k, smem.k, &smem.k_full, tile);
  bool v_loaded = false;
  const int num_heads = params.order.num_heads * params.group_size;
  StepCursor<Config::kStages> cursor;
  // Somebody begins the sums by storing, or they are cleared.
  constexpr bool kFirstTileStores = Config::kFirstTileStores && !Config::kInTurns && !Config::kClears;
  const bool is_first = kFirstTileStores && tile.first_key == 0;
  Turns<Config> turns(params, smem, tile);
  StoredTiles<Config> stored(params.grad_q_counters + tile.first_head, params.num_q_tiles - tile.first_step);
  for (int group_head = 0; group_head < params.group_size; ++group_head) {
    const int head = tile.kv_head * params.group_size + group_head, flat_head = tile.first_head + group_head;
    int num_stored = 0;
    bool cleared = !Config::kClears;
#pragma unroll 1
    for (int i = tile.first_step; i < params.num_q_tiles; ++i) {
      const int step = Config::kFromLastQueryTile ? params.num_q_tiles - 1 - (i - tile.first_step) : i;
      const int stage = cursor.stage, first_row = step * Config::kTileQ;
      load_query_tile<Config>(&params.map_q, smem.q[stage], &params.map_statistics, smem.lse_log2[stage], flat_head, &smem.q_full[stage], &smem.q_empty[stage],
                              cursor.phase, first_row, head, tile.batch);
      if (!v_loaded) {
        load_key_tile<Config>(&params.map_v, smem.v, &smem.v_full, tile);
        v_loaded = true;
      }
      // Without grad_o nothing is added to the tile. Key tiles are launched in their order: nobody waits for a block behind its own.
      if constexpr (Config::kInTurns && !Config::kAddsInBulk) {
        turns.report();
        while (!turns.has_come(group_head, step)) {
        }
      }
      if (!cleared) {
        wait_for_cleared_head<Config>(params, tile.batch * params.heads_kv + tile.kv_head, flat_head);
        cleared = true;
      }
      while (kFirstTileStores && !is_first && num_stored < params.num_q_tiles - step) {
        num_stored = ptx::load_acquire(params.grad_q_counters + flat_head);
      }
      load_query_tile<Config>(&params.map_grad_o, smem.grad_o[stage], &params.map_statistics, smem.delta[stage], num_heads + flat_head,
                              &smem.grad_o_full[stage], &smem.grad_o_empty[stage], cursor.phase, first_row, head, tile.batch);
      if (is_first && !Config::kAddsInBulk) {
        stored.advance();
      }
      cursor.advance();
    }
  }
  if (!v_loaded) {
    load_key_tile<Config>(&params.map_v, smem.v, &smem.v_full, tile);
  }
  if (Config::kInTurns && !Config::kAddsInBulk && tile.first_key > 0 && tile.first_step < params.num_q_tiles) {
#pragma unroll 1
    for (int i = 0; i < Config::kStages; ++i) {
      ptx::mbarrier_wait(&smem.q_empty[cursor.stage], cursor.phase ^ 1);
      turns.report();
      cursor.advance();
    }
  }
  if (is_first && !Config::kAddsInBulk && tile.first_step < params.num_q_tiles) {
#pragma unroll 1
    for (int i = 0; i < StoredTiles<Config>::kLag; ++i) {
      ptx::mbarrier_wait(&smem.q_empty[cursor.stage], cursor.phase ^ 1);
      stored.advance();
      cursor.advance();
    }
  }
}

}  // namespace fa::sm90
