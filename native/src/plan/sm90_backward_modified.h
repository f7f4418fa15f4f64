// The Hopper backward kernels with modified scores (windows, chunks, ALiBi, softcap, bias, masks, sinks) and for sequences of different lengths: what the
// planner chooses from and what the kernel is instantiated for. Resource arithmetic and measurements: src/kernels/sm90/backward_modified/README.md.
#pragma once

#include <algorithm>
#include <cstdint>

#include "plan/plan.h"
#include "plan/problem.h"
#include "plan/sequence_tables.h"
#include "plan/sm90_backward_order.h"
#include "plan/sm90_grad_bias.h"
#include "plan/sm90_scores.h"
#include "plan/visible_tiles.h"

namespace fa {

/// Sets of plan/sm90_scores.h that these kernels are compiled for: places 1 … of kSm90ScoreSets.
inline constexpr int kNumSm90ModifiedBackwardSets = 5;

struct Sm90ModifiedBackwardTile {
  int head_dim;  ///< columns of all tiles in shared memory; smaller head dims are padded with zeros
  int tile_q;    ///< query rows per step

  static constexpr int kWarpgroups = 2;  ///< consumer warpgroups, each with 64 keys
  static constexpr int kStages = 2;      ///< tiles of q and of grad_o in flight, and of dS
  static constexpr int kBuffers = 2;     ///< tiles of k and of v: those of the next work item are loaded beside the current one
  static constexpr int tile_kv() { return 64 * kWarpgroups; }
  static constexpr int threads() { return 128 * (1 + kWarpgroups); }
  static constexpr int consumer_registers() { return 232; }
  static constexpr int producer_registers() { return 40; }
  constexpr int64_t q_tile_bytes() const { return int64_t{2} * tile_q * head_dim; }
  constexpr int64_t kv_tile_bytes() const { return int64_t{2} * tile_kv() * head_dim; }
  constexpr int64_t score_tile_bytes() const { return int64_t{2} * tile_q * tile_kv(); }
  /// Per stage a row of shifts and one of deltas, then work items and barriers; sizes are multiples of the 1024 bytes that tiles are aligned to.
  static constexpr int64_t kTailBytes = 3072;
  constexpr int64_t shared_memory_bytes() const { return kBuffers * 2 * kv_tile_bytes() + kStages * (2 * q_tile_bytes() + score_tile_bytes()) + kTailBytes; }
};

inline constexpr Sm90ModifiedBackwardTile kSm90ModifiedBackwardTiles[] = {{64, 128}, {128, 64}};
inline constexpr int kNumSm90ModifiedBackwardTiles = sizeof(kSm90ModifiedBackwardTiles) / sizeof(kSm90ModifiedBackwardTiles[0]);

/// Layout of the workspace: per query head padded_rows floats of what the scores are shifted by, as many of delta; an fp32 accumulator of grad_q per query
/// head, in the order of the kernel's fragments; counters; the table of key tiles of sequences; a flag per 16 keys of every key tile and head; lists of visible
/// tiles and bits of pairs of boolean and block mask (plan/visible_tiles.h).
struct Sm90ModifiedBackwardWorkspace {
  int64_t padded_rows;   ///< per head: of a batch entry, or of all sequences
  int64_t num_heads;     ///< that have so many: batch * heads_q, or with sequences heads_q
  int64_t key_tiles;     ///< per key head: of a batch entry, or at most of all sequences
  int64_t key_heads;     ///< of all batch entries, or with sequences heads_kv
  int64_t count_groups;  ///< per key head: groups of key tiles that are counted together when they are done
  int64_t num_counters;
  int64_t num_work;  ///< key tiles of all heads, at most
  uint64_t delta_offset_bytes;
  uint64_t grad_q_offset_bytes;
  uint64_t counter_offset_bytes;
  uint64_t table_offset_bytes;
  uint64_t flags_offset_bytes;
  uint64_t visible_offset_bytes;
  uint64_t total_bytes;
};

inline constexpr int64_t kSm90ModifiedRowPadding = 128;
/// Counters of the whole call; behind them are one per group of key tiles and, where the first key tile that visits a query tile stores, one per query tile.
inline constexpr int kSm90ModifiedCounters = 4;

/// Whether key tiles have lists of query tiles, because of a boolean or block mask.
inline bool sm90_modified_lists_tiles(const Problem& problem) {
  return (problem.variants.visible || problem.variants.block_mask) && problem.batch > 0 && problem.len_q > 0 && problem.len_kv > 0;
}

/// Log2 of how many key tiles are counted together when they are done: 8, so that rows of grad_q are finished as soon as the key tiles of a window that see
/// them are done. With lists those of a head, whose key tiles are not taken up in the order of their keys.
inline int sm90_modified_count_shift(const Problem& problem) {
  return sm90_modified_lists_tiles(problem) || problem.variants.sequences.given ? 30 : 3;
}

inline VisibleTilesLayout sm90_modified_visible_layout(const Sm90ModifiedBackwardTile& tile, const Problem& problem) {
  return visible_tiles_layout(problem, /*of_q=*/false, tile.tile_q);
}

inline Sm90ModifiedBackwardWorkspace sm90_modified_backward_workspace(const Sm90ModifiedBackwardTile& tile, const Problem& problem) {
  Sm90ModifiedBackwardWorkspace w{};
  const bool sequences = problem.variants.sequences.given;
  w.key_heads = problem.heads_kv * (sequences ? 1 : problem.batch);
  w.key_tiles = sequences ? sequence_tiles(problem, false, tile.tile_kv()) : (problem.len_kv + tile.tile_kv() - 1) / tile.tile_kv();
  w.num_work = w.key_tiles * w.key_heads;
  w.num_heads = problem.heads_q * (sequences ? 1 : problem.batch);
  w.padded_rows = sequences ? sequence_rows(problem) : (problem.len_q + kSm90ModifiedRowPadding - 1) / kSm90ModifiedRowPadding * kSm90ModifiedRowPadding;
  const uint64_t rows = static_cast<uint64_t>(w.num_heads) * static_cast<uint64_t>(w.padded_rows);
  w.delta_offset_bytes = rows * sizeof(float);
  w.grad_q_offset_bytes = 2 * rows * sizeof(float);
  w.counter_offset_bytes = w.grad_q_offset_bytes + rows * static_cast<uint64_t>(tile.head_dim) * sizeof(float);
  w.count_groups = w.key_tiles > 0 ? ((w.key_tiles - 1) >> sm90_modified_count_shift(problem)) + 1 : 1;
  w.num_counters = kSm90ModifiedCounters + w.key_heads * w.count_groups + w.num_heads * (w.padded_rows / tile.tile_q);
  w.table_offset_bytes = w.counter_offset_bytes + static_cast<uint64_t>((w.num_counters + 3) / 4 * 4) * sizeof(int);
  w.flags_offset_bytes = w.table_offset_bytes + (sequences ? sequence_table_bytes(w.key_tiles) : 0);
  w.visible_offset_bytes = w.flags_offset_bytes + static_cast<uint64_t>(w.num_work * (tile.tile_kv() / 16)) * sizeof(int);
  w.total_bytes = w.visible_offset_bytes + (sm90_modified_lists_tiles(problem) ? sm90_modified_visible_layout(tile, problem).total_bytes : 0);
  return w;
}

/// Sections of heads from which on the main kernel finishes heads itself.
inline constexpr int64_t kSm90ModifiedSectionsToFinish = 4;

/// Key heads that are worked on side by side: as many as fill the multiprocessors, if the cache holds what their query tiles stream through. Up to twice as
/// many, so that the last section lacks the fewest: a smaller one begins with its longest tiles when little is left to do beside them. Of sequences one is
/// worked on at a time: as many heads as the longest lets into the cache, and two at least. So the next tile of the same head is not taken up at the same
/// moment, which would wait for what the first stores of grad_q; and the longest sequences of the last heads do not come at the end.
inline int64_t sm90_modified_section_heads(const Sm90ModifiedBackwardTile& tile, const Problem& problem) {
  constexpr int64_t kCacheBytes = int64_t{50} << 20, kResidentBlocks = 132;
  const Sm90ModifiedBackwardWorkspace w = sm90_modified_backward_workspace(tile, problem);
  const bool sequences = problem.variants.sequences.given;
  const int64_t head_bytes =
      (sequences ? problem.max_len_q() : problem.len_q) * (2 * (problem.head_dim + problem.head_dim_v) + 4 * tile.head_dim) * problem.group_size();
  const int64_t fitting = head_bytes > 0 ? kCacheBytes / 2 / head_bytes : w.key_heads;
  const int64_t filling = sequences ? w.key_heads : (kResidentBlocks + w.key_tiles - 1) / std::max<int64_t>(w.key_tiles, 1);
  const int64_t wanted = std::max<int64_t>(std::min({std::max<int64_t>(fitting, sequences ? 2 : 1), filling, w.key_heads}), 1);
  const int64_t level = sm90_level_section(std::max<int64_t>(w.key_heads, 1), wanted);
  // Not so many that heads are no longer finished one after the other.
  return w.key_heads >= kSm90ModifiedSectionsToFinish * wanted && w.key_heads < kSm90ModifiedSectionsToFinish * level ? wanted : level;
}

/// Whether the main kernel turns accumulators into grad_q itself. Heads must be done one after the other, or all would be finished at the end by too few warps.
inline bool sm90_modified_finish_inside(const Sm90ModifiedBackwardTile& tile, const Problem& problem) {
  const Sm90ModifiedBackwardWorkspace w = sm90_modified_backward_workspace(tile, problem);
  return !problem.variants.sequences.given && problem.len_q > 0 && w.num_work > 0 &&
         w.key_heads >= kSm90ModifiedSectionsToFinish * sm90_modified_section_heads(tile, problem);
}

/// Batch entries that a block goes through one behind the other with each key tile.
inline int64_t sm90_modified_batch_inside(const Problem& problem) {
  const bool adds = problem.variants.grad_bias && !sm90_sums_grad_bias(problem) && problem.variants.bias_batches == 1;
  return adds ? std::max<int64_t>(problem.batch, 1) : 1;
}

/// Whether the main kernel stores the gradient of a bias and does not visit all of its tiles.
inline bool sm90_modified_zeros_grad_bias(const Problem& problem) {
  return problem.variants.grad_bias && !sm90_sums_grad_bias(problem) && problem.len_q > 0 && problem.len_kv > 0 &&
         (problem.mask != Mask::kNone || problem.variants.chunk > 0);
}

/// Plan::variant of these kernels: behind those of sm90_backward_tiles.h.
inline constexpr int kFirstSm90ModifiedBackwardVariant = 64;
inline constexpr int sm90_modified_backward_variant(int tile, int set) {
  return kFirstSm90ModifiedBackwardVariant + set * kNumSm90ModifiedBackwardTiles + tile;
}

/// The part of plan_sm90 for backward passes with variants.
bool plan_sm90_backward_modified(const Problem& problem, const DeviceCaps& caps, Plan* plan, Reason* why_not);

}  // namespace fa
