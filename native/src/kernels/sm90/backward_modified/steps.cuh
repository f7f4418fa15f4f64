// Which query tiles a key tile visits under a range of pairs, and of which of them it is the first to come.
#pragma once

#include "attention/pair_range.cuh"

namespace fa::sm90 {

/// Query tiles that see a key of the tile; none if end <= first. Neither grows less from one key tile to the next.
struct StepRange {
  int first;
  int end;
};
__device__ __forceinline__ StepRange visited_steps(const PairRange& range, int first_key, int tile_q, int tile_kv) {
  return {range.begin_row(first_key) / tile_q, (min(range.end_row(min(first_key + tile_kv, range.len_kv) - 1), range.len_q) + tile_q - 1) / tile_q};
}

/// Key tiles that visit a query tile: also those that only rows behind the last would see.
__device__ __forceinline__ StepRange visiting_key_tiles(const PairRange& range, int q_tile, int tile_q, int tile_kv) {
  const int first_key = range.begin_key(q_tile * tile_q), end_key = range.end_key(q_tile * tile_q + tile_q - 1);
  return end_key <= first_key ? StepRange{0, 0} : StepRange{first_key / tile_kv, (end_key - 1) / tile_kv + 1};
}

/// From this one on no key tile before visits the query tiles: it is the lowest that does. visited: its own.
__device__ __forceinline__ int first_stored_step(const PairRange& range, StepRange visited, int first_key, int tile_q, int tile_kv) {
  return first_key > 0 ? max(visited_steps(range, first_key - tile_kv, tile_q, tile_kv).end, visited.first) : visited.first;
}

/// From this one to the one before first_stored a key tile visits the query tiles last: its neighbours, which began beside it, have just stored theirs.
__device__ __forceinline__ int first_late_step(StepRange visited, int first_key, int first_stored) {
  return first_key > 0 && first_stored < visited.end ? max(first_stored - 2 * (visited.end - first_stored), visited.first) : first_stored;
}

/// The visits of a key tile in their order: from first_stored on, before first_late, those between, each part from the last to the first.
__device__ __forceinline__ int step_in_order(StepRange visited, int first_stored, int first_late, int i) {
  const int late = first_stored - first_late, num_steps = visited.end - visited.first, step = visited.end - 1 - i;
  return step >= first_stored ? step : i < num_steps - late ? step - late : step + (first_late - visited.first);
}

/// What the two halves of a key tile, 64 keys of each warpgroup, see of its query tiles.
struct HalfSteps {
  StepRange seen[2];  ///< query tiles that see a key of the half
  StepRange both;     ///< of those in front of the whole ones and behind them, the ones that both halves see and that have no queries of another sequence
};

/// whole: the tile's query tiles that need no mask. own_tiles: those with no queries of another sequence.
__device__ __forceinline__ HalfSteps half_steps(const PairRange& range, StepRange visited, StepRange whole, int own_tiles, int first_key, int tile_q,
                                                int tile_kv) {
  HalfSteps halves;
#pragma unroll
  for (int w = 0; w < 2; ++w) {
    const int first = first_key + w * (tile_kv / 2), last = min(first + tile_kv / 2, range.len_kv) - 1;
    halves.seen[w].first = range.begin_row(first) / tile_q;
    halves.seen[w].end = last < first ? 0 : (range.end_row(last) + tile_q - 1) / tile_q;
  }
  const bool has_second = first_key + tile_kv / 2 < range.len_kv;
  halves.both.first = min(max(halves.seen[1].first, visited.first), whole.first);
  halves.both.end = max(has_second ? min(halves.seen[0].end, own_tiles) : 0, whole.first < whole.end ? whole.end : 0);
  return halves;
}

/// Whether no key tile may visit the row's query tile. True for every row of such a tile, also those behind the last.
__device__ __forceinline__ bool may_stay_unvisited(const PairRange& range, int row) {
  return row >= range.len_q || range.begin_key(row) >= range.end_key(row);
}

}  // namespace fa::sm90
