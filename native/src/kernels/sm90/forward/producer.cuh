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

/// Key tile n of k with the bias of a work tile's rows, in one buffer.
template <typename Config>
__device__ __forceinline__ void load_k_and_bias(const ModifiedForwardParams& params, typename Config::SharedStorage& smem, RingCursor<Config::kStages>& cursor,
                                                const WorkTile& tile, const SequenceExtents& extents, int n, int kv_head) {
  const int stage = cursor.stage();
  uint64_t* full = &smem.k_full[stage];
  ptx::mbarrier_wait(&smem.k_empty[stage], cursor.phase() ^ 1);
  ptx::mbarrier_arrive_expect_tx(full, sizeof(smem.k[0]) + sizeof(smem.bias.tiles[0]));
  const PairTensor& bias = params.scores.bias;
  const int bias_head = bias.heads > 1 ? tile.head : 0, bias_batch = bias.batches > 1 ? tile.batch : 0;
  // The bias first: it comes from device memory.
#pragma unroll
  for (int panel = 0; panel < Config::kTileKv / 64; ++panel) {
    ptx::tma_load_4d(&params.map_bias, full, smem.bias.tiles[stage][panel], n * Config::kTileKv + 64 * panel, tile.first_row, bias_head, bias_batch,
                     ptx::L2Hint::kEvictFirst);
  }
#pragma unroll
  for (int panel = 0; panel < Config::kPanels; ++panel) {
    ptx::tma_load_4d(&params.map_k, full, smem.k[stage][panel], 64 * panel, extents.kv_begin + n * Config::kTileKv, kv_head, batch_entry(params, tile),
                     ptx::L2Hint::kEvictLast);
  }
  cursor.advance();
}

/// Sends a work tile to the consumers: its message and, if it sees keys, its rows of q. extents: with modified scores, otherwise 0. [block_begin, block_end):
/// key tiles that some row sees.
template <typename Config>
__device__ __forceinline__ void load_q_tile(const typename Config::Params& params, typename Config::SharedStorage& smem, RingCursor<Config::kQStages>& cursor,
                                            const WorkTile& tile, const SequenceExtents& extents, int block_end, int block_begin) {
  uint64_t* full = &smem.q_full[cursor.stage()];
  ptx::mbarrier_wait(&smem.q_empty[cursor.stage()], cursor.phase() ^ 1);
  if constexpr (Config::Scores::kModified) {
    write_messages<Config>(params, smem.sequence_work[cursor.template slot<2 * Config::kQStages>()], tile, extents, block_end, block_begin);
  } else {
    smem.work[cursor.stage()] = work_message(tile, block_end);
  }
  if (block_end > 0) {
    ptx::mbarrier_arrive_expect_tx(full, sizeof(smem.q(0)));
#pragma unroll
    for (int panel = 0; panel < Config::kPanels; ++panel) {
      ptx::tma_load_4d(&params.map_q, full, smem.q(cursor.stage())[panel], 64 * panel, extents.q_begin + tile.first_row, tile.head, batch_entry(params, tile),
                       ptx::L2Hint::kEvictFirst);
    }
  } else {
    ptx::mbarrier_arrive(full);
  }
  cursor.advance();
}

/// Runs in one thread per team. Key tiles come from the last to the first: k one tile ahead of v, as the consumers take them.
template <typename Config>
__device__ __forceinline__ void produce(const typename Config::Params& params, typename Config::SharedStorage& smem, int team) {
  RingCursor<Config::kStages> k_cursor, v_cursor;
  RingCursor<Config::kQStages> q_cursor;
#pragma unroll 1
  for (typename Config::Work work(params, team); !work.done(); work.advance()) {
    SequenceExtents extents{};
    const WorkTile tile = work.tile(extents);
    const int kv_head = params.group_size.quotient(tile.head), batch = batch_entry(params, tile);
    const KeyTiles keys = key_tiles<Config::kTileKv>(rows_of(params, extents), tile.first_row, Config::kTileQ);
    const auto load_k = [&](int n) {
      if constexpr (Config::Scores::kBias) {
        load_k_and_bias<Config>(params, smem, k_cursor, tile, extents, n, kv_head);
      } else {
        load_kv_tile<Config>(&params.map_k, smem.k, smem.k_full, smem.k_empty, k_cursor, extents.kv_begin + n * Config::kTileKv, kv_head, batch);
      }
    };
    const auto load_v = [&](int n) {
      load_kv_tile<Config>(&params.map_v, smem.v, smem.v_full, smem.v_empty, v_cursor, extents.kv_begin + n * Config::kTileKv, kv_head, batch);
    };
    const int block_end = keys.end;
    int n = block_end - 1;
    if (n < 0) {
      load_q_tile<Config>(params, smem, q_cursor, tile, extents, block_end, keys.begin);
      continue;
    }
    // A single q tile in shared memory is free only when the consumers have formed the last scores of the tile before: the first k tile need not wait for that.
    if constexpr (Config::kQStages > 1) {
      load_q_tile<Config>(params, smem, q_cursor, tile, extents, block_end, keys.begin);
      load_k(n);
    } else {
      load_k(n);
      load_q_tile<Config>(params, smem, q_cursor, tile, extents, block_end, keys.begin);
    }
#pragma unroll 1
    for (; n > keys.begin; --n) {
      load_k(n - 1);
      load_v(n);
    }
    load_v(keys.begin);
  }
  load_q_tile<Config>(params, smem, q_cursor, WorkTile{0, 0, 0}, SequenceExtents{}, kNoMoreWork, 0);
}

}  // namespace fa::sm90
