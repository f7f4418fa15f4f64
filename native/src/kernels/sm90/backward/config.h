// Resource plan of one instantiation of the Hopper backward kernel.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "kernels/sm90/backward/params.h"
#include "plan/sm90_backward_tiles.h"

namespace fa::sm90 {

/// TileSource::kTile is the Sm90BackwardTile to build.
template <typename Element_, typename TileSource>
struct BackwardConfig {
  using Element = Element_;
  static constexpr Sm90BackwardTile kTile = TileSource::kTile;

  static constexpr int kHeadDim = kTile.head_dim;
  static constexpr int kTileQ = kTile.tile_q;
  static constexpr int kTileKv = kTile.tile_kv();
  static constexpr int kStages = kTile.kStages;
  static constexpr int kWarpgroups = kTile.kWarpgroups;
  static constexpr int kThreads = kTile.threads();
  static constexpr int kClusterSize = 1;
  static constexpr int kConsumerThreads = 128 * kWarpgroups;
  static constexpr int kConsumerWarps = 4 * kWarpgroups;
  static constexpr int kPanels = kHeadDim / 64;
  static constexpr bool kFirstTileStores = kTile.first_tile_stores;
  static constexpr bool kInTurns = kTile.deterministic;  ///< additions to grad_q in a fixed order (turns.cuh)
  static constexpr bool kAddsInBulk = kTile.adds_in_bulk;
  static constexpr int kAdders = kTile.adders();
  static constexpr bool kClears = kTile.clears_later_heads();
  /// Warps of a block that round rows of earlier heads and clear those of later ones: all idle ones of the producer's.
  static constexpr int kFinishingWarps = kInTurns || kAddsInBulk ? 3 - kAdders : 3;
  static constexpr bool kFromLastQueryTile = kTile.from_last_query_tile();

  /// Accumulator registers of a thread: S^T and dP^T (64 keys x tile_q), grad_k and grad_v (64 keys x head_dim), one 64 x 64 block of grad_q.
  static constexpr int kScores = kTileQ / 2;
  static constexpr int kGradients = kHeadDim / 2;
  static constexpr int kGradQ = 32;

  /// If kAddsInBulk: scores whose log-sum-exp, and then delta, a thread loads before it waits for them: 16 registers. At head_dim 64 half of the scores.
  static constexpr int kEarlyScores = 32;

  /// Named barriers. 0 is __syncthreads.
  static constexpr int kBarrierConsumers = 1;  ///< all consumers
  static constexpr int kBarrierWarpgroup = 2;  ///< + w: consumer warpgroup w alone

  struct SharedStorage {
    // Panels of 64 columns with 128-byte swizzle: 1024-byte alignment (tile/wgmma_descriptor.cuh).
    alignas(1024) Element k[kPanels][kTileKv][64];  ///< afterwards grad_k
    alignas(1024) Element v[kPanels][kTileKv][64];  ///< afterwards grad_v
    using QTile = Element[kPanels][kTileQ][64];
    alignas(1024) QTile q[kStages];
    alignas(1024) QTile grad_o[kStages];
    alignas(1024) Element ds[kStages][kWarpgroups][kTileQ][64];  ///< dS: rows are queries, panel w holds the keys of warpgroup w
    alignas(128) float lse_log2[kStages][kTileQ];
    alignas(128) float delta[kStages][kTileQ];
    uint64_t k_full;
    uint64_t v_full;
    uint64_t q_full[kStages];  ///< q and lse_log2
    uint64_t q_empty[kStages];
    uint64_t grad_o_full[kStages];  ///< grad_o and delta
    uint64_t grad_o_empty[kStages];
    uint64_t grad_q_full[kStages];  ///< if kAddsInBulk, as those below
    uint64_t grad_q_empty[kStages];
    /// Each warpgroup's part of a step of grad_q.
    alignas(128) float grad_q[kAddsInBulk ? kStages : 1][kWarpgroups][kAddsInBulk ? kGradQBlock : 4];
    int steps_added;  ///< if kInTurns without kAddsInBulk: steps whose part of grad_q the block has added
    /// Bytes from a tile of q to the tile of grad_o of the same stage.
    static constexpr uint32_t kToGradO = kStages * sizeof(QTile);
  };

  static_assert(kHeadDim == 64 || kHeadDim == 128, "panels are 64 columns wide");
  static_assert(!kInTurns || (kFirstTileStores && !kFromLastQueryTile), "what the order of additions is made for");
  static_assert(!kAddsInBulk || kTile.finishes_earlier_heads, "who counts what is done");
  static_assert(kTile.first_tile_stores || !kTile.finishes_earlier_heads, "its counters are cleared with those");
  static_assert(kStages == 2 && kWarpgroups == 2, "the exchange of dS between the warpgroups");
  static_assert(kTileQ / 64 * kPanels == kWarpgroups, "each warpgroup computes one 64 x 64 block of grad_q");
  static_assert(kTile.row_padding() % kTileQ == 0, "tiles of the workspace");
  static_assert(kTile.consumer_registers() * kWarpgroups + kTile.producer_registers() <= 168 * (kWarpgroups + 1),
                "setmaxnreg moves what the block got at entry");
  static_assert(kThreads * 168 <= 65536, "registers at entry");
  static_assert(sizeof(SharedStorage) <= kTile.shared_memory_bytes(), "the planner's arithmetic");
  static_assert(kTile.shared_memory_bytes() <= 232448, "227 KiB of dynamic shared memory per block");
};

/// A tile of the planner's table.
template <int kVariant>
struct PlannedBackwardTile {
  static constexpr Sm90BackwardTile kTile = kSm90BackwardTiles[kVariant];
};

}  // namespace fa::sm90
