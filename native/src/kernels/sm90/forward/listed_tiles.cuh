// The producer of kernels that go through lists of visible tiles (attention/visible_tiles.h).
#pragma once

#include "kernels/sm90/forward/listed_pairs.cuh"
#include "kernels/sm90/forward/producer.cuh"

namespace fa::sm90 {

/// A query tile of a head, and the key tiles it sees.
struct ListedWork {
  WorkTile tile;
  int list;
  int first_unit;  ///< of the tile's first 64 rows
  VisibleCounts counts;
};

/// Item `number`, below the number of all.
template <typename Config>
__device__ __forceinline__ ListedWork listed_work(const MaskedForwardParams& params, int number) {
  const VisibleTiles& lists = params.visible_tiles;
  const int section = params.section_work.quotient(number), in_section = params.section_work.remainder(number, section);
  const int place = params.section_sharers.quotient(in_section);
  const int group = params.sharer_sections.quotient(section);
  const int sharer =
      params.sharer_sections.remainder(section, group) * static_cast<int>(params.section_sharers.divisor) + params.section_sharers.remainder(in_section, place);
  ListedWork work;
  work.list = lists.order[group * lists.group_lists + place];
  work.counts = lists.counts[work.list];
  const int plane = params.lists_of_plane.quotient(work.list), q_tile = params.lists_of_plane.remainder(work.list, plane);
  // A plane is (batch, head), either 0 where all share it; the sharers of a plane are numbered in the same order.
  const bool of_batch = lists.batches > 1, of_head = lists.heads > 1;
  const int both = of_batch == of_head ? (of_batch ? plane : sharer) : 0, batch_of_both = params.heads.quotient(both);
  work.tile.batch = of_batch == of_head ? batch_of_both : of_batch ? plane : sharer;
  work.tile.head = of_batch == of_head ? params.heads.remainder(both, batch_of_both) : of_batch ? sharer : plane;
  work.tile.first_row = q_tile * Config::kTileQ;
  work.first_unit = (plane * lists.row_units + q_tile * (Config::kTileQ / kVisibleUnitRows)) * lists.key_units;
  return work;
}

/// Sends a query tile to the consumers, as load_q_tile does. Steps are numbered down from the number of key tiles; the mixed ones come first.
template <typename Config>
__device__ __forceinline__ void load_listed_q_tile(const MaskedForwardParams& params, typename Config::SharedStorage& smem,
                                                   RingCursor<Config::kQStages>& cursor, const WorkTile& tile, const VisibleCounts& counts, int steps) {
  uint64_t* full = &smem.q_full[cursor.stage()];
  ptx::mbarrier_wait(&smem.q_empty[cursor.stage()], cursor.phase() ^ 1);
  int4* const s_messages = smem.sequence_work[cursor.template slot<Config::kWorkSlots>()];
  s_messages[0] = work_message(tile, steps);
  s_messages[1] = make_int4(params.len_q, params.scores.range.len_kv, 0, 0);
#pragma unroll
  for (int warpgroup = 0; warpgroup < Config::kWarpgroups; ++warpgroup) {
    s_messages[2 + 2 * warpgroup] = make_int4(counts.whole, steps, 0, 0);
    s_messages[3 + 2 * warpgroup] = TileEdges{0, counts.mixed > 0, false, false, 0}.message();
  }
  if (steps > 0) {
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

/// The next item is taken up so many key tiles before the end of the present one: in time for its lists to be read, but what waits behind a long item could not
/// be taken by others.
inline constexpr int kStepsAhead = 3;

/// Runs in one thread. Key tiles as the list has them: the mixed ones, then the whole ones; k one tile ahead of v, as the consumers take them.
template <typename Config>
__device__ __forceinline__ void produce_listed(const MaskedForwardParams& params, typename Config::SharedStorage& smem) {
  static_assert(Config::kQStages > 1, "q is sent in front of its first key tile");
  const VisibleTiles& lists = params.visible_tiles;
  RingCursor<Config::kStages> k_cursor, v_cursor;
  RingCursor<Config::kQStages> q_cursor;
  // Every block begins with an item; the counter hands out the others.
  const int blocks = static_cast<int>(gridDim.x);
  int counted = static_cast<int>(blockIdx.x) - blocks;
#pragma unroll 1
  while (blocks + counted < params.num_units) {
    const ListedWork work = listed_work<Config>(params, blocks + counted);
    const int kv_head = params.group_size.quotient(work.tile.head), steps = work.counts.mixed + work.counts.whole;
    load_listed_q_tile<Config>(params, smem, q_cursor, work.tile, work.counts, steps);
    const auto entry_of = [&](int step) {
      return step < work.counts.mixed ? lists.mixed_entry(work.list, step) : lists.whole_entry(work.list, step - work.counts.mixed);
    };
    const auto load_k = [&](const VisibleEntry& entry) {
      const int stage = k_cursor.stage();
      ptx::mbarrier_wait(&smem.k_empty[stage], k_cursor.phase() ^ 1);
      smem.list.messages[stage] = listed_message(entry, work.first_unit + entry.tile());
      ptx::mbarrier_arrive_expect_tx(&smem.k_full[stage], sizeof(smem.k[0]));
#pragma unroll
      for (int panel = 0; panel < Config::kPanels; ++panel) {
        ptx::tma_load_4d(&params.map_k, &smem.k_full[stage], smem.k[stage][panel], 64 * panel, entry.tile() * Config::kTileKv, kv_head, work.tile.batch,
                         ptx::L2Hint::kEvictLast);
      }
      k_cursor.advance();
    };
    VisibleEntry entry{0}, next{0};
    if (steps > 0) {
      next = entry_of(0);
    } else {
      counted = ptx::fetch_increment_relaxed(lists.counter);
    }
    int first_key = 0;
#pragma unroll 1
    for (int step = 0; step < steps; ++step) {
      if (step == max(steps - kStepsAhead, 0)) {
        counted = ptx::fetch_increment_relaxed(lists.counter);
      }
      entry = next;
      next = entry_of(min(step + 1, steps - 1));
      load_k(entry);
      if (step > 0) {
        load_kv_tile<Config>(&params.map_v, smem.v, smem.v_full, smem.v_empty, v_cursor, first_key, kv_head, work.tile.batch);
      }
      first_key = entry.tile() * Config::kTileKv;
    }
    if (steps > 0) {
      load_kv_tile<Config>(&params.map_v, smem.v, smem.v_full, smem.v_empty, v_cursor, first_key, kv_head, work.tile.batch);
    }
  }
  load_listed_q_tile<Config>(params, smem, q_cursor, WorkTile{0, 0, 0}, VisibleCounts{0, 0}, kNoMoreWork);
}

}  // namespace fa::sm90
