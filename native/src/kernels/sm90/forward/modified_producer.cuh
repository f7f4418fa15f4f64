// The producer of kernels with modified scores: work tiles of sequences are taken by a counter.
#pragma once

#include "kernels/sm90/forward/producer.cuh"

namespace fa::sm90 {

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

/// Sends a work tile, whose messages are written, to the consumers, and if it sees keys its rows of q.
template <typename Config>
__device__ __forceinline__ void send_q_tile(const ModifiedForwardParams& params, typename Config::SharedStorage& smem, RingCursor<Config::kQStages>& cursor,
                                            const PreparedWork& work) {
  uint64_t* full = &smem.q_full[cursor.stage()];
  ptx::mbarrier_wait(&smem.q_empty[cursor.stage()], cursor.phase() ^ 1);
  if (work.block_end > 0) {
    ptx::mbarrier_arrive_expect_tx(full, sizeof(smem.q(0)));
#pragma unroll
    for (int panel = 0; panel < Config::kPanels; ++panel) {
      ptx::tma_load_4d(&params.map_q, full, smem.q(cursor.stage())[panel], 64 * panel, work.extents.q_begin + work.tile.first_row, work.tile.head,
                       batch_entry(params, work.tile), ptx::L2Hint::kEvictFirst);
    }
  } else {
    ptx::mbarrier_arrive(full);
  }
  cursor.advance();
}

/// A work tile is taken so many key tiles before the end of the one before, in time for the counter to answer; but not earlier, since others cannot take what
/// waits behind a long tile.
inline constexpr int kTakenAhead = 3;

/// Runs in one thread per team. Key tiles come from the last to the first: k one tile ahead of v, as the consumers take them.
template <typename Config>
__device__ __forceinline__ void produce_modified(const ModifiedForwardParams& params, typename Config::SharedStorage& smem, int team) {
  RingCursor<Config::kStages> k_cursor, v_cursor;
  RingCursor<Config::kQStages> q_cursor;
  typename Config::Work work(params, team);
  PreparedWork present;
#pragma unroll 1
  for (;; work.advance()) {
    int4* const s_messages = smem.sequence_work[q_cursor.template slot<Config::kWorkSlots>()];
    prepare_work<Config>(params, work, s_messages);
    present = read_messages(s_messages);
    if (present.block_end == kNoMoreWork) {
      break;
    }
    const int kv_head = params.group_size.quotient(present.tile.head), batch = batch_entry(params, present.tile);
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
    int n = present.block_end - 1;
    // As in produce: a single q tile waits for the tile before.
    if (Config::kQStages > 1 || n < 0) {
      send_q_tile<Config>(params, smem, q_cursor, present);
    }
    if (n < 0) {
      work.take();
      continue;
    }
    load_k(n);
    if constexpr (Config::kQStages == 1) {
      send_q_tile<Config>(params, smem, q_cursor, present);
    }
    // In two parts, but by one loop, in which there is nothing but loads.
    int end = min(n, present.block_begin + kTakenAhead);
#pragma unroll 1
    for (int part = 0; part < 2; ++part, end = present.block_begin) {
#pragma unroll 1
      for (; n > end; --n) {
        load_k(n - 1);
        load_v(n);
      }
      if (part == 0) {
        work.take();
      }
    }
    load_v(present.block_begin);
  }
  send_q_tile<Config>(params, smem, q_cursor, present);
}

}  // namespace fa::sm90
