// Lists of the tiles that boolean masks and block masks leave visible, in the workspace of the Hopper kernels. Two kernels before the main one write them
// (kernels/sm90/visible_tiles/prepare.h, device code in visible_tiles.cuh); nothing waits on the host.
//
// What the masks say is looked at in units of 64 queries x 128 keys. The first kernel reads the masks once per plane (a batch entry and head with masks of
// their own) and writes a state per unit and, for units of which some pairs are hidden, a bit per pair. The second one writes the lists.
//
// How a kernel uses it
//   plan     workspace: visible_tiles_layout(problem, of_q, tile_q, planes_per_group).total_bytes, 16-byte aligned (plan/visible_tiles.h).
//   launch   prepare_visible_tiles(visible_tiles_job(…), …), then the main kernel on the same stream, with job.tiles in its parameters.
//   kernel   plane = plane_of(batch, head); list = (plane, tile): counts(list) entries: first those that need a test of pairs (mixed), entry(list, i), then
//            those of which every pair is visible (whole), entry(list, capacity - 1 - i). A tile that is in neither is hidden altogether.
//   order    place i of group g: order[g * planes_per_group * tiles + i] is a list, plane * tiles + tile, the longest of the group first.
//   counter  counter[0] is 0 when the main kernel begins: for handing out work.
//
// An entry of a mixed tile says what the test needs: for each unit of 64 queries of the query tile whether the masks hide all, some or none of its pairs, and
// whether the range (causal mask, window, chunk, the tensors' ends) hides some pair of the tile. Bits of a unit exist only in state kSome. In lists of query
// tiles they know nothing of the range: queries and keys behind the tensors' ends count as visible in states, their bits mean nothing; whole tiles have no such
// keys (what is computed for such queries is not stored). In lists of key tiles what the range hides is hidden in states and bits, if there are bits; whole
// tiles have neither such keys nor such queries.
#pragma once

#include <cstdint>

#include "attention/score_params.h"
#include "plan/visible_tiles.h"

namespace fa {

/// What the masks leave of a unit, 64 queries x 128 keys.
enum VisibleState : int { kVisibleNone = 0, kVisibleSome = 1, kVisibleAll = 2 };
/// What a unit's byte has besides: of kVisibleSome, that all pairs with keys 0 … 63 or with keys 64 … 127 are hidden.
inline constexpr int kVisibleStates = 3, kHidesFirstHalf = 4, kHidesSecondHalf = 8;

/// Entry of a list: bits 0-19 the tile, two bits of state for each unit of the query tile from bit 20 on, bit 28: the range hides some pair of the tile.
struct VisibleEntry {
  static constexpr int kTileBits = 20;
  static constexpr int kRangedBit = kTileBits + 2 * kMaxVisibleGroups;

  uint32_t packed;

#if defined(__CUDACC__) || defined(FA_EMULATOR)
  __device__ __forceinline__ int tile() const {
    return static_cast<int>(packed & ((1u << kTileBits) - 1));
  }
  __device__ __forceinline__ int state(int group) const {
    return static_cast<int>(packed >> (kTileBits + 2 * group) & 3u);
  }
  __device__ __forceinline__ bool ranged() const {
    return (packed >> kRangedBit & 1u) != 0;
  }
#endif
};

/// Length of a list.
struct alignas(8) VisibleCounts {
  int32_t mixed;
  int32_t whole;
};

/// Ends of the parts of a list of query tiles in which the masks show nothing but pairs with the first, then with the last 64 keys of the key tile.
struct alignas(8) VisibleHalves {
  int32_t first;
  int32_t second;
};

/// As it travels in a kernel's parameter space. Indexes: lists plane * tiles + tile; units (plane * row_units + row unit) * key_units + key unit.
struct VisibleTiles {
  int32_t* counter = nullptr;
  int32_t* tickets = nullptr;  ///< one per group, for the kernels that write the lists
  uint8_t* states = nullptr;
  VisibleCounts* counts = nullptr;
  int32_t* order = nullptr;
  VisibleEntry* entries = nullptr;  ///< capacity per list
  VisibleHalves* halves = nullptr;  ///< of lists of key tiles, if there are bits: mixed entries begin with those that show one half of the keys
  /// kVisibleUnitBytes per unit, in the order in which threads hold accumulators; null if there are no units in state kVisibleSome.
  ///  of_q: rows of accumulators are queries. Word ((row / 16 * 8 + row % 8) * 4 + quad lane) * 2 + row / 8 % 2 is that of row `row` of 64; bit 2 j + e is key
  ///        8 j + 2 * quad lane + e. The two rows of a thread are 8 bytes, a warp's 16 rows 256 bytes.
  ///  else: rows of accumulators are keys. Word (key / 16 * 8 + key % 8) * 4 + quad lane, for key / 8 even, is that of keys `key` (bits 0-15) and key + 8 (bits
  ///        16-31) of 128; bit 2 j + e is query 8 j + 2 * quad lane + e of 64. A warp's 16 keys are 128 bytes.
  uint32_t* bits = nullptr;
  bool of_q = true;
  int tile_groups = 1;
  int batches = 1, heads = 1;  ///< of planes; 1: shared
  int row_units = 0, key_units = 0;
  int tiles = 0;
  int capacity = 0;
  int group_lists = 0;  ///< planes_per_group * tiles
  int num_groups = 0;

#if defined(__CUDACC__) || defined(FA_EMULATOR)
  /// Whether what the range hides is hidden in states and bits, too. A mixed tile of one unit has bits then.
  __device__ __forceinline__ bool bits_know_range() const {
    return halves != nullptr;
  }
  __device__ __forceinline__ int plane_of(int batch, int head) const {
    return (batches > 1 ? batch : 0) * heads + (heads > 1 ? head : 0);
  }
  __device__ __forceinline__ VisibleEntry mixed_entry(int list, int i) const {
    return entries[static_cast<int64_t>(list) * capacity + i];
  }
  __device__ __forceinline__ VisibleEntry whole_entry(int list, int i) const {
    return entries[static_cast<int64_t>(list) * capacity + capacity - 1 - i];
  }
  static constexpr int kUnitWords = static_cast<int>(kVisibleUnitBytes / sizeof(uint32_t));
  __device__ __forceinline__ const uint32_t* unit_bits(int unit) const {
    return bits + static_cast<int64_t>(unit) * kUnitWords;
  }
#endif
};

/// What the kernels that write the lists do.
struct VisibleTilesJob {
  VisibleTiles tiles;
  PairRange range;
  PairTensor visible, block_mask;  ///< data null: none
  FastDivisor by_block_q, by_block_kv;
  FastDivisor by_row_units, by_key_units, by_tiles;
  bool visible_aligned = false;  ///< rows of `visible` begin at multiples of 16 bytes
  int64_t num_units = 0;
};

/// For a call: the masks of `scores` (score_params_of), the layout that the plan was made with, and the part of the workspace that it describes.
inline VisibleTilesJob visible_tiles_job(const ScoreParams& scores, const VisibleTilesLayout& layout, void* workspace) {
  auto* const bytes = static_cast<unsigned char*>(workspace);
  VisibleTilesJob job;
  VisibleTiles& t = job.tiles;
  t.counter = reinterpret_cast<int32_t*>(bytes);
  t.tickets = reinterpret_cast<int32_t*>(bytes + layout.tickets_offset);
  t.states = bytes + layout.states_offset;
  t.counts = reinterpret_cast<VisibleCounts*>(bytes + layout.counts_offset);
  t.order = reinterpret_cast<int32_t*>(bytes + layout.order_offset);
  t.entries = reinterpret_cast<VisibleEntry*>(bytes + layout.entries_offset);
  t.halves = layout.has_bits && !layout.of_q ? reinterpret_cast<VisibleHalves*>(bytes + layout.halves_offset) : nullptr;
  t.bits = layout.has_bits ? reinterpret_cast<uint32_t*>(bytes + layout.bits_offset) : nullptr;
  t.of_q = layout.of_q;
  t.tile_groups = layout.tile_groups;
  t.batches = static_cast<int>(layout.batches);
  t.heads = static_cast<int>(layout.heads);
  t.row_units = static_cast<int>(layout.row_units);
  t.key_units = static_cast<int>(layout.key_units);
  t.tiles = static_cast<int>(layout.tiles);
  t.capacity = static_cast<int>(layout.capacity);
  t.group_lists = static_cast<int>(layout.planes_per_group * layout.tiles);
  t.num_groups = static_cast<int>(layout.num_groups());
  job.range = scores.range;
  job.visible = scores.visible;
  job.block_mask = scores.block_mask;
  job.by_block_q = scores.by_block_q;
  job.by_block_kv = scores.by_block_kv;
  job.by_row_units = FastDivisor(layout.row_units);
  job.by_key_units = FastDivisor(layout.key_units);
  job.by_tiles = FastDivisor(layout.tiles);
  const PairTensor& v = scores.visible;
  job.visible_aligned = (v.batch_stride | v.head_stride | v.row_stride) % 16 == 0 && reinterpret_cast<uintptr_t>(v.data) % 16 == 0;
  job.num_units = layout.num_units();
  return job;
}

}  // namespace fa
