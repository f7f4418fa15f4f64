// Resource plan of one instantiation of the paired Hopper backward kernel (clusters of two blocks).
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "kernels/sm90/backward/params.h"
#include "kernels/sm90/backward_pair/block.cuh"
#include "plan/sm90_backward_tiles.h"

namespace fa::sm90 {

/// TileSource::kTile is the Sm90BackwardTile to build.
template <typename Element_, typename TileSource>
struct BackwardPairConfig {
  using Element = Element_;
  static constexpr Sm90BackwardTile kTile = TileSource::kTile;

  static constexpr int kHeadDim = kTile.head_dim;
  static constexpr int kPanels = kHeadDim / 64;
  static constexpr int kTileQ = kTile.tile_q;
  static constexpr int kClusterSize = kTile.kCluster;
  static constexpr int kClusterKeys = kTile.tile_kv();
  static constexpr int kTileKv = kClusterKeys / kClusterSize;  ///< keys of a block
  static constexpr int kStages = kTile.kStages;                ///< of grad_o: stage 0 holds the tile whose dS is sent, stage 1 the block's own
  static constexpr int kQStages = kTile.q_stages();            ///< of q, in turns
  static constexpr int kWarpgroups = kTile.kWarpgroups;
  static constexpr int kThreads = kTile.threads();
  static constexpr int kConsumerThreads = 128 * kWarpgroups;
  static constexpr int kConsumerWarps = 4 * kWarpgroups;
  static constexpr int kSlices = kClusterKeys / kRepairKeys;

  /// Accumulator registers of a thread: S^T and dP^T (64 keys x tile_q), grad_k and grad_v (64 keys x head_dim), one 64 x 64 block of grad_q.
  static constexpr int kScores = kTileQ / 2;
  static constexpr int kGradients = kHeadDim / 2;
  static constexpr int kGradQ = 32;
  /// Steps in the body of the consumers' loop: what does not spill.
  static constexpr int kUnrolledSteps = kHeadDim == 64 ? 2 : 1;

  /// Named barriers. 0 is __syncthreads.
  static constexpr int kBarrierConsumers = 1;  ///< all consumers
  static constexpr int kBarrierWarpgroup = 2;  ///< + w: consumer warpgroup w alone
  static constexpr int kBarrierStart = 4;      ///< the first warpgroup lets the second begin

  struct SharedStorage {
    // Panels of 64 columns with 128-byte swizzle: 1024-byte alignment (tile/wgmma_descriptor.cuh).
    using KeyRows = Element[kPanels][kTileKv][64];
    using QTile = Element[kPanels][kTileQ][64];
    using DsTile = Element[kWarpgroups][kTileQ][64];  ///< rows are queries, panel w holds the keys of warpgroup w
    alignas(1024) KeyRows k;                          ///< afterwards grad_k
    alignas(1024) KeyRows v;                          ///< afterwards grad_v
    alignas(1024) KeyRows peer_k;                     ///< the other block's
    alignas(1024) QTile q[kQStages];
    alignas(1024) QTile grad_o[kStages];
    alignas(1024) DsTile own_ds;   ///< of the block's own query tile
    alignas(1024) DsTile peer_ds;  ///< of the same query tile, from the other block
    alignas(1024) DsTile sent_ds;  ///< of the other block's query tile, on its way there
    PairBlock block;               ///< for where registers are scarce
    alignas(128) float lse_log2[kQStages][kTileQ];
    alignas(128) float delta[kStages][kTileQ];
    uint64_t k_full;
    uint64_t v_full;
    uint64_t peer_k_full;
    uint64_t q_full[kQStages];  ///< q and lse_log2
    uint64_t q_empty[kQStages];
    uint64_t grad_o_full[kStages];  ///< grad_o and delta
    uint64_t grad_o_empty[kStages];
    // One phase per pair of query tiles; "empty" for the first pair once there was a product, meaningless as yet.
    uint64_t own_full;    ///< the consumer warps have written own_ds
    uint64_t own_empty;   ///< they have multiplied with the own_ds of the pair before
    uint64_t peer_full;   ///< peer_ds has arrived
    uint64_t peer_empty;  ///< the other block's consumer warps have multiplied with the peer_ds of the pair before
    uint64_t sent_full;   ///< the consumer warps have written sent_ds
    uint64_t sent_empty;  ///< it has arrived in the other block

    uint64_t grad_q_open;   ///< the consumers may add to the own query tile: both threads that keep the order say so
    uint64_t grad_q_added;  ///< the consumer warps have added

    /// Descriptor units from a tile to its counterpart.
    static constexpr uint32_t kToGradO = kQStages * sizeof(QTile) / 16;
    static constexpr uint32_t kToPeerK = 2 * sizeof(KeyRows) / 16;
    static constexpr uint32_t kToPeerDs = sizeof(DsTile) / 16;
  };

  static_assert(kTile.paired && kTile.deterministic, "the tile of another kernel");
  static_assert(kHeadDim == 64 || kHeadDim == 128, "panels are 64 columns wide");
  static_assert(kStages == 2 && kWarpgroups == 2 && kClusterSize == 2, "a stage for each block's query tile");
  static_assert(kTileQ / 64 * kPanels == kWarpgroups, "each warpgroup computes one 64 x 64 block of grad_q");
  static_assert(kTile.row_padding() % (2 * kTileQ) == 0, "tiles of the workspace");
  static_assert(kTile.consumer_registers() * kWarpgroups + kTile.producer_registers() <= 168 * (kWarpgroups + 1),
                "setmaxnreg moves what the block got at entry");
  static_assert(kThreads * 168 <= 65536, "registers at entry");
  static_assert(sizeof(SharedStorage) <= kTile.shared_memory_bytes(), "the planner's arithmetic");
  static_assert(kTile.shared_memory_bytes() <= 232448, "227 KiB of dynamic shared memory per block");
};

}  // namespace fa::sm90
