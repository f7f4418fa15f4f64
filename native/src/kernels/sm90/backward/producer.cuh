// The producer: one thread that brings the block's k and v, and keeps the rings of q and grad_o tiles full, each with its row of log-sum-exp or delta.
#pragma once

#include "kernels/sm90/backward/config.h"
#include "kernels/sm90/backward/steps.cuh"
#include "ptx/bulk_copy.cuh"
#include "ptx/mbarrier.cuh"
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
                                                float (&s_statistics)[Config::kTileQ], const float* g_statistics, uint64_t* full, uint64_t* empty,
                                                uint32_t phase, int first_row, int head, int batch) {
  ptx::mbarrier_wait(empty, phase ^ 1);
  ptx::mbarrier_arrive_expect_tx(full, sizeof(s_tile) + sizeof(s_statistics));
#pragma unroll
  for (int panel = 0; panel < Config::kPanels; ++panel) {
    ptx::tma_load_4d(map, full, s_tile[panel], 64 * panel, first_row, head, batch, ptx::L2Hint::kEvictLast);
  }
  ptx::bulk_load(full, s_statistics, g_statistics, sizeof(s_statistics));
}

/// Runs in one thread.
template <typename Config>
__device__ __forceinline__ void produce_backward(const BackwardParams& params, typename Config::SharedStorage& smem) {
  const KeyTile tile = key_tile<Config>(params);
  load_key_tile<Config>(&params.map_k, smem.k, &smem.k_full, tile);
  bool v_loaded = false;
  StepCursor<Config::kStages> cursor;
  for (int group_head = 0; group_head < params.group_size; ++group_head) {
    const int head = tile.kv_head * params.group_size + group_head;
#pragma unroll 1
    for (int step = tile.first_step; step < params.num_q_tiles; ++step) {
      const int stage = cursor.stage, first_row = query_tile(params, tile, step) * Config::kTileQ;
      const int64_t row = workspace_row(params, tile, group_head, first_row);
      load_query_tile<Config>(&params.map_q, smem.q[stage], smem.lse_log2[stage], params.lse_log2 + row, &smem.q_full[stage], &smem.q_empty[stage],
                              cursor.phase, first_row, head, tile.batch);
      if (!v_loaded) {
        load_key_tile<Config>(&params.map_v, smem.v, &smem.v_full, tile);
        v_loaded = true;
      }
      load_query_tile<Config>(&params.map_grad_o, smem.grad_o[stage], smem.delta[stage], params.delta + row, &smem.grad_o_full[stage],
                              &smem.grad_o_empty[stage], cursor.phase, first_row, head, tile.batch);
      cursor.advance();
    }
  }
  if (!v_loaded) {
    load_key_tile<Config>(&params.map_v, smem.v, &smem.v_full, tile);
  }
}

}  // namespace fa::sm90
