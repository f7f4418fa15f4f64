// The producer of kernels with modified scores. It prepares the next work tile while the present one is loaded: which it is, its key tiles and its messages.
#pragma once

#include "kernels/sm90/forward/producer.cuh"

namespace fa::sm90 {

/// The next work tile is taken so many key tiles before the last of the present one is loaded, in time for the counter to answer, but not earlier: other blocks
/// cannot take what waits behind a long tile. It is prepared when so many are left to load, as many as keep the consumers busy meanwhile.
inline constexpr int kTakenAhead = 3;
inline constexpr int kPreparedAhead = 2;

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

/// Writes the messages of the tile that the iterator is at.
template <typename Config>
__device__ __forceinline__ void prepare_work(const ModifiedForwardParams& params, const typename Config::Work& work, int4* s_messages) {
  if (work.done()) {
    s_messages[0] = work_message(WorkTile{0, 0, 0}, kNoMoreWork);
    return;
  }
  SequenceExtents extents;
  const WorkTile tile = work.tile(extents);
  const KeyTiles keys = key_tiles<Config::kTileKv>(range_of(params, extents), tile.first_row, Config::kTileQ);
  write_messages<Config>(params, s_messages, tile, extents, keys.end, keys.begin);
}

/// Runs in one thread. Key tiles come from the last to the first: k one tile ahead of v, as the consumers take them.
template <typename Config>
__device__ __forceinline__ void produce_modified(const ModifiedForwardParams& params, typename Config::SharedStorage& smem) {
  static_assert(Config::kTeams == 1, "all blocks' producers are numbered by blockIdx.x");
  RingCursor<Config::kStages> k_cursor, v_cursor;
  RingCursor<Config::kQStages> q_cursor;
  typename Config::Work work(params);
  PreparedWork present{};
  int kv_head = 0, batch = 0;
  const auto load_k = [&](int n) {
    if constexpr (Config::Scores::kBias) {
      load_k_and_bias<Config>(params, smem, k_cursor, present.tile, present.extents, n, kv_head);
    } else {
      load_kv_tile<Config>(&params.map_k, smem.k, smem.k_full, smem.k_empty, k_cursor, present.extents.kv_begin + n * Config::kTileKv, kv_head, batch);
    }
  };
  const auto load_v = [&](int n) {
    load_kv_tile<Config>(&params.map_v, smem.v, smem.v_full, smem.v_empty, v_cursor, present.extents.kv_begin + n * Config::kTileKv, kv_head, batch);
  };
  const auto send_q = [&] {
    ptx::mbarrier_wait(&smem.q_empty[q_cursor.stage()], q_cursor.phase() ^ 1);
    send_q_tile<Config>(params, smem, q_cursor, present.extents.q_begin + present.tile.first_row, present.tile.head, batch, present.block_end);
  };
  // Begins with a tile without keys in front of the first one, which is prepared meanwhile.
#pragma unroll 1
  for (int steps = 0;;) {
    const int prepared = steps > kPreparedAhead ? kPreparedAhead : 0;
#pragma unroll 1
    for (int left = max(steps, 1) - 1; left >= 0; --left) {
      if (left == kTakenAhead) {
        work.advance();
      }
      if (left > 0) {
        load_k(present.block_begin + left - 1);
      }
      if (steps > 0) {
        load_v(present.block_begin + left);
      }
      if (left == prepared) {
        prepare_work<Config>(params, work, smem.sequence_work[q_cursor.template slot<Config::kWorkSlots>()]);
      }
    }
    present = read_messages(smem.sequence_work[q_cursor.template slot<Config::kWorkSlots>()]);
    if (present.block_end == kNoMoreWork) {
      break;
    }
    kv_head = params.group_size.quotient(present.tile.head);
    batch = batch_entry(params, present.tile);
    steps = present.block_end - present.block_begin;
    if (steps <= kTakenAhead) {
      work.advance();
    }
    // A single q tile in shared memory is free only when the consumers have formed the last scores of the tile before: the first k tile need not wait for that.
    if (Config::kQStages > 1 || steps == 0) {
      send_q();
    }
    if (steps > 0) {
      load_k(present.block_end - 1);
    }
    if (Config::kQStages == 1 && steps > 0) {
      send_q();
    }
  }
  send_q();
}

}  // namespace fa::sm90
