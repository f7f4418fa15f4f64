// The tile configurations of the Hopper forward kernel: what the planner chooses from and what the kernel is instantiated for. Resource arithmetic and
// measurements: src/kernels/sm90/forward/README.md.
#pragma once

#include <cstdint>

#include "plan/problem.h"

namespace fa {

/// How the running maximum of a row is kept while the unmasked key tiles go by.
enum class Sm90Softmax {
  /// Keep the reference of the first tile and only check that the row sums stay in range; repeat the tile the exact way where they do not.
  kOptimisticMaximum,
  /// Take the maximum of every tile, but move the reference and rescale the output only when it grew by more than 2^8.
  kLazyRescale,
};

struct Sm90ForwardTile {
  int head_dim;    ///< columns of q, k, v and o in shared memory; smaller head dims are padded with zeros
  int warpgroups;  ///< consumer warpgroups, each with 64 query rows
  int tile_kv;     ///< keys per step
  int stages;      ///< tiles of k and of v in flight
  /// True: two q tiles and a staging tile for o in shared memory; the end of a query tile overlaps with the beginning of the next, and o leaves by TMA.
  /// False, where they do not fit: one q tile, and o is stored from registers.
  bool overlap_tiles;
  Sm90Softmax softmax;
  /// True: the warpgroups issue their products in turns.
  bool ping_pong;

  constexpr int tile_q() const { return 64 * warpgroups; }
  /// One producer warpgroup and the consumers.
  constexpr int threads() const { return 128 * (1 + warpgroups); }
  constexpr int consumer_registers() const { return warpgroups == 3 ? 160 : 240; }
  constexpr int producer_registers() const { return warpgroups == 3 ? 32 : 24; }
  constexpr int64_t q_bytes() const { return int64_t{2} * tile_q() * head_dim; }
  constexpr int64_t kv_tile_bytes() const { return int64_t{2} * tile_kv * head_dim; }
  /// Bytes of dynamic shared memory: tiles, then barriers.
  constexpr int64_t shared_memory_bytes() const { return q_bytes() * (overlap_tiles ? 3 : 1) + 2 * stages * kv_tile_bytes() + kBarrierBytes; }

  /// The barriers need less; sizes are multiples of the 1024 bytes that tiles are aligned to.
  static constexpr int64_t kBarrierBytes = 1024;
};

/// Smallest head_dim first; a problem takes the first that holds it.
inline constexpr Sm90ForwardTile kSm90ForwardTiles[] = {
    {64, 3, 112, 2, true, Sm90Softmax::kOptimisticMaximum, false},
    {128, 2, 128, 2, true, Sm90Softmax::kOptimisticMaximum, true},
    {192, 2, 96, 2, false, Sm90Softmax::kOptimisticMaximum, false},
    {256, 2, 80, 2, false, Sm90Softmax::kLazyRescale, false},
};
inline constexpr int kNumSm90ForwardTiles = sizeof(kSm90ForwardTiles) / sizeof(kSm90ForwardTiles[0]);

/// Query heads (over the batch too) whose keys and values together take no more than this of L2 are worked on at the same time.
inline constexpr int64_t kSm90SectionBytes = int64_t{32} << 20;

inline int64_t sm90_section_heads(const Problem& problem) {
  const int64_t kv_head_bytes = problem.len_kv * (problem.head_dim + problem.head_dim_v) * dtype_bytes(problem.dtype);
  const int64_t kv_heads = kv_head_bytes > 0 ? kSm90SectionBytes / kv_head_bytes : 1;
  const int64_t heads = (kv_heads < 1 ? 1 : kv_heads) * problem.group_size();
  const int64_t all = problem.batch * problem.heads_q;
  return heads < all ? heads : (all < 1 ? 1 : all);
}

}  // namespace fa
