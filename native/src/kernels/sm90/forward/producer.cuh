// The producer: one thread that keeps the rings of k and v tiles full and brings q tiles.
#pragma once

#include "kernels/sm90/forward/schedule.cuh"
#include "ptx/mbarrier.cuh"
#include "ptx/tma.cuh"

namespace fa::sm90 {

/// Waits for a free buffer of a ring and loads the key tile that starts at key `first_key` into it, panel by panel.
template <typename Config>
__device__ __forceinline__ void load_kv_tile(const CUtensorMap* map, typename Config::Element (&s_ring)[Config::kStages][Config::kPanels][Config::kTileKv][64],
                                             uint64_t* full, uint64_t* empty, RingCursor<Config::kStages>& cursor, int first_key, int kv_head, int batch) {
  ptx::mbarrier_wait(&empty[cursor.stage()], cursor.phase() ^ 1);
  ptx::mbarrier_arrive_expect_tx(&full[cursor.stage()], sizeof(s_ring[0]));
#pragma unroll
  for (int panel = 0; panel < Config::kPanels; ++panel) {
    ptx::tma_load_4d(map, &full[cursor.stage()], s_ring[cursor.stage()][panel], 64 * panel, first_key, kv_head, batch, ptx::L2Hint::kEvictLast);
  }
  cursor.advance();
}

/// Runs in one thread. Key tiles come from the last to the first: k one tile ahead of v, as the consumers take them.
template <typename Config>
__device__ __forceinline__ void produce(const ForwardParams& params, typename Config::SharedStorage& smem) {
  using namespace ptx;
  RingCursor<Config::kStages> k_cursor, v_cursor;
  RingCursor<Config::kQStages> q_cursor;
  for (WorkIterator work(params); !work.done(); work.advance()) {
    const WorkTile tile = work.tile();
    const int first_row = tile.q_tile * Config::kTileQ;
    const int kv_head = params.group_size.quotient(tile.head);
    int n = key_tiles<Config::kTileKv>(params, first_row, Config::kTileQ).end - 1;
    if (n < 0) {
      continue;
    }
    load_kv_tile<Config>(&params.map_k, smem.k, smem.k_full, smem.k_empty, k_cursor, n * Config::kTileKv, kv_head, tile.batch);

    uint64_t* q_full = &smem.q_full[q_cursor.stage()];
    mbarrier_wait(&smem.q_empty[q_cursor.stage()], q_cursor.phase() ^ 1);
    mbarrier_arrive_expect_tx(q_full, sizeof(smem.q(0)));
#pragma unroll
    for (int panel = 0; panel < Config::kPanels; ++panel) {
      tma_load_4d(&params.map_q, q_full, smem.q(q_cursor.stage())[panel], 64 * panel, first_row, tile.head, tile.batch, L2Hint::kEvictFirst);
    }
    q_cursor.advance();

#pragma unroll 1
    for (; n > 0; --n) {
      load_kv_tile<Config>(&params.map_k, smem.k, smem.k_full, smem.k_empty, k_cursor, (n - 1) * Config::kTileKv, kv_head, tile.batch);
      load_kv_tile<Config>(&params.map_v, smem.v, smem.v_full, smem.v_empty, v_cursor, n * Config::kTileKv, kv_head, tile.batch);
    }
    load_kv_tile<Config>(&params.map_v, smem.v, smem.v_full, smem.v_empty, v_cursor, 0, kv_head, tile.batch);
  }
}

}  // namespace fa::sm90
