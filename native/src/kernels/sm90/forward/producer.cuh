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

/// Waits for room for a q tile and sends it, with the message. block_end: as in work_message, less kIsPart. part: where tiles are shared.
template <typename Config>
__device__ __forceinline__ void load_q_tile(const ForwardParams& params, typename Config::SharedStorage& smem, RingCursor<Config::kQStages>& cursor,
                                            const WorkTile& tile, int block_end, const TilePart& part) {
  uint64_t* full = &smem.q_full[cursor.stage()];
  ptx::mbarrier_wait(&smem.q_empty[cursor.stage()], cursor.phase() ^ 1);
  smem.work[cursor.stage()] = work_message(tile, part.parts > 1 ? block_end | kIsPart : block_end);
  if constexpr (Config::kSharesTiles) {
    if (part.parts > 1) {
      smem.parts.messages[cursor.stage()] = part.message();
    }
  }
  if (block_end > 0) {
    ptx::mbarrier_arrive_expect_tx(full, sizeof(smem.q(0)));
#pragma unroll
    for (int panel = 0; panel < Config::kPanels; ++panel) {
      ptx::tma_load_4d(&params.map_q, full, smem.q(cursor.stage())[panel], 64 * panel, tile.first_row, tile.head, tile.batch, ptx::L2Hint::kEvictFirst);
    }
  } else {
    ptx::mbarrier_arrive(full);
  }
  cursor.advance();
}

/// Runs in one thread per team. Key tiles come in the order in which consumers take them: k one tile ahead of v.
template <typename Config>
__device__ __forceinline__ void produce(const typename Config::Params& params, typename Config::SharedStorage& smem, int team) {
  RingCursor<Config::kStages> k_cursor, v_cursor;
  RingCursor<Config::kQStages> q_cursor;
#pragma unroll 1
  for (typename Config::Work work(params, team); !work.done(); work.advance()) {
    const WorkTile tile = work.tile();
    const int kv_head = params.group_size.quotient(tile.head);
    const auto load_k = [&](int n) {
      load_kv_tile<Config>(&params.map_k, smem.k, smem.k_full, smem.k_empty, k_cursor, n * Config::kTileKv, kv_head, tile.batch);
    };
    const auto load_v = [&](int n) {
      load_kv_tile<Config>(&params.map_v, smem.v, smem.v_full, smem.v_empty, v_cursor, n * Config::kTileKv, kv_head, tile.batch);
    };
    KeyTiles keys = key_tiles<Config::kTileKv>(params, tile.first_row, Config::kTileQ);
    TilePart part{};
    if constexpr (Config::kSharesTiles) {
      part = work.part(keys);
    }
    const int block_end = keys.end;
    int n = Config::kAscending ? 0 : block_end - 1;
    if (block_end == 0) {
      load_q_tile<Config>(params, smem, q_cursor, tile, block_end, part);
      continue;
    }
    // A single q tile in shared memory is free only when the consumers have formed the last scores of the tile before: the first k tile need not wait for that.
    if constexpr (Config::kQStages > 1) {
      load_q_tile<Config>(params, smem, q_cursor, tile, block_end, part);
      load_k(n);
    } else {
      load_k(n);
      load_q_tile<Config>(params, smem, q_cursor, tile, block_end, part);
    }
    if constexpr (Config::kAscending) {
#pragma unroll 1
      for (; n < block_end - 1; ++n) {
        load_k(n + 1);
        load_v(n);
      }
    } else {
#pragma unroll 1
      for (; n > keys.begin; --n) {
        load_k(n - 1);
        load_v(n);
      }
    }
    load_v(n);
  }
  load_q_tile<Config>(params, smem, q_cursor, WorkTile{0, 0, 0}, kNoMoreWork, TilePart{});
}

}  // namespace fa::sm90
