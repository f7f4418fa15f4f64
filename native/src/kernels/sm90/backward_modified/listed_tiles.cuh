// Lists of query tiles in place of ranges: what boolean and block mask leave of a problem (attention/visible_tiles.h). A list has first the tiles in which
// masks or range hide pairs (mixed), then whole ones; steps are its entries.
#pragma once

#include <cstdint>

#include "attention/visible_tiles.h"
#include "kernels/sm90/backward_modified/work.cuh"

namespace fa::sm90 {

/// The list of query tiles of an item and one of its query heads: first those in which masks or range hide pairs (mixed), then whole ones. Steps are its
/// entries.
struct QueryList {
  int list;
  int mixed;
  int end;

  __device__ __forceinline__ QueryList(const ModifiedBackwardParams& params, const KeyWork& work, int group_head)
      : list(params.visible.plane_of(work.batch, work.kv_head * params.group_size + group_head) * params.visible.tiles + work.first_key / kVisibleUnitKeys) {
    const VisibleCounts counts = params.visible.counts[list];
    mixed = __shfl_sync(0xFFFFFFFF, counts.mixed, 0);
    end = mixed + __shfl_sync(0xFFFFFFFF, counts.whole, 0);
  }
};

/// key_work with boolean or block mask: the longest list of a head first. The limits of steps are those of the first query head.
__device__ __forceinline__ KeyWork listed_key_work(const ModifiedBackwardParams& params, int index, int num_tiles, int tile_q, int tile_kv) {
  KeyWork work = key_work(params, index, num_tiles, tile_q, tile_kv);
  work.kind = KeyWork::kUnseen;
  work.first_step = work.whole_first = work.whole_last = work.end_step = 0;
  if (params.visible.counts == nullptr) {
    return work;
  }
  const int first_list = params.visible.plane_of(work.batch, work.kv_head * params.group_size) * params.visible.tiles;
  work.first_key = (params.visible.order[first_list + work.first_key / tile_kv] - first_list) * tile_kv;
#pragma unroll 1
  for (int group_head = (params.visible.heads > 1 ? params.group_size : 1) - 1; group_head >= 0; --group_head) {
    const QueryList list(params, work, group_head);
    work.whole_first = list.mixed;
    work.whole_last = work.end_step = list.end;
    work.kind = list.end > 0 ? KeyWork::kWithSteps : work.kind;
  }
  return work;
}

/// The query tiles of a list. Used by a whole warp, step by step: a lane holds every 32nd entry of either kind, so that nobody waits for them one by one.
class ListedSteps {
 public:
  __device__ __forceinline__ ListedSteps(const ModifiedBackwardParams& params, const KeyWork& work, int group_head)
      : visible_(params.visible), list_(params, work, group_head), mixed_(load_mixed(0)), whole_(load_whole(0)) {}
  __device__ __forceinline__ int end() const { return list_.end; }
  __device__ __forceinline__ int q_tile(int step) {
    const bool is_mixed = step < list_.mixed;
    const int place = is_mixed ? step : step - list_.mixed;
    if (place > 0 && place % 32 == 0) {
      (is_mixed ? mixed_ : whole_) = is_mixed ? load_mixed(place) : load_whole(place);
    }
    return __shfl_sync(0xFFFFFFFF, is_mixed ? mixed_ : whole_, place % 32);
  }

 private:
  __device__ __forceinline__ int load_mixed(int first) const {
    const int place = min(first + static_cast<int>(threadIdx.x % 32), visible_.capacity - 1);
    return visible_.mixed_entry(list_.list, place).tile();
  }
  __device__ __forceinline__ int load_whole(int first) const {
    const int place = min(first + static_cast<int>(threadIdx.x % 32), visible_.capacity - 1);
    return visible_.whole_entry(list_.list, place).tile();
  }

  const VisibleTiles& visible_;
  const QueryList list_;
  int mixed_, whole_;
};

/// For kernels without lists.
struct NoSteps {
  __device__ __forceinline__ NoSteps(const ModifiedBackwardParams&, const KeyWork&, int) {}
  __device__ __forceinline__ int end() const { return 0; }
  __device__ __forceinline__ int q_tile(int) const { return 0; }
};

/// What a consumer thread knows of the list that it goes through.
struct ListedTiles {
  int first_entry;     ///< index in VisibleTiles::entries; whole steps count down from the list's end
  int first_whole;     ///< the entry of a whole step is this less the step, from first_entry on
  int first_unit;      ///< of the key tile: the units of further queries follow each other at distances of key_units
  float* g_head;       ///< the thread's first element of the first query tile's block of the accumulator
  VisibleEntry entry;  ///< of the step

  /// Takes up the list of a query head. Returns the item with that head's limits of steps.
  __device__ __forceinline__ KeyWork take(const ModifiedBackwardParams& params, KeyWork work, int group_head, float* g_first) {
    const VisibleTiles& visible = params.visible;
    if (group_head > 0 && visible.heads > 1) {
      const QueryList list(params, work, group_head);
      work.whole_first = list.mixed;
      work.whole_last = work.end_step = list.end;
    }
    const int plane = visible.plane_of(work.batch, work.kv_head * params.group_size + group_head), key_tile = work.first_key / kVisibleUnitKeys;
    first_entry = (plane * visible.tiles + key_tile) * visible.capacity;
    first_whole = visible.capacity - 1 + work.whole_first;
    first_unit = plane * visible.row_units * visible.key_units + key_tile;
    g_head = g_first;
    return work;
  }

  /// lane_zero: 0, of which the compiler must not know that it is the same in all threads. What is read from one address it moves to a uniform register at
  /// once, and so waits for it before the step's first product.
  template <bool kMixed>
  __device__ __forceinline__ void load_entry(const ModifiedBackwardParams& params, int step, int lane_zero) {
    entry = params.visible.entries[first_entry + (kMixed ? step : first_whole - step) + lane_zero];
  }

  /// What the masks show of a mixed step's pairs with each of the thread's keys, as column_bits has them.
  template <int kTileQ>
  __device__ __forceinline__ void load_visible(const ModifiedBackwardParams& params, uint32_t (&visible)[2]) const {
    const int in_unit = static_cast<int>(threadIdx.x) - 128;  // consumers are behind the producer's warpgroup
    visible[0] = visible[1] = 0;
#pragma unroll
    for (int i = 0; i < kTileQ / kVisibleUnitRows; ++i) {
      const int state = entry.state(i);
      uint32_t word = state == kVisibleAll ? 0xFFFFFFFFu : 0u;
      if (state == kVisibleSome) {
        word = params.visible.unit_bits(first_unit + (entry.tile() * (kTileQ / kVisibleUnitRows) + i) * params.visible.key_units)[in_unit];
      }
      visible[0] |= (word & 0xFFFFu) << (16 * i);
      visible[1] |= (word >> 16) << (16 * i);
    }
  }
};
struct NoList {};

}  // namespace fa::sm90
