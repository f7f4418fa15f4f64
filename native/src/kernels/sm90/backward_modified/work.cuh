// A work item of the Hopper backward kernel with modified scores: a tile of keys of one key head, and the query tiles that see it.
#pragma once

#include "kernels/sm90/backward_modified/params.h"
#include "kernels/sm90/backward_modified/steps.cuh"

namespace fa::sm90 {

struct KeyWork {
  enum Kind : int { kNone, kWithSteps, kUnseen };
  int kind;      ///< kNone: there is no more; kUnseen: nobody sees the keys
  int index;     ///< of the item, for the flags of the repair pass
  int batch;     ///< entry of the tensors
  int sequence;  ///< batch of the semantics
  int kv_head;
  int first_key;  ///< within the sequence
  int len_q;      ///< of the sequence
  int len_kv;
  int q_begin;         ///< first query of the sequence in the tensors
  int kv_begin;        ///< first key
  int row_begin;       ///< first row of the sequence in a head of the workspace
  int workspace_head;  ///< of the key head's first query head
  int first_step;      ///< query tiles that see a key of the tile
  int end_step;
  int whole_first;   ///< query tiles from here …
  int whole_last;    ///< … to the one before this need no mask; first_step <= whole_first <= whole_last <= end_step
  int first_stored;  ///< query tiles from here on no key tile before this one visits: it stores its part of grad_q, to which the others add
  int first_late;    ///< from here to first_stored they are visited last
  // With lists steps are entries, from 0 on: those before first_step show keys of the first warpgroup alone, those from there to first_stored of the second.

  /// The range of pairs within the sequence.
  __device__ __forceinline__ PairRange range(const ModifiedBackwardParams& params) const {
    PairRange range = params.scores.range;
    range.len_q = len_q;
    range.len_kv = len_kv;
    if (params.table.data != nullptr) {
      range.offset = params.bottom_right ? len_kv - len_q : 0;
    }
    return range;
  }
  /// Query tile of step i of a head.
  __device__ __forceinline__ int visited_step(int i) const { return step_in_order({first_step, end_step}, first_stored, first_late, i); }
  /// Whether rows of k behind the end of the sequence belong to others.
  __device__ __forceinline__ bool has_foreign_keys(const ModifiedBackwardParams& params, int tile_kv) const {
    return params.table.data != nullptr && first_key + tile_kv > len_kv;
  }
  /// Whether rows of the query tile do.
  __device__ __forceinline__ bool has_foreign_queries(const ModifiedBackwardParams& params, int end_query) const {
    return params.table.data != nullptr && end_query > len_q;
  }
};

/// The first lane's item, in all lanes of the warp: the shuffles tell the compiler that it is the same in all.
__device__ __forceinline__ KeyWork uniform_work(const KeyWork& work) {
  constexpr int kWords = sizeof(KeyWork) / sizeof(int);
  static_assert(kWords * sizeof(int) == sizeof(KeyWork));
  union {
    KeyWork work;
    int words[kWords];
  } item{work};
#pragma unroll
  for (int i = 0; i < kWords; ++i) {
    item.words[i] = __shfl_sync(0xFFFFFFFF, item.words[i], 0);
  }
  return item.work;
}

/// Tiles of keys per key head.
__device__ __forceinline__ int num_key_tiles(const ModifiedBackwardParams& params) {
  return params.table.data != nullptr ? params.table.num_tiles() : params.order.num_tiles;
}

/// Item `index` of num_tiles * order.num_heads.
__device__ __forceinline__ KeyWork key_work(const ModifiedBackwardParams& params, int index, int num_tiles, int tile_q, int tile_kv) {
  TileOrder order = params.order;
  order.num_tiles = num_tiles;
  const TileOrder::Work place = order.work(index);
  KeyWork work;
  work.index = index;
  if (params.table.data != nullptr) {
    const SequenceTile tile = params.table.tile(place.tile);
    work.batch = tile.batch;
    work.sequence = tile.sequence;
    work.kv_head = place.head;
    work.first_key = tile.tile * tile_kv;
    work.len_q = tile.len_q;
    work.len_kv = tile.len_kv;
    work.q_begin = tile.q_begin;
    work.kv_begin = tile.kv_begin;
    work.row_begin = tile.row_begin;
  } else {
    work.batch = work.sequence = place.head / params.heads_kv;
    work.kv_head = place.head - work.batch * params.heads_kv;
    work.first_key = place.tile * tile_kv;
    work.len_q = params.scores.range.len_q;
    work.len_kv = params.scores.range.len_kv;
    work.q_begin = work.kv_begin = work.row_begin = 0;
  }
  work.workspace_head = place.head * params.group_size;
  const PairRange range = work.range(params);
  const StepRange visited = visited_steps(range, work.first_key, tile_q, tile_kv);
  work.first_step = visited.first;
  work.end_step = visited.end;
  work.first_stored = work.first_late = visited.first;
  const int last_key = work.first_key + tile_kv - 1;
  int whole_begin = last_key < work.len_kv ? range.begin_row(last_key) : work.len_q;
  if (params.scores.alibi_slopes != nullptr && range.right != 0) {
    whole_begin = max(whole_begin, last_key - range.offset);  // where a key may lie behind the position, distances have both signs: the masked form
  }
  work.whole_first = max(min((min(whole_begin, work.len_q) + tile_q - 1) / tile_q, work.end_step), work.first_step);
  work.whole_last = max(min(range.end_row(work.first_key) / tile_q, work.end_step), work.whole_first);
  work.kind = work.first_step < work.end_step ? KeyWork::kWithSteps : KeyWork::kUnseen;
  return work;
}

/// Item `index` with the order of its steps, for the main kernel.
__device__ __forceinline__ KeyWork ordered_key_work(const ModifiedBackwardParams& params, int index, int num_tiles, int tile_q, int tile_kv) {
  KeyWork work = key_work(params, index, num_tiles, tile_q, tile_kv);
  const StepRange visited{work.first_step, work.end_step};
  work.first_stored = first_stored_step(work.range(params), visited, work.first_key, tile_q, tile_kv);
  work.first_late = first_late_step(visited, work.first_key, work.first_stored);
  return work;
}

/// Counter of the group of key tiles that the item belongs to.
__device__ __forceinline__ int* added_tiles(const ModifiedBackwardParams& params, const KeyWork& work, int tile_kv) {
  return params.tiles_added + work.workspace_head / params.group_size * params.count_groups + (work.first_key / tile_kv >> params.count_shift);
}

/// The same keys so many batch entries on (batch_inside). num_items: of one entry.
__device__ __forceinline__ KeyWork of_batch(const ModifiedBackwardParams& params, KeyWork work, int batches, int num_items) {
  work.index += batches * num_items;
  work.batch += batches;
  work.sequence += batches;
  work.workspace_head += batches * params.heads_kv * params.group_size;
  return work;
}

}  // namespace fa::sm90
