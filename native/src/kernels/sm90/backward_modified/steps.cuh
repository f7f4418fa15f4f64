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

/// From this one on no key tile before visits the query tiles: it is the lowest that does. visited: its own.
__device__ __forceinline__ int first_stored_step(const PairRange& range, StepRange visited, int first_key, int tile_q, int tile_kv) {
  return first_key > 0 ? max(visited_steps(range, first_key - tile_kv, tile_q, tile_kv).end, visited.first) : visited.first;
}

/// Whether no key tile may visit the row's query tile. True for every row of such a tile, also those behind the last.
__device__ __forceinline__ bool may_stay_unvisited(const PairRange& range, int row) {
  return row >= range.len_q || range.begin_key(row) >= range.end_key(row);
}

}  // namespace fa::sm90
