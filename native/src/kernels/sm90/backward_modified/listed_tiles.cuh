// Lists of query tiles in place of ranges: what boolean and block mask leave of a problem (attention/visible_tiles.h). A list has first the tiles in which
// masks or range hide pairs (mixed), then whole ones; steps are its entries.
#pragma once

#include <cstdint>

#include "attention/visible_tiles.h"
#include "kernels/sm90/backward_modified/work.cuh"
#include "ptx/prefetch.cuh"

namespace fa::sm90 {

/// The list of query tiles of an item and one of its query heads: first those in which masks or range hide pairs (mixed), then whole ones. Steps are its
/// entries.
struct QueryList {
  int list;
  int first_half, second_half;  ///< ends of the parts that show one half of the keys (VisibleHalves)
  int mixed;
  int end;

  __device__ __forceinline__ QueryList(const ModifiedBackwardParams& params, const KeyWork& work, int group_head)
      : list(params.visible.plane_of(work.batch, work.kv_head * params.group_size + group_head) * params.visible.tiles + work.first_key / kVisibleUnitKeys) {
    first_half = second_half = 0;
    if (params.visible.halves != nullptr) {
      const VisibleHalves halves = params.visible.halves[list];
      first_half = __shfl_sync(0xFFFFFFFF, halves.first, 0);
      second_half = __shfl_sync(0xFFFFFFFF, halves.second, 0);
    }
    const VisibleCounts counts = params.visible.counts[list];
    mixed = __shfl_sync(0xFFFFFFFF, counts.mixed, 0);
    end = mixed + __shfl_sync(0xFFFFFFFF, counts.whole, 0);
  }
};

/// Unit of the item's keys and the first queries. Units of further queries follow each other at distances of key_units.
__device__ __forceinline__ int first_unit(const ModifiedBackwardParams& params, const KeyWork& work, int group_head) {
  const VisibleTiles& visible = params.visible;
  return visible.plane_of(work.batch, work.kv_head * params.group_size + group_head) * visible.row_units * visible.key_units +
         work.first_key / kVisibleUnitKeys;
}

/// What of an item is read from memory.
struct ListedItem {
  int first_key;
  int first_half, second_half, mixed, end;  ///< of the first query head's list
  bool seen;                                ///< by some query head

  /// The longest list of a head first.
  __device__ __forceinline__ ListedItem(const ModifiedBackwardParams& params, const KeyWork& work)
      : first_key(work.first_key), first_half(0), second_half(0), mixed(0), end(0), seen(false) {
    if (params.visible.counts == nullptr) {
      return;
    }
    const int first_list = params.visible.plane_of(work.batch, work.kv_head * params.group_size) * params.visible.tiles;
    KeyWork place = work;
    place.first_key = first_key = (params.visible.order[first_list + work.first_key / kVisibleUnitKeys] - first_list) * kVisibleUnitKeys;
#pragma unroll 1
    for (int group_head = (params.visible.heads > 1 ? params.group_size : 1) - 1; group_head >= 0; --group_head) {
      const QueryList list(params, place, group_head);
      first_half = list.first_half;
      second_half = list.second_half;
      mixed = list.mixed;
      end = list.end;
      seen = seen || end > 0;
    }
  }

  __device__ __forceinline__ KeyWork of(KeyWork work) const {
    work.first_key = first_key;
    work.first_step = first_half;
    work.first_stored = second_half;
    work.whole_first = mixed;
    work.whole_last = work.end_step = end;
    work.kind = seen ? KeyWork::kWithSteps : KeyWork::kUnseen;
    return work;
  }
};

/// key_work with boolean or block mask.
__device__ __forceinline__ KeyWork listed_key_work(const ModifiedBackwardParams& params, int index, int num_tiles, int tile_q, int tile_kv) {
  const KeyWork work = key_work(params, index, num_tiles, tile_q, tile_kv);
  return ListedItem(params, work).of(work);
}

/// The query tiles of a list. Used by a whole warp, step by step: a lane holds every 32nd entry of either kind, so that nobody waits for them one by one.
class ListedSteps {
 public:
  __device__ __forceinline__ ListedSteps(const ModifiedBackwardParams& params, const KeyWork& work, int group_head)
      : visible_(params.visible),
        list_(params, work, group_head),
        first_unit_(first_unit(params, work, group_head)),
        mixed_(load_mixed(0)),
        whole_(load_whole(0)) {}
  __device__ __forceinline__ int end() const { return list_.end; }
  /// Of steps in their order.
  __device__ __forceinline__ VisibleEntry entry(int step) {
    const bool is_mixed = step < list_.mixed;
    if (place(step) > 0 && place(step) % 32 == 0) {
      (is_mixed ? mixed_ : whole_) = is_mixed ? load_mixed(place(step)) : load_whole(place(step));
    }
    return {__shfl_sync(0xFFFFFFFF, is_mixed ? mixed_ : whole_, place(step) % 32)};
  }
  /// Among entries of its kind.
  __device__ __forceinline__ int place(int step) const { return step < list_.mixed ? step : step - list_.mixed; }
  /// Query tile of the entry that the lane holds, of the kind of the last step that entry() was called for; -1: none.
  __device__ __forceinline__ int lane_tile(int step) const {
    const bool is_mixed = step < list_.mixed;
    const int lane_place = place(step) - place(step) % 32 + static_cast<int>(threadIdx.x % 32);
    return lane_place < (is_mixed ? list_.mixed : list_.end - list_.mixed) ? VisibleEntry{is_mixed ? mixed_ : whole_}.tile() : -1;
  }
  /// Of a step whose entry this is: the consumers, who read the bits of a mixed tile a step later, then find them in the first-level cache. A lane per 128
  /// bytes.
  __device__ __forceinline__ void touch_bits(int step, VisibleEntry entry) const {
    constexpr int kLines = static_cast<int>(kVisibleUnitBytes / 128);
    const int lane = threadIdx.x % 32, unit = lane / kLines;
    if (step < list_.mixed && unit < visible_.tile_groups && entry.state(unit) == kVisibleSome) {
      ptx::prefetch_l1(visible_.unit_bits(first_unit_ + (entry.tile() * visible_.tile_groups + unit) * visible_.key_units) + lane % kLines * 32);
    }
  }

 private:
  __device__ __forceinline__ uint32_t load_mixed(int first) const {
    const int place = min(first + static_cast<int>(threadIdx.x % 32), visible_.capacity - 1);
    return visible_.mixed_entry(list_.list, place).packed;
  }
  __device__ __forceinline__ uint32_t load_whole(int first) const {
    const int place = min(first + static_cast<int>(threadIdx.x % 32), visible_.capacity - 1);
    return visible_.whole_entry(list_.list, place).packed;
  }

  const VisibleTiles& visible_;
  const QueryList list_;
  const int first_unit_;
  uint32_t mixed_, whole_;
};

/// What a consumer thread knows of the list that it goes through.
struct ListedTiles {
  int first_unit;  ///< see first_unit
  int first_tile;  ///< of the query head, in the workspace

  /// Takes up the list of a query head. Returns the item with that head's limits of steps.
  template <int kTileQ>
  __device__ __forceinline__ KeyWork take(const ModifiedBackwardParams& params, KeyWork work, int group_head) {
    const VisibleTiles& visible = params.visible;
    if (group_head > 0 && visible.heads > 1) {
      const QueryList list(params, work, group_head);
      work.first_step = list.first_half;
      work.first_stored = list.second_half;
      work.whole_first = list.mixed;
      work.whole_last = work.end_step = list.end;
    }
    first_unit = sm90::first_unit(params, work, group_head);
    first_tile = (work.workspace_head + group_head) * static_cast<int>(params.padded_rows / kTileQ);
    return work;
  }

  /// What masks and range show of a mixed step's pairs with each of the thread's keys, as column_bits has them; there are bits.
  template <int kTileQ>
  __device__ __forceinline__ void load_visible(const ModifiedBackwardParams& params, VisibleEntry entry, uint32_t (&visible)[2]) const {
    constexpr int kUnits = kTileQ / kVisibleUnitRows;
    const int in_unit = static_cast<int>(threadIdx.x) - 128;  // consumers are behind the producer's warpgroup
    visible[0] = visible[1] = 0;
#pragma unroll
    for (int i = 0; i < kUnits; ++i) {
      const int state = entry.state(i);
      uint32_t word = state == kVisibleAll ? 0xFFFFFFFFu : 0u;
      if (kUnits == 1 || state == kVisibleSome) {
        word = params.visible.unit_bits(first_unit + (entry.tile() * kUnits + i) * params.visible.key_units)[in_unit];
      }
      visible[0] |= (word & 0xFFFFu) << (16 * i);
      visible[1] |= (word >> 16) << (16 * i);
    }
  }

  /// The same without bits: what masks alone show, whole units.
  template <int kTileQ>
  __device__ __forceinline__ static uint32_t visible_units(VisibleEntry entry) {
    uint32_t visible = 0;
#pragma unroll
    for (int i = 0; i < kTileQ / kVisibleUnitRows; ++i) {
      visible |= entry.state(i) == kVisibleAll ? 0xFFFFu << (16 * i) : 0u;
    }
    return visible;
  }
};
struct NoList {};

}  // namespace fa::sm90
