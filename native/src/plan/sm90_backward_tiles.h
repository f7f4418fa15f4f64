// The tile configurations of the Hopper backward kernel, and its workspace: what the planner chooses from and what the kernel is instantiated for. Resource
// arithmetic and measurements: src/kernels/sm90/backward/README.md.
#pragma once

#include <cstdint>

#include "plan/plan.h"
#include "plan/problem.h"

namespace fa {

/// The backward half of plan_sm90.
bool plan_sm90_backward(const Problem& problem, const DeviceCaps& caps, Plan* plan, Reason* why_not);

/// How a tile's part of grad_q reaches the fp32 accumulator in global memory.
enum class Sm90GradQPath {
  kFromRegisters,  ///< vector reductions straight from the accumulator registers
  kBulk,           ///< staged in shared memory, then one bulk reduction per warpgroup
};

struct Sm90BackwardTile {
  int head_dim;  ///< columns of all tiles in shared memory; smaller head dims are padded with zeros
  int tile_q;    ///< query rows per step
  Sm90GradQPath grad_q_path;
  /// True: P^T dO is issued as soon as P is there, and runs beside the forming of dS. False, where the registers do not suffice: behind it.
  bool early_grad_v;
  /// True: without a mask each block starts at another query tile and goes round, so that not all blocks of a head add to the same tile of grad_q at once.
  bool rotate_queries;

  static constexpr int kWarpgroups = 2;  ///< consumer warpgroups, each with 64 keys; in the wide kernel both with the 64 keys of their block
  static constexpr int kStages = 2;      ///< tiles of q and of grad_o in flight, and of dS
  constexpr int tile_kv() const { return 64 * kWarpgroups; }
  constexpr int threads() const { return 128 * (1 + kWarpgroups); }
  constexpr int consumer_registers() const { return is_wide() ? 232 : 240; }
  constexpr int producer_registers() const { return is_wide() ? 40 : 24; }
  constexpr int64_t q_tile_bytes() const { return int64_t{2} * tile_q * head_dim; }
  constexpr int64_t kv_tile_bytes() const { return int64_t{2} * tile_kv() * head_dim; }
  constexpr int64_t score_tile_bytes() const { return int64_t{2} * tile_q * tile_kv(); }
  constexpr int64_t grad_q_bytes() const { return grad_q_path == Sm90GradQPath::kBulk ? int64_t{4} * tile_q * head_dim : 0; }

  // The wide kernel (src/kernels/sm90/backward_wide), for more than 128 columns: a cluster of two blocks shares a tile of keys, each with 64 of them.
  static constexpr int kCluster = 2;
  constexpr bool is_wide() const { return head_dim > 128; }
  constexpr int blocks_per_tile() const { return is_wide() ? kCluster : 1; }
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
    return 2 * kv_tile_bytes() + kStages * (2 * q_tile_bytes() + score_tile_bytes()) + grad_q_bytes() + kTailBytes;
  }
};

/// Smallest head_dim first; a problem takes the first that holds it.
inline constexpr Sm90BackwardTile kSm90BackwardTiles[] = {
    {64, 128, Sm90GradQPath::kFromRegisters, false, false},
    {128, 64, Sm90GradQPath::kFromRegisters, false, false},
    {192, 64, Sm90GradQPath::kFromRegisters, false, false},
    {256, 64, Sm90GradQPath::kFromRegisters, false, false},
};
inline constexpr int kNumSm90BackwardTiles = sizeof(kSm90BackwardTiles) / sizeof(kSm90BackwardTiles[0]);

/// Layout of the workspace: per (batch, query head) padded_rows floats of log-sum-exp in base 2, as many of delta, then padded_rows * head_dim floats of grad_q
/// in the order of the kernel's fragments (kernels/sm90/backward/params.h), then a flag per 16 keys of every (batch, key head). The size is
/// O(batch * heads_q * len_q * head_dim + batch * heads_kv * len_kv).
struct Sm90BackwardWorkspace {
  int64_t padded_rows;  ///< per head: a whole number of tiles of every configuration
  uint64_t delta_offset_bytes;
  uint64_t grad_q_offset_bytes;
  uint64_t flags_offset_bytes;
  uint64_t total_bytes;
};

inline constexpr int64_t kSm90RowPadding = 128;

inline Sm90BackwardWorkspace sm90_backward_workspace(const Sm90BackwardTile& tile, const Problem& problem) {
  Sm90BackwardWorkspace w{};
  w.padded_rows = (problem.len_q + kSm90RowPadding - 1) / kSm90RowPadding * kSm90RowPadding;
  const uint64_t rows = static_cast<uint64_t>(problem.batch * problem.heads_q) * static_cast<uint64_t>(w.padded_rows);
  const uint64_t key_tiles =
      static_cast<uint64_t>(problem.batch * problem.heads_kv) * static_cast<uint64_t>((problem.len_kv + tile.tile_kv() - 1) / tile.tile_kv());
  w.delta_offset_bytes = rows * sizeof(float);
  w.grad_q_offset_bytes = 2 * rows * sizeof(float);
  w.flags_offset_bytes = w.grad_q_offset_bytes + rows * static_cast<uint64_t>(tile.head_dim) * sizeof(float);
  w.total_bytes = w.flags_offset_bytes + key_tiles * static_cast<uint64_t>(tile.tile_kv() / 16) * sizeof(int);
  return w;
}

}  // namespace fa
