// The tile configurations of the Hopper backward kernel, and its workspace: what the planner chooses from and what the kernel is instantiated for. Resource
// arithmetic and measurements: src/kernels/sm90/backward/README.md.
#pragma once

#include <cstdint>

#include "plan/plan.h"
#include "plan/problem.h"
#include "plan/sm90_backward_order.h"
#include "plan/sm90_backward_tile.h"

namespace fa {

/// The backward half of plan_sm90.
bool plan_sm90_backward(const Problem& problem, const DeviceCaps& caps, Plan* plan, Reason* why_not);

/// A problem takes the smallest head_dim that holds it, and of those one that serves any order, otherwise the one for the longest sequences that it reaches.
inline constexpr Sm90BackwardTile kSm90BackwardTiles[] = {
    {64, 128, false, 0, 1, 0, 1, true, true},
    {128, 64, false, 0, 1, 0, 1, true, true},
    {192, 64, false, 0},
    {256, 64, false, 0},
    {64, 128, false, 1025, 1, 0, 1, true, true, true},
    {64, 128, true, 0, 1, 0, 1, true, true},
    {128, 64, true, 0, 1, 0, 1, true, true},
    {192, 64, true, 0, 257, 4096, 32},
    {256, 64, true, 0, 257, 4096, 32, false, false, false, 1024},
    {128, 64, false, 2048, 1, 0, 1, true, true, true},
    {64, 128, true, 2048, 1, 0, 1, true, true, true},
    {128, 64, true, 2048, 1, 0, 1, true, true, true},
};
inline constexpr int kNumSm90BackwardTiles = sizeof(kSm90BackwardTiles) / sizeof(kSm90BackwardTiles[0]);

/// Layout of the workspace: per (batch, query head) padded_rows floats of log-sum-exp in base 2, as many of delta; fp32 accumulators of grad_q, in the order of
/// the kernel's fragments (kernels/sm90/backward/params.h); where the first key tile stores a counter per query head and one per key head; in deterministic
/// mode one per key tile and key head (two where two threads add) and one per key head, in the wide kernel one per query tile and block of the cluster; a flag
/// per 16 keys of every (batch, key head). The size is O(batch * heads_q * len_q * head_dim + batch * heads_kv * len_kv).
struct Sm90BackwardWorkspace {
  int64_t padded_rows;  ///< per head: a whole number of tiles of every configuration
  int64_t num_counters;
  uint64_t delta_offset_bytes;
  uint64_t grad_q_offset_bytes;
  uint64_t counters_offset_bytes;
  uint64_t flags_offset_bytes;
  uint64_t total_bytes;
};

inline Sm90BackwardWorkspace sm90_backward_workspace(const Sm90BackwardTile& tile, const Problem& problem) {
  Sm90BackwardWorkspace w{};
  const int64_t key_tiles = (problem.len_kv + tile.tile_kv() - 1) / tile.tile_kv();
  const int64_t key_heads = problem.batch * problem.heads_kv, heads = problem.batch * problem.heads_q;
  w.padded_rows = (problem.len_q + tile.row_padding() - 1) / tile.row_padding() * tile.row_padding();
  if (tile.from_last_key_tile()) {
    w.num_counters = key_heads * key_tiles * tile.adders() + key_heads;
  } else if (tile.deterministic) {
    w.num_counters = heads * (w.padded_rows / tile.tile_q) * tile.kCluster;
  } else if (tile.first_tile_stores) {
    w.num_counters = heads + key_heads;
  }
  const uint64_t rows = static_cast<uint64_t>(heads) * static_cast<uint64_t>(w.padded_rows);
  w.delta_offset_bytes = rows * sizeof(float);
  w.grad_q_offset_bytes = 2 * rows * sizeof(float);
  w.counters_offset_bytes = w.grad_q_offset_bytes + static_cast<uint64_t>(heads * w.padded_rows * tile.head_dim) * sizeof(float);
  w.flags_offset_bytes = w.counters_offset_bytes + static_cast<uint64_t>(w.num_counters) * sizeof(int);
  w.total_bytes = w.flags_offset_bytes + static_cast<uint64_t>(key_heads * key_tiles * (tile.tile_kv() / 16)) * sizeof(int);
  return w;
}

}  // namespace fa
