// Resource plan of one instantiation of the Hopper forward kernel.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

#include "attention/hopper_scores.cuh"
#include "kernels/sm90/forward/schedule.cuh"
#include "kernels/sm90/forward/shared_round.cuh"
#include "plan/sm90_forward_tiles.h"

namespace fa::sm90 {

/// Room for tiles of a bias, in panels of 64 keys as k has them of columns; none without stages.
template <typename Element, int kStages, int kTileQ, int kTileKv>
struct BiasStorage {
  alignas(1024) Element tiles[kStages][kTileKv / 64][kTileQ][64];
};
template <typename Element, int kTileQ, int kTileKv>
struct BiasStorage<Element, 0, kTileQ, kTileKv> {};

/// What is said of each key tile of a list (listed_tiles.cuh), in the stages of k; nothing without stages.
template <int kStages>
struct ListStorage {
  int4 messages[kStages];
};
template <>
struct ListStorage<0> {};

/// Which part of a query tile each q stage holds, where tiles are shared; nothing without stages.
template <int kStages>
struct PartStorage {
  int4 messages[kStages];
};
template <>
struct PartStorage<0> {};

/// TileSource::kTile is the Sm90ForwardTile to build, TileSource::kSharesTiles whether its blocks may share the last round of query tiles; Scores_ what
/// happens to scores beyond scale and causal mask.
template <typename Element_, typename TileSource, typename Scores_ = PlainHopperScores>
struct ForwardConfig {
  using Element = Element_;
  using Scores = Scores_;
  static constexpr Sm90ForwardTile kTile = TileSource::kTile;
  static constexpr bool kSharesTiles = TileSource::kSharesTiles;
  using PlainParams = std::conditional_t<kSharesTiles, SharedForwardParams, ForwardParams>;
  using Params = std::conditional_t<Scores::kMask, MaskedForwardParams, std::conditional_t<Scores::kModified, ModifiedForwardParams, PlainParams>>;
  using Tile = std::conditional_t<Scores::kModified, SequenceWorkTile, WorkTile>;
  using PlainWork = std::conditional_t<kSharesTiles, SharedWorkIterator<ForwardConfig>, WorkIterator<ForwardConfig>>;
  using Work = std::conditional_t<Scores::kModified, ModifiedWorkIterator<ForwardConfig>, PlainWork>;

  static constexpr int kHeadDim = kTile.head_dim;
  static constexpr int kTeams = kTile.teams;
  static constexpr int kWarpgroups = kTile.warpgroups;  ///< of a team
  static constexpr int kTileQ = kTile.tile_q();
  static constexpr int kTileKv = kTile.tile_kv;
  static constexpr int kStages = kTile.stages;
  static constexpr int kThreads = kTile.threads();
  static constexpr int kConsumerWarps = 4 * kWarpgroups;  ///< of a team
  static constexpr int kPanels = kHeadDim / 64;
  static constexpr bool kOverlapTiles = kTile.overlap_tiles;
  /// O takes the place of its q tile, which is released when the next query tile's first scores are there.
  static constexpr bool kStagesInQ = kTile.second_q_tile;
  static constexpr int kQStages = kOverlapTiles || kStagesInQ ? 2 : 1;
  static constexpr bool kStoresByTma = kOverlapTiles || kStagesInQ;
  /// Work tiles that messages are kept of: when q of tile i is sent, all warps are done with tile i - kQStages - 1, and the messages of tile i + 1 are written
  /// before q of tile i + 1 - kQStages is released.
  static constexpr int kWorkSlots = 4;
  static constexpr Sm90Softmax kSoftmax = kTile.softmax;
  /// Behind its first tiles without a mask a warpgroup chooses, once per query tile, whether its reference is to follow the running maximum. It is, if of the
  /// steps of its four warps over kTilesOfChoice tiles so many found a tile that outweighs the one before. With ranges, following pays later (README.md, log).
  static constexpr bool kMayFollow = kSoftmax == Sm90Softmax::kOptimisticMaximum && !Scores::kChangesScores && !Scores::kMask;
  /// Rows of so many tiles without a mask choose behind the first of them.
  static constexpr int kTilesOfLongRow = 1536 / kTileKv;
  static constexpr int kTilesBeforeChoice = 256 / kTileKv;
  static constexpr int kTilesOfChoice = 512 / kTileKv;
  static constexpr int kRaisedOfFollowers = Scores::kModified ? 7 * kTilesOfChoice / 4 : kTileKv < 128 ? 7 : 4;
  /// Shorter ones cannot wait: they choose at once, or behind one tile where the first tile of the row was masked (rows that saw little of it are outweighed by
  /// the next). With ranges they do not choose.
  static constexpr bool kShortRowsChoose = !Scores::kModified;
  static constexpr int kTilesOfShortChoice = 128 / kTileKv;
  static constexpr int kRaisedOfShortFollowers = 2 * kTilesOfShortChoice;
  static constexpr bool kPingPong = kTile.ping_pong;
  /// From the first key tile to the last. Masked tiles come last then, and a warpgroup skips those that only others see when it is done. Without a mask it
  /// makes no difference but for parts of tiles, of which the other order is 3 % faster.
  static constexpr bool kAscending = kTile.ascending_keys && !Scores::kModified && !kSharesTiles;
  /// A first key tile of which only the lower half is visible is formed by products of half the width.
  static constexpr bool kTrimsFirst = kTileKv == 128 && !Scores::kMask;
  /// So is, where scores do not change, a last key tile of which only the upper half is visible. Behind a softcap the lower edge takes the exact step; with
  /// ALiBi, ptxas 12.4 finds too few registers for one more form of the step (C7511).
  static constexpr bool kTrimsLast = kTrimsFirst && Scores::kModified && !Scores::kChangesScores;

  /// Accumulator registers of a thread: its part of a 64-row warpgroup tile.
  static constexpr int kScores = kTileKv / 2;
  static constexpr int kOutputs = kHeadDim / 2;

  /// Named barrier of a team's consumer warpgroup w, on which it waits for its turn: kBarrierTurn + team * kWarpgroups + w. 0 is __syncthreads.
  static constexpr int kBarrierTurn = 1;
  /// With kStagesInQ, that of the four warps of a consumer warpgroup: kBarrierOutput + warpgroup.
  static constexpr int kBarrierOutput = kBarrierTurn + kTeams * kWarpgroups;
  /// That on which a warpgroup chooses: kBarrierChoice + first warpgroup of the team + warpgroup.
  static constexpr int kBarrierChoice = kBarrierOutput + kTeams * kWarpgroups;

  /// Of a team.
  struct SharedStorage {
    // Panels of 64 columns with 128-byte swizzle: 1024-byte alignment (tile/wgmma_descriptor.cuh).
    alignas(1024) Element q_and_o[kOverlapTiles ? 3 : kQStages][kPanels][kTileQ][64];
    alignas(1024) Element k[kStages][kPanels][kTileKv][64];
    alignas(1024) Element v[kStages][kPanels][kTileKv][64];
    alignas(1024) uint64_t q_full[kQStages];
    uint64_t q_empty[kQStages];
    uint64_t k_full[kStages];
    uint64_t k_empty[kStages];
    uint64_t v_full[kStages];
    uint64_t v_empty[kStages];
    int4 work[kQStages];  ///< what the producer says of each q tile: work_message
    float sink;           ///< never written; see softmax.cuh
    /// With modified scores, in place of `work`: what SequenceWorkTile reads of each work tile. Read until the tile is done, behind the release of q, so there
    /// is room for those of the tiles that the producer may send and prepare meanwhile.
    int4 sequence_work[kWorkSlots][SequenceWorkTile::num_messages(kWarpgroups)];
    ListStorage<Scores::kMask ? kStages : 0> list;                            ///< in the stages of k, under its barriers
    PartStorage<kSharesTiles ? kQStages : 0> parts;                           ///< beside `work`
    BiasStorage<Element, Scores::kBias ? kStages : 0, kTileQ, kTileKv> bias;  ///< as list

    __device__ __forceinline__ Element (&q(int stage))[kPanels][kTileQ][64] { return q_and_o[stage]; }
    __device__ __forceinline__ Element (&o())[kPanels][kTileQ][64] {
      static_assert(kOverlapTiles, "no staging tile");
      return q_and_o[kQStages];
    }
  };

  static_assert(kHeadDim % 64 == 0 && kHeadDim <= 256, "panels are 64 columns wide; wgmma produces up to 256 columns");
  static_assert(kTileKv % 16 == 0 && kTileKv <= 256, "the second product takes keys in steps of 16; a TMA box holds up to 256 rows");
  static_assert(kWorkSlots >= kQStages + 2, "tiles i - kQStages … i + 1");
  static_assert(!kSharesTiles || (kTile.shares_last_round && !Scores::kModified), "the planner shares what this kernel can");
  static_assert(!kAscending || kTileKv < 128, "no half tiles");
  static_assert(!kSharesTiles || kTeams == 1, "parts count the consumer warps of a block");
  static_assert(!kStagesInQ || (!kOverlapTiles && kTeams == 1), "a q tile is staged in by the consumers of one team");
  static_assert(kTeams * kWarpgroups >= 2 && kTeams * kWarpgroups <= 4, "register split");
  static_assert(kTeams * kTile.consumer_registers() * kWarpgroups + kTile.producer_registers() <= (kTeams * kWarpgroups + 1) * kTile.entry_registers(),
                "registers are moved between warpgroups, not added");
  static_assert(!Scores::kMask || (kTileKv == kVisibleUnitKeys && kTileQ % kVisibleUnitRows == 0 && kTeams == 1), "lists are of units");
  static_assert(Scores::kBias == kTile.staged_bias, "room for the bias");
  static_assert(sizeof(SharedStorage) == kTile.team_memory_bytes(), "the planner's arithmetic");
  static_assert(kTeams * sizeof(SharedStorage) <= 232448, "227 KiB of dynamic shared memory per block");
};

/// A tile of the planner's table, and that of a kernel of its own for problems that share their last round.
template <int kVariant>
struct PlannedTile {
  static constexpr Sm90ForwardTile kTile = kSm90ForwardTiles[kVariant];
  static constexpr bool kSharesTiles = kTile.shares_last_round && !kTile.own_sharing_kernel;
};
template <int kVariant>
struct SharingPlannedTile {
  static constexpr Sm90ForwardTile kTile = kSm90ForwardTiles[kVariant];
  static constexpr bool kSharesTiles = true;
};

/// A tile of the table for modified scores, and the kernel for it and a row of kSm90ScoreSets.
template <int kVariant>
struct ModifiedTile {
  static constexpr Sm90ForwardTile kTile = kSm90ModifiedForwardTiles[kVariant];
  static constexpr bool kSharesTiles = false;
};
template <typename Element, int kVariant, int kSet>
using ModifiedForward = ForwardConfig<Element, ModifiedTile<kVariant>, HopperScores<kSm90ScoreSets[kSet]>>;

}  // namespace fa::sm90
