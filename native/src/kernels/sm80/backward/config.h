// Configurations of the backward kernels as types: tiles, warps, shared memory and register budget of one variant.
#pragma once

#include <cstdint>
#include <type_traits>

#include "attention/score_policy.cuh"
#include "kernels/sm80/backward/params.h"
#include "plan/sm80_variants.h"
#include "tile/shared_tile.cuh"

namespace fa::sm80 {

/// Rows of the planner's tables as types.
template <int kIndex>
struct BackwardRow {
  static constexpr BackwardVariant kVariant = kBackward[kIndex];
};
template <int kIndex>
struct GradQRow {
  static constexpr GradQVariant kVariant = kGradQ[kIndex];
};

/// Main kernel. Blocks of 16 rows or columns are dealt to the warps in turn: warp w of n owns blocks w, w + n, …
template <class Element_, class Row, class Policy_ = PlainScores>
struct BackwardConfig {
  using Element = Element_;
  using Policy = Policy_;
  using Params = std::conditional_t<Policy::kModified, ModifiedBackwardParams, BackwardParams>;
  static constexpr BackwardVariant kVariant = Row::kVariant;
  static constexpr int kDim = kVariant.padded_dim;
  static constexpr int kTileQ = kVariant.tile_q;
  static constexpr int kTileKV = kVariant.tile_kv;
  static constexpr int kStages = kVariant.stages;
  static constexpr int kBlocksPerSm = kVariant.blocks_per_sm;
  static constexpr int kAhead = kVariant.ahead;
  static constexpr int kWarpsKV = kVariant.warps_kv;    ///< along keys
  static constexpr int kWarpsQ = kVariant.warps_q;      ///< along queries of S^T
  static constexpr int kSlices = kVariant.slices;       ///< warps that compute the same part of S^T
  static constexpr int kWarpsCols = kWarpsQ * kSlices;  ///< along columns of grad_k and grad_v
  static constexpr int kWarps = kWarpsKV * kWarpsCols;
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kWarpsDqRows = kVariant.warps_dq;
  static constexpr int kWarpsDqCols = kWarps / kWarpsDqRows;
  /// P^T and dS^T stay in the registers of the warp that computed them, and grad_q lags one step behind; see backward_shared_bytes.
  static constexpr bool kInRegisters = kWarpsQ == 1;

  static constexpr int kM = kTileKV / kWarpsKV / 16;          ///< key blocks per warp
  static constexpr int kQBlocks = kTileQ / kWarpsQ / 16;      ///< query blocks of S^T per warp
  static constexpr int kQStep = kQBlocks < 2 ? kQBlocks : 2;  ///< … of which so many at a time, to bound the registers of S and dP
  static constexpr int kGradN = kDim / kWarpsCols / 8;        ///< groups of 8 columns of grad_k and grad_v per warp
  static constexpr int kDqM = kTileQ / kWarpsDqRows / 16;     ///< query blocks of grad_q per warp
  static constexpr int kDqN = kDim / kWarpsDqCols / 8;        ///< groups of 8 columns of grad_q per warp

  using QTile = SharedTile<kTileQ, kDim>;
  using KVTile = SharedTile<kTileKV, kDim>;
  using ScoreTile = SharedTile<kTileKV, kTileQ>;
  using BiasTile = SharedTile<kTileQ, Policy::kModified ? kTileKV : 64>;  ///< of the modified kernels, one per stage

  /// Where the first query head of the group begins. Kept here because registers are short and computing it takes many instructions per step.
  struct Base {
    const uint16_t* q;
    const uint16_t* grad_o;
    int64_t row;  ///< of the workspace
    // Of the modified kernels.
    int end_q_tile;
    int head;                      ///< first query head of the group
    SequenceTile at;               ///< the block's tile of keys
    uint32_t shown_tiles[kWarps];  ///< bit t: whether the block mask shows some of tile t, of the 32 tiles that the warp is among
  };

  struct Shared {
    KVTile k;  ///< afterwards grad_k
    KVTile v;  ///< afterwards grad_v
    QTile q[kStages];
    QTile grad_o[kStages];
    ScoreTile scores[2];  ///< P^T and dS^T, or dS^T of two steps
    alignas(16) float lse_log2[kStages][kTileQ];
    alignas(16) float delta[kStages][kTileQ];
    alignas(128) Base base;
  };

  static_assert(kTileKV % (16 * kWarpsKV) == 0 && kTileQ % (16 * kWarpsQ) == 0 && kDim % (16 * kWarpsCols) == 0, "warps own whole blocks");
  static_assert(kTileQ % (16 * kWarpsDqRows) == 0 && kDim % (16 * kWarpsDqCols) == 0 && kWarps % kWarpsDqRows == 0, "warps own whole blocks");
  static_assert(kRowPadding % kTileQ == 0, "tiles of the workspace");
  static_assert(kStages == 2 || (kStages == 1 && !kInRegisters), "the schedules of kernel.cuh");
  static_assert(kSlices == 1 || !kInRegisters, "slices share P and dS");
  static_assert(sizeof(Shared) % 128 == 0 && (!Policy::kModified || sizeof(BiasTile) == bias_tile_bytes(kVariant.tile_q, kVariant.tile_kv)),
                "tiles of the bias may follow");
  static_assert(sizeof(Shared) == backward_shared_bytes(kVariant), "the planner's arithmetic");
  static_assert(sizeof(Shared) <= kLargeSharedBytes, "largest shared memory of any device");
};

/// Kernel that computes grad_q alone, for the deterministic mode. A warp owns 16 query rows, or a slice of the columns of their grad_q.
template <class Element_, class Row, class Policy_ = PlainScores>
struct GradQConfig {
  using Element = Element_;
  using Policy = Policy_;
  using Params = std::conditional_t<Policy::kModified, ModifiedBackwardParams, BackwardParams>;
  static constexpr GradQVariant kVariant = Row::kVariant;
  static constexpr int kDim = kVariant.padded_dim;
  static constexpr int kTileQ = kVariant.tile_q;
  static constexpr int kTileKV = kVariant.tile_kv;
  static constexpr int kWarps = kVariant.warps;
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kBlocksPerSm = kVariant.blocks_per_sm;
  static constexpr int kSlices = kVariant.slices;
  static constexpr int kScoreN = kTileKV / 8;
  static constexpr int kGradN = kDim / kSlices / 8;

  using QTile = SharedTile<kTileQ, kDim>;
  using KVTile = SharedTile<kTileKV, kDim>;

  /// Of the modified kernels.
  struct Base {
    SequenceTile at;  ///< the block's tile of queries
  };

  struct Shared {
    QTile q;  ///< afterwards grad_q: a warp reads and writes only its own rows
    QTile grad_o;
    KVTile k;
    KVTile v;
    alignas(128) Base base;
  };

  static_assert(kTileQ * kSlices == 16 * kWarps && kRowPadding % kTileQ == 0 && kDim % (64 * kSlices) == 0, "a warp owns one row block");
  static_assert(kTileQ == kGradQRows || !Policy::kModified, "the table of query tiles");
  static_assert(sizeof(Shared) == grad_q_shared_bytes(kVariant) && sizeof(Shared) <= kSmallSharedBytes, "the planner's arithmetic");
};

/// Kernel that computes the gradient of the bias: one block per tile of it. S is split over 2 x 2 warps (queries x keys).
template <int kIndex>
struct GradBiasRow {
  static constexpr GradBiasVariant kVariant = kGradBias[kIndex];
};

template <class Element_, class Row>
struct GradBiasConfig {
  using Element = Element_;
  using Policy = ModifiedScores;
  using Params = GradBiasParams;
  static constexpr GradBiasVariant kVariant = Row::kVariant;
  static constexpr int kDim = kVariant.padded_dim;
  static constexpr int kTileQ = kVariant.tile_q;
  static constexpr int kTileKV = kVariant.tile_kv;
  static constexpr int kWarpsQ = 2;
  static constexpr int kWarpsKV = 2;
  static constexpr int kWarps = kWarpsQ * kWarpsKV;
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kStages = kVariant.stages;
  static constexpr int kBlocksPerSm = kVariant.blocks_per_sm;
  static constexpr int kM = kTileQ / kWarpsQ / 16;
  static constexpr int kN = kTileKV / kWarpsKV / 8;

  using QTile = SharedTile<kTileQ, kDim>;
  using KVTile = SharedTile<kTileKV, kDim>;
  using BiasTile = SharedTile<kTileQ, kTileKV>;

  /// The operands of one of the two products.
  struct Operands {
    QTile rows;   ///< q or grad_o
    KVTile keys;  ///< k or v
  };
  struct Shared {
    Operands operands[kStages];
  };

  static_assert(kTileQ % (16 * kWarpsQ) == 0 && kTileKV % (16 * kWarpsKV) == 0 && kRowPadding % kTileQ == 0, "warps own whole blocks");
  static_assert(kThreads == kGradBiasThreads, "what the launch starts");
  static_assert(sizeof(Shared) >= sizeof(float) * kWarpsQ * kTileKV, "sums over rows meet in shared memory");
  static_assert(sizeof(Shared) == grad_bias_shared_bytes(kVariant) && sizeof(Shared) <= kSmallSharedBytes, "the planner's arithmetic");
};

}  // namespace fa::sm80
