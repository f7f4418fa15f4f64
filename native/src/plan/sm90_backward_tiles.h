// The tile configurations of the Hopper backward kernel, and its workspace: what the planner chooses from and what the kernel is instantiated for. Resource
// arithmetic and measurements: src/kernels/sm90/backward/README.md.
#pragma once

#include <algorithm>
#include <cstdint>

#include "plan/plan.h"
#include "plan/problem.h"

namespace fa {

/// The backward half of plan_sm90.
bool plan_sm90_backward(const Problem& problem, const DeviceCaps& caps, Plan* plan, Reason* why_not);

/// The wide kernel's query tiles from the last to the first, and under the causal mask at least eight heads side by side, also where additions to grad_q are in
/// any order.
inline constexpr bool kWideFromLastQueryTile = true;

struct Sm90BackwardTile {
  int head_dim;  ///< columns of all tiles in shared memory; smaller head dims are padded with zeros
  int tile_q;    ///< query rows per step
  /// True: grad_q of a step is computed in the step behind it, so that the warpgroups need not wait for each other's dS; the second is kept half a step behind
  /// the first; query tiles from the last to the first. False: in the same step, and from the first to the last. The wide kernel always delays it, and goes
  /// from the last to the first.
  bool delayed_grad_q;
  /// True: key tiles are added to grad_q in the order of their keys, the first begins the sum and the last rounds it. Paired or wide, with delayed_grad_q.
  bool deterministic;
  int64_t min_len_q;  ///< chosen for at least so many queries
  /// True: clusters of two blocks share a tile of keys and exchange dS (src/kernels/sm90/backward_pair); query tiles in pairs. Deterministic only.
  bool paired = false;
  /// A deterministic tile also serves calls that ask for no order, where it is faster: those of any_order_min … any_order_max queries, at most as many keys and
  /// at least any_order_heads key heads, since few would wait for each other's turns.
  int64_t any_order_min = 1;
  int64_t any_order_max = 0;
  int64_t any_order_heads = 1;
  /// Neither paired nor wide: the first key tile stores its part of grad_q, and the others wait for that before they add theirs, so that nothing need be cleared;
  /// query tiles from the last to the first.
  bool first_tile_stores = false;
  /// With first_tile_stores: blocks also round grad_q of heads that are complete by then, all but those of the last two sections.
  bool finishes_earlier_heads = false;
  /// Without a mask: of the key tiles that no longer fill the multiprocessors, the last ones, so many blocks share each, at most.
  int last_wave_parts = 1;

  static constexpr int kWarpgroups = 2;  ///< consumer warpgroups, each with 64 keys; in the wide kernel both with the 64 keys of their block
  static constexpr int kStages = 2;      ///< tiles of q and of grad_o in flight, and of dS
  static constexpr int kCluster = 2;     ///< blocks that share a tile of keys, if any do
  constexpr int tile_kv() const { return 64 * kWarpgroups * (paired ? kCluster : 1); }
  /// Query rows that are worked on together: a head's rows are padded to a multiple, and masked pairs of whole steps are multiplied as well.
  constexpr int step_rows() const { return paired ? 2 * tile_q : tile_q; }
  /// Tiles of q in flight. The paired kernel has three where they fit registers as well as shared memory: while the second warpgroup lags behind, two are free
  /// only half a step before they are needed.
  constexpr int q_stages() const { return paired && head_dim == 64 ? 3 : kStages; }
  constexpr int64_t row_padding() const { return std::max(128, step_rows()); }
  constexpr int threads() const { return 128 * (1 + kWarpgroups); }
  constexpr int consumer_registers() const { return is_wide() || (finishes_earlier_heads && !delayed_grad_q) ? 232 : 240; }
  constexpr int producer_registers() const { return is_wide() || (finishes_earlier_heads && !delayed_grad_q) ? 40 : 24; }
  constexpr int64_t q_tile_bytes() const { return int64_t{2} * tile_q * head_dim; }
  constexpr int64_t kv_tile_bytes() const { return int64_t{2} * tile_kv() * head_dim; }
  constexpr int64_t score_tile_bytes() const { return int64_t{2} * tile_q * tile_kv(); }
  /// The main kernel begins the sums of grad_q by itself, and rounds them when they are complete.
  constexpr bool finishes_grad_q() const { return deterministic; }

  // The wide kernel (src/kernels/sm90/backward_wide), for more than 128 columns: a cluster of two blocks shares a tile of keys, each with 64 of them.
  constexpr bool is_wide() const { return head_dim > 128; }
  constexpr bool from_last_query_tile() const { return is_wide() ? deterministic || kWideFromLastQueryTile : deterministic || delayed_grad_q || first_tile_stores; }
  /// The accumulator need not be cleared: whoever comes to a query tile first stores.
  constexpr bool begins_grad_q() const { return finishes_grad_q() || first_tile_stores; }
  constexpr int blocks_per_tile() const { return is_wide() || paired ? kCluster : 1; }
  /// grad_o comes in parts of whole 64-column panels, each with a barrier of its own, where two whole tiles do not fit.
  constexpr int grad_o_parts() const { return head_dim == 256 ? 2 : 1; }
  constexpr int grad_o_slots() const { return head_dim == 256 ? 3 : 2; }
  /// Tiles of dS, of the block's own and of the other block's.
  constexpr int ds_stages() const { return head_dim == 256 ? 1 : 2; }
  static constexpr int64_t kPBytes = int64_t{4} * 64 * 64;
  static constexpr int64_t kDsBytes = int64_t{2} * 64 * 64;
  /// Two panels of the other block's keys.
  static constexpr int64_t peer_k_bytes() { return int64_t{2} * 2 * 64 * 64; }
  /// Rows of the boxes by which TMA loads q and grad_o (the wide kernel: half a tile per block, for both), k and v.
  constexpr int q_box_rows() const { return is_wide() ? tile_q / kCluster : tile_q; }
  constexpr int kv_box_rows() const { return tile_kv() / blocks_per_tile(); }

  /// Per stage a row of log-sum-exp and one of delta, then barriers; sizes are multiples of the 1024 bytes that tiles are aligned to.
  static constexpr int64_t kTailBytes = 3072;
  constexpr int64_t shared_memory_bytes() const {
    if (is_wide()) {
      return 2 * kv_tile_bytes() / kCluster + peer_k_bytes() + kStages * q_tile_bytes() + grad_o_slots() * q_tile_bytes() / grad_o_parts() + kPBytes +
             2 * ds_stages() * kDsBytes + kTailBytes;
    }
    if (paired) {  // of dS the block's own tile, the other block's and one to be sent
      return 3 * kv_tile_bytes() / kCluster + (kStages + q_stages()) * q_tile_bytes() + 3 * score_tile_bytes() / kCluster + kTailBytes;
    }
    return 2 * kv_tile_bytes() + kStages * (2 * q_tile_bytes() + score_tile_bytes()) + kTailBytes;
  }
};

/// A problem takes the smallest head_dim that holds it, and of those one that serves any order, otherwise the one for the longest sequences that it reaches.
inline constexpr Sm90BackwardTile kSm90BackwardTiles[] = {
    {64, 128, false, false, 0},
    {128, 64, false, false, 0},
    {192, 64, false, false, 0},
    {256, 64, false, false, 0},
    {64, 128, true, false, 2048},
    {64, 128, true, true, 0, true},
    {128, 64, true, true, 0, true, 257, 1024},
    {192, 64, true, true, 0, false, 257, 4096, 32},
    {256, 64, true, true, 0, false, 257, 4096, 32},
};
inline constexpr int kNumSm90BackwardTiles = sizeof(kSm90BackwardTiles) / sizeof(kSm90BackwardTiles[0]);

/// Layout of the workspace: per (batch, query head) padded_rows floats of log-sum-exp in base 2, as many of delta; fp32 accumulators of grad_q, in the order of
/// the kernel's fragments (kernels/sm90/backward/params.h); in deterministic mode a counter per query tile and block of a cluster that adds to it; a flag per
/// 16 keys of every (batch, key head). The size is O(batch * heads_q * len_q * head_dim + batch * heads_kv * len_kv).
struct Sm90BackwardWorkspace {
  int64_t padded_rows;    ///< per head: a whole number of tiles of every configuration
  int64_t section_heads;  ///< key heads whose blocks are launched side by side; in the other kernels than the paired one at least; 0: as the cache suggests
  int64_t num_counters;
  int split_parts;  ///< blocks that share each of the key tiles of the last wave; 1: none
  uint64_t delta_offset_bytes;
  uint64_t grad_q_offset_bytes;
  uint64_t counters_offset_bytes;
  uint64_t flags_offset_bytes;
  uint64_t split_sums_offset_bytes;
  uint64_t total_bytes;
};

/// Blocks that run at a time, one per multiprocessor. Only the order of work depends on it.
inline constexpr int64_t kSm90ResidentBlocks = 132;
/// Where a head's key tiles follow each other at a step or two through the same query tiles, one head alone does not keep all multiprocessors busy once its
/// tiles become short; so many side by side do.
inline constexpr int64_t kSm90StaggeredHeads = 8;

/// How many blocks share each key tile of the last wave, those that no longer fill the multiprocessors: as many as take the least time, counted in steps. A
/// block begins at the cost of some, as does the next one's taking over the sums.
inline int sm90_backward_split_parts(const Sm90BackwardTile& tile, const Problem& problem, int64_t key_tiles) {
  constexpr int64_t kBeginSteps = 4, kSumSteps = 2;
  const int64_t blocks = key_tiles * problem.batch * problem.heads_kv, rest = blocks % kSm90ResidentBlocks;
  const int64_t steps = (problem.len_q + tile.tile_q - 1) / tile.tile_q;
  int best = 1;
  if (problem.is_causal() || blocks < kSm90ResidentBlocks || rest == 0) {
    return best;
  }
  const auto cost = [&](int parts) {
    const int64_t waves = (rest * parts + kSm90ResidentBlocks - 1) / kSm90ResidentBlocks;
    return waves * (problem.group_size() * ((steps + parts - 1) / parts) + kBeginSteps) + (parts - 1) * kSumSteps;
  };
  for (int parts = 2; parts <= std::min<int64_t>(tile.last_wave_parts, steps); ++parts) {
    best = cost(parts) < cost(best) ? parts : best;
  }
  return best;
}

inline Sm90BackwardWorkspace sm90_backward_workspace(const Sm90BackwardTile& tile, const Problem& problem) {
  Sm90BackwardWorkspace w{};
  const int64_t key_tiles = (problem.len_kv + tile.tile_kv() - 1) / tile.tile_kv();
  const int64_t key_heads = problem.batch * problem.heads_kv, heads = problem.batch * problem.heads_q;
  w.padded_rows = (problem.len_q + tile.row_padding() - 1) / tile.row_padding() * tile.row_padding();
  if (tile.deterministic) {
    // As many heads as fill the multiprocessors, and so many that no more key tiles of a head run side by side than it has steps to be staggered by.
    const int64_t resident = kSm90ResidentBlocks / tile.blocks_per_tile();
    const int64_t steps = std::max<int64_t>(problem.group_size() * ((problem.len_q + tile.step_rows() - 1) / tile.step_rows()), 1);
    const int64_t filling = std::max(tile.is_wide() ? 1 : resident / std::max<int64_t>(key_tiles, 1), resident / steps);
    const int64_t wanted = tile.is_wide() || problem.is_causal() ? std::max(kSm90StaggeredHeads, filling) : filling;
    w.section_heads = std::clamp<int64_t>(wanted, 1, std::max<int64_t>(key_heads, 1));
    w.num_counters = heads * (w.padded_rows / tile.tile_q) * (tile.is_wide() ? tile.kCluster : 1);
  } else if (!tile.is_wide()) {
    w.split_parts = sm90_backward_split_parts(tile, problem, key_tiles);
    w.num_counters = tile.first_tile_stores || w.split_parts > 1 ? heads + key_heads + kSm90ResidentBlocks * tile.kWarpgroups : 0;
  } else if (tile.from_last_query_tile() && problem.is_causal()) {
    w.section_heads = std::clamp<int64_t>(kSm90StaggeredHeads, 1, std::max<int64_t>(key_heads, 1));
  }
  const uint64_t rows = static_cast<uint64_t>(heads) * static_cast<uint64_t>(w.padded_rows);
  w.delta_offset_bytes = rows * sizeof(float);
  w.grad_q_offset_bytes = 2 * rows * sizeof(float);
  w.counters_offset_bytes = w.grad_q_offset_bytes + static_cast<uint64_t>(heads * w.padded_rows * tile.head_dim) * sizeof(float);
  w.flags_offset_bytes = w.counters_offset_bytes + static_cast<uint64_t>(w.num_counters) * sizeof(int);
  w.total_bytes = w.flags_offset_bytes + static_cast<uint64_t>(key_heads * key_tiles * (tile.tile_kv() / 16)) * sizeof(int);
  w.split_sums_offset_bytes = (w.total_bytes + 15) / 16 * 16;
  if (w.split_parts > 1) {
    const int64_t split_tiles = key_tiles * key_heads % kSm90ResidentBlocks;
    w.total_bytes = w.split_sums_offset_bytes + static_cast<uint64_t>(split_tiles * 2 * tile.tile_kv() * tile.head_dim) * sizeof(float);
  }
  return w;
}

}  // namespace fa
