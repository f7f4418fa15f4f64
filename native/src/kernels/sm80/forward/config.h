// The forward kernel's configuration as a type: tile, warps, shared memory and register budget of one variant.
#pragma once

#include <cstdint>
#include <type_traits>

#include "attention/score_policy.cuh"
#include "kernels/sm80/forward/params.h"
#include "plan/sm80_variants.h"
#include "tile/shared_tile.cuh"

namespace fa::sm80 {

/// A row of the planner's table as a type.
template <int kIndex>
struct ForwardRow {
  static constexpr ForwardVariant kVariant = kForward[kIndex];
};

template <class Element_, class Row, class Policy_ = PlainScores>
struct ForwardConfig {
  using Element = Element_;
  using Policy = Policy_;
  using Params = std::conditional_t<Policy::kModified, ModifiedForwardParams, ForwardParams>;
  static constexpr ForwardVariant kVariant = Row::kVariant;
  static constexpr int kDim = kVariant.padded_dim;
  static constexpr int kTileQ = kVariant.tile_q;
  static constexpr int kTileKV = kVariant.tile_kv;
  static constexpr int kWarps = kVariant.warps;
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kStages = kVariant.stages;
  static constexpr int kQStepsKept = Policy::kModified ? 0 : kVariant.q_steps_kept;
  static constexpr int kBlocksPerSm = kVariant.blocks_per_sm;
  static constexpr int kSlices = kVariant.slices;  ///< warps that share rows: the keys of a tile and the columns of O
  static constexpr bool kPairs = kSlices > 1;
  /// Whether a warp none of whose rows sees a tile sits it out. With two pairs nobody does: it costs nothing there, since the others take as long, and every
  /// warp passes the same barriers (README.md).
  static constexpr bool kSitsOut = !(kPairs && kWarps == 4);
  static constexpr int kKeys = kTileKV / kSlices;  ///< of a tile, whose scores a warp computes

  /// Row blocks of 16 per warp; columns of S and O in groups of 8; steps of 16 of both products.
  static constexpr int kM = kTileQ * kSlices / kWarps / 16;
  static constexpr int kScoreN = kKeys / 8;
  static constexpr int kOutN = kDim / kSlices / 8;
  static constexpr int kScoreSteps = kDim / 16;
  static constexpr int kOutSteps = kKeys / 16;  ///< over a warp's own probabilities

  using QTile = SharedTile<kTileQ, kDim>;
  using KVTile = SharedTile<kTileKV, kDim>;
  using BiasTile = SharedTile<kTileQ, Policy::kModified ? kTileKV : 64>;  ///< of the modified kernels

  /// First keys and values of the block's head. Kept here because registers are short.
  struct Base {
    const uint16_t* k;
    const uint16_t* v;
    int outgrown_tile;  ///< of pairs: the last tile in which a score of the block outgrew its reference. A second pass may find it from the first: then
                        ///< rows follow their maxima in one tile more than they need to
    // Of the modified kernels.
    int first_kv_tile;
    int head;                      ///< query head
    SequenceTile at;               ///< the block's tile of queries
    uint32_t shown_tiles[kWarps];  ///< bit t: whether the block mask shows some of tile t, of the 32 tiles that the warp is among
  };

  /// What two warps that share rows tell each other.
  struct alignas(128) Exchange {
    uint4 probabilities[kWarps][kOutSteps][kM][32];  ///< as A fragments
    float rows[kSlices][kTileQ];                     ///< maxima of a tile's scores; in the end the sums
  };
  struct NoExchange {};

  struct Shared : std::conditional_t<kPairs, Exchange, NoExchange> {
    QTile q;  ///< afterwards O: a warp reads and writes only its own rows
    KVTile k[kStages];
    KVTile v[kStages];
    alignas(128) Base base;
  };

  static_assert(kWarps % kSlices == 0 && kTileQ * kSlices % (16 * kWarps) == 0 && kDim % (kPairs ? 128 : 16) == 0, "warps own whole row blocks and lines");
  static_assert(kStages == 1 || kStages == 2, "the schedules of kernel.cuh");
  static_assert(!kPairs || (kSlices == 2 && kKeys % 16 == 0 && !Policy::kModified), "pairs of warps; the plain kernel");
  static_assert(sizeof(Shared) % 128 == 0 && (!Policy::kModified || sizeof(BiasTile) == bias_tile_bytes(kVariant.tile_q, kVariant.tile_kv)),
                "a tile of the bias may follow");
  static_assert(sizeof(Shared) == forward_shared_bytes(kVariant), "the planner's arithmetic");
  static_assert(sizeof(Shared) <= kLargeSharedBytes, "largest shared memory of any device");
};

}  // namespace fa::sm80
