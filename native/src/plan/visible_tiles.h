// Sizes of what Hopper kernels keep of boolean masks and block masks in the workspace: which tiles are visible at all, and single pairs as bits.
// src/attention/visible_tiles.h has the layout.
#pragma once

#include <algorithm>
#include <cstdint>

#include "plan/problem.h"

namespace fa {

/// Pairs are looked at in units of so many queries and keys.
inline constexpr int kVisibleUnitRows = 64;
inline constexpr int kVisibleUnitKeys = 128;
/// A bit for each pair of a unit.
inline constexpr uint64_t kVisibleUnitBytes = kVisibleUnitRows * kVisibleUnitKeys / 8;
/// A tile of queries has at most so many units, and there are at most so many tiles on either side: a list entry holds both.
inline constexpr int kMaxVisibleGroups = 4;
inline constexpr int64_t kMaxVisibleTiles = int64_t{1} << 20;
/// Counters at the beginning of the workspace.
inline constexpr uint64_t kVisibleHeaderBytes = 64;

/// Lists of visible tiles for one pass: for every query tile its tiles of 128 keys (of_q), or for every tile of 128 keys its query tiles. A plane is a
/// combination of batch entry and head that has masks of its own: masks shared by heads or batch entries have shared lists.
struct VisibleTilesLayout {
  bool of_q;
  int tile_groups;  ///< units of 64 queries in a query tile
  int64_t batches;  ///< of planes: 1 or the problem's
  int64_t heads;
  int64_t planes;
  int64_t row_units;  ///< of a plane
  int64_t key_units;
  int64_t tiles;             ///< that have lists, per plane
  int64_t capacity;          ///< entries of a list
  int64_t planes_per_group;  ///< whose tiles are ordered together; divides planes
  bool has_bits;             ///< otherwise masks hide whole units only
  // Bytes from the beginning of the workspace, multiples of 16.
  uint64_t tickets_offset;  ///< behind the header
  uint64_t states_offset;
  uint64_t counts_offset;
  uint64_t order_offset;
  uint64_t entries_offset;
  uint64_t halves_offset;
  uint64_t bits_offset;
  uint64_t total_bytes;

  int64_t num_units() const { return planes * row_units * key_units; }
  int64_t num_groups() const { return planes / planes_per_group; }
};

/// Planes of a problem's masks.
inline int64_t visible_planes(const Problem& problem) {
  return int64_t{problem.variants.mask_batches} * problem.variants.mask_heads;
}

/// tile_q: rows of a query tile, a multiple of 64. planes_per_group divides visible_planes(). Without sequences; at least one query and one key.
inline VisibleTilesLayout visible_tiles_layout(const Problem& problem, bool of_q, int tile_q, int64_t planes_per_group = 1) {
  const auto quotient_up = [](int64_t value, int64_t divisor) { return (value + divisor - 1) / divisor; };
  const Variants& v = problem.variants;
  VisibleTilesLayout layout{};
  layout.of_q = of_q;
  layout.tile_groups = tile_q / kVisibleUnitRows;
  layout.batches = v.mask_batches;
  layout.heads = v.mask_heads;
  layout.planes = visible_planes(problem);
  layout.row_units = quotient_up(problem.len_q, kVisibleUnitRows);
  layout.key_units = quotient_up(problem.len_kv, kVisibleUnitKeys);
  const int64_t q_tiles = quotient_up(problem.len_q, tile_q);
  layout.tiles = of_q ? q_tiles : layout.key_units;
  layout.capacity = of_q ? layout.key_units : q_tiles;
  layout.planes_per_group = planes_per_group;
  layout.has_bits = v.visible || (v.block_mask && (v.block_q % kVisibleUnitRows != 0 || v.block_kv % kVisibleUnitKeys != 0));
  uint64_t end = kVisibleHeaderBytes;
  const auto place = [&](int64_t elements, uint64_t bytes) {
    const uint64_t begin = end;
    end = begin + (static_cast<uint64_t>(elements) * bytes + 15) / 16 * 16;
    return begin;
  };
  layout.tickets_offset = place(layout.num_groups(), sizeof(int32_t));
  layout.states_offset = place(layout.num_units(), 1);
  layout.counts_offset = place(layout.planes * layout.tiles, 2 * sizeof(int32_t));
  layout.order_offset = place(layout.planes * layout.tiles, sizeof(int32_t));
  layout.entries_offset = place(layout.planes * layout.tiles * layout.capacity, sizeof(uint32_t));
  layout.halves_offset = place(layout.has_bits && !of_q ? layout.planes * layout.tiles : 0, 2 * sizeof(int32_t));
  layout.bits_offset = place(layout.has_bits ? layout.num_units() : 0, kVisibleUnitBytes);
  layout.total_bytes = end;
  return layout;
}

/// Most workspace for lists and bits. A mask with a row for every query takes eight times as much itself, but one of keys alone, or of blocks, may be small and
/// the bits of its pairs many.
inline constexpr uint64_t kMostVisibleBytes = uint64_t{4} << 30;

/// Whether the numbers fit: the workspace, 32-bit indexes of units and of lists.
inline bool visible_tiles_fit(const VisibleTilesLayout& layout) {
  constexpr double kMost = 1 << 30;
  const double planes = static_cast<double>(layout.planes);
  return layout.total_bytes <= kMostVisibleBytes && std::max(layout.tiles, layout.capacity) <= kMaxVisibleTiles &&
         planes * static_cast<double>(layout.row_units) * static_cast<double>(layout.key_units) <= kMost && planes * static_cast<double>(layout.tiles) <= kMost;
}

}  // namespace fa
