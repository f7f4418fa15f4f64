// Resource plan of one instantiation of the wide Hopper backward kernel (head_dim above 128).
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "kernels/sm90/backward/params.h"
#include "plan/sm90_backward_tiles.h"

namespace fa::sm90 {

/// TileSource::kTile is the Sm90BackwardTile to build.
template <typename Element_, typename TileSource>
struct BackwardWideConfig {
  using Element = Element_;
  static constexpr Sm90BackwardTile kTile = TileSource::kTile;

  static constexpr int kHeadDim = kTile.head_dim;
  static constexpr int kPanels = kHeadDim / 64;
  static constexpr int kTileQ = kTile.tile_q;
  static constexpr int kTileKv = kTile.tile_kv();  ///< keys of a cluster
  static constexpr int kClusterSize = kTile.kCluster;
  static constexpr int kBlockKeys = kTileKv / kClusterSize;
  static constexpr int kBoxRows = kTile.q_box_rows();  ///< of a tile of q or grad_o: what one block loads, for both

  static constexpr int kStages = kTile.kStages;        ///< tiles of q
  static constexpr int kParts = kTile.grad_o_parts();  ///< of a tile of grad_o
  static constexpr int kPartPanels = kPanels / kParts;
  static constexpr int kSlots = kTile.grad_o_slots();  ///< parts in flight
  static constexpr int kDsStages = kTile.ds_stages();
  /// With one tile of dS all warpgroups wait for its last reader, so warpgroup 1 multiplies with the last dS before it forms dP; with two, behind it.
  static constexpr bool kGradQFirst = kDsStages == 1;
  /// Log-sum-exp and delta of a step are loaded in front of the waits behind which they are needed; at head_dim 256 that loses (log of ../backward, 32).
  static constexpr bool kStatisticsEarly = !kGradQFirst;
  static constexpr int kEarlyPairs = kStatisticsEarly ? kTileQ / 8 : 1;
  /// Additions to grad_q in the order of the keys (grad_q_turns.cuh); the first key tile stores, the last one rounds. Query tiles from the last to the first.
  static constexpr bool kDeterministic = kTile.deterministic;
  static constexpr bool kFromLastQueryTile = kTile.from_last_query_tile();
  static constexpr int kTurnStages = 4;  ///< steps by which opening may be ahead of counting

  static constexpr int kThreads = kTile.threads();
  static constexpr int kConsumerThreads = 128 * kTile.kWarpgroups;
  static constexpr int kConsumerWarps = 4 * kTile.kWarpgroups;

  /// Accumulator registers of a thread: S^T or dP^T (64 keys x 64 queries), a part of grad_k or grad_v (64 keys x columns of a part).
  static constexpr int kScores = kTileQ / 2;
  static constexpr int kPartGradient = 32 * kPartPanels;

  /// Columns of grad_q that a warpgroup of the cluster adds: a panel each, or of three panels the middle one shared by the second warpgroups of both blocks.
  static constexpr int kGradQColumns0 = 64;
  static constexpr int kGradQColumns1 = kPanels == 4 ? 64 : 32;

  /// Named barriers: kBarrierWarpgroup + w for consumer warpgroup w alone; kBarrierP + w: P is there, from warp w of warpgroup 0 to warp w of warpgroup 1.
  /// 0 is __syncthreads.
  static constexpr int kBarrierWarpgroup = 1;
  static constexpr int kBarrierP = 3;

  struct SharedStorage {
    // Panels of 64 columns with 128-byte swizzle: 1024-byte alignment (tile/wgmma_descriptor.cuh).
    using KeyTile = Element[kPanels][kBlockKeys][64];
    using QTile = Element[kPanels][kTileQ][64];
    using GradOPart = Element[kPartPanels][kTileQ][64];
    using DsTile = Element[kTileQ][kBlockKeys];
    alignas(1024) KeyTile k;                          ///< afterwards grad_k
    alignas(1024) KeyTile v;                          ///< afterwards grad_v
    alignas(1024) Element peer_k[2][kBlockKeys][64];  ///< of the other block's keys, the panels that warpgroups 0 and 1 multiply with
    alignas(1024) QTile q[kStages];
    alignas(1024) GradOPart grad_o[kSlots];
    alignas(1024) DsTile ds[kDsStages];          ///< rows are queries, columns are the block's keys
    alignas(1024) DsTile peer_ds[kDsStages];     ///< the other block's
    alignas(1024) float4 p[4][kScores / 4][32];  ///< P^T from warp w of warpgroup 0 to warp w of warpgroup 1, in the order of their registers
    alignas(128) float lse_log2[kStages][kTileQ];
    alignas(128) float delta[kSlots][kTileQ];  ///< beside the first part of a tile of grad_o
    uint64_t k_full;
    uint64_t v_full;            ///< v and peer_k
    uint64_t q_full[kStages];   ///< q and lse_log2
    uint64_t q_empty[kStages];  ///< all consumer warps of the cluster
    uint64_t grad_o_full[kSlots];
    uint64_t grad_o_empty[kSlots];     ///< all consumer warps of the cluster
    uint64_t ds_full[kDsStages];       ///< the threads of warpgroup 1, which have then read P of the step
    uint64_t peer_ds_full[kDsStages];  ///< the other block's copy
    uint64_t ds_empty[kDsStages];      ///< all consumer warps of the cluster: both copies of a tile have been multiplied
    uint64_t keys_read;                ///< all consumer threads have read k and v for the last time
    int bad_grad_v[4];                 ///< per warp: grad_v is not finite
    // Used if kDeterministic.
    uint64_t grad_q_open[kTurnStages];     ///< the consumers may add
    uint64_t grad_q_added[kTurnStages];    ///< all consumer warps have
    uint64_t grad_q_counted[kTurnStages];  ///< the next key tile's block may know
  };

  static_assert(kHeadDim == 192 || kHeadDim == 256, "the shares of grad_q are laid out for three or four panels");
  static_assert(kTileQ == 64 && kBlockKeys == 64, "one wgmma row block of keys, one of queries");
  static_assert(kPanels % kParts == 0, "parts are whole panels");
  static_assert(kTile.row_padding() % kTileQ == 0, "tiles of the workspace");
  static_assert(kTile.consumer_registers() * kTile.kWarpgroups + kTile.producer_registers() <= 512, "65,536 registers, 128 threads per warpgroup");
  static_assert(kThreads * 168 <= 65536, "registers at entry");
  static_assert(sizeof(SharedStorage) <= kTile.shared_memory_bytes(), "the planner's arithmetic");
  static_assert(kTile.shared_memory_bytes() <= 232448, "227 KiB of dynamic shared memory per block");
};

}  // namespace fa::sm90
