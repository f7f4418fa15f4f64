// Resource plan of one instantiation of the Hopper backward kernel with modified scores.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "attention/hopper_scores.cuh"
#include "kernels/sm90/backward/params.h"
#include "kernels/sm90/backward_modified/work.cuh"
#include "plan/sm90_backward_modified.h"

namespace fa::sm90 {

/// kSet: place of the variants in kSm90ScoreSets.
template <typename Element_, int kTileIndex, int kSet>
struct ModifiedBackwardConfig {
  using Element = Element_;
  static constexpr Sm90ModifiedBackwardTile kTile = kSm90ModifiedBackwardTiles[kTileIndex];
  using Policy = HopperScores<kSm90ScoreSets[kSet]>;

  static constexpr int kHeadDim = kTile.head_dim;
  static constexpr int kTileQ = kTile.tile_q;
  static constexpr int kTileKv = kTile.tile_kv();
  static constexpr int kStages = kTile.kStages;
  static constexpr int kBuffers = kTile.kBuffers;
  static constexpr int kWarpgroups = kTile.kWarpgroups;
  static constexpr int kThreads = kTile.threads();
  static constexpr int kConsumerThreads = 128 * kWarpgroups;
  static constexpr int kConsumerWarps = 4 * kWarpgroups;
  static constexpr int kPanels = kHeadDim / 64;

  /// Accumulator registers of a thread: S^T and dP^T (64 keys x tile_q), grad_k and grad_v (64 keys x head_dim), one 64 x 64 block of grad_q.
  static constexpr int kScores = kTileQ / 2;
  static constexpr int kGradients = kHeadDim / 2;
  static constexpr int kGradQ = 32;

  /// ALiBi: whole steps begin S with the slope's term (ModifiedConsumer::begin_whole_scores), for which registers are left at head_dim 128.
  static constexpr bool kBeginsScores = Policy::kAlibi && kHeadDim == 128;
  /// But not of rows whose position is further behind the last key.
  static constexpr int kNearRows = 256;

  /// Steps at the ends of a window that only one warpgroup sees have a loop of their own, so that other masked steps need no condition around their products.
  /// head_dim 64, ALiBi and a bias have no registers for it.
  static constexpr bool kEdgeLoop = !Policy::kMask && !kBeginsScores && !Policy::kBias && kHeadDim == 128;

  /// A spare thread adds the parts of grad_q in bulk (bulk_items.cuh). They take the memory of the second buffer of v.
  static constexpr bool kAddsInBulk = kHeadDim == 128 && !Policy::kMask && !Policy::kBias;
  /// Some of a step's exponentials in front of the wait for dP. ALiBi and softcap have no registers for it, nor for what follows.
  static constexpr bool kExponentiatesEarly = kAddsInBulk && !Policy::kAlibi && !Policy::kSoftcap;
  /// An item's v is waited for behind the first product of its first step.
  static constexpr bool kValuesLate = kExponentiatesEarly;
  /// Shift and delta of a step are in registers before the products that they are used with are waited for.
  static constexpr bool kStatisticsEarly = kExponentiatesEarly;
  static constexpr int kValueBuffers = kAddsInBulk ? 1 : kBuffers;

  /// The kernel may begin while the one in front of it ends. Not with lists: that one may end before those that write them.
  static constexpr bool kBeginsEarly = !Policy::kMask;

  /// Named barriers. 0 is __syncthreads.
  static constexpr int kBarrierConsumers = 1;  ///< all consumers
  static constexpr int kBarrierWarpgroup = 2;  ///< + w: consumer warpgroup w alone

  struct SharedStorage {
    // Panels of 64 columns with 128-byte swizzle: 1024-byte alignment (tile/wgmma_descriptor.cuh).
    using KeyTile = Element[kPanels][kTileKv][64];
    using QTile = Element[kPanels][kTileQ][64];
    alignas(1024) KeyTile k[kBuffers];       ///< afterwards grad_k
    alignas(1024) KeyTile v[kValueBuffers];  ///< afterwards grad_v, unless kAddsInBulk
    alignas(1024) QTile q[kStages];
    alignas(1024) QTile grad_o[kStages];
    alignas(1024) Element ds[kStages][kWarpgroups][kTileQ][64];  ///< dS: rows are queries, panel w holds the keys of warpgroup w
    /// kAddsInBulk: the step's part of grad_q of each warpgroup; behind the last step grad_v, as a KeyTile.
    alignas(1024) float grad_q[kAddsInBulk ? kWarpgroups : 1][kAddsInBulk ? kGradQBlock : 4];
    alignas(128) float shift[kStages][kTileQ];
    alignas(128) float delta[kStages][kTileQ];
    KeyWork work[kBuffers];
    int stored_flag[kStages];   ///< for the producer's first lane (StoredTiles); with lists for the consumers, too: not 0: the step's part of grad_q is stored
    int untold_flag;            ///< for the producer's first lane
    int entry[kStages];         ///< with lists VisibleEntry of the step; there with q
    uint64_t k_full[kBuffers];  ///< k and work
    uint64_t v_full[kValueBuffers];
    uint64_t done[kBuffers];      ///< grad_k and grad_v are in place of k and v, the additions to grad_q are queued
    uint64_t kv_empty[kBuffers];  ///< grad_k and grad_v have left the buffer, and all have read the item
    uint64_t q_full[kStages];     ///< q and shift
    uint64_t q_empty[kStages];
    uint64_t grad_o_full[kStages];  ///< grad_o and delta
    uint64_t grad_o_empty[kStages];
    uint64_t v_empty;                    ///< kAddsInBulk, as those below: no product of the item will read v
    uint64_t grad_q_full[kWarpgroups];   ///< of each step
    uint64_t grad_q_empty[kWarpgroups];  ///< a step's part has been read, or an item's grad_v

    /// Bytes from a tile of q to the tile of grad_o of the same stage.
    static constexpr uint32_t kToGradO = kStages * sizeof(QTile);
  };

  static_assert(!Policy::kPairs, "functions of single pairs are computed by the portable kernels");
  static_assert(kHeadDim == 64 || kHeadDim == 128, "panels are 64 columns wide");
  static_assert(kStages == 2 && kWarpgroups == 2 && kBuffers == 2, "the exchange of dS between the warpgroups; parities of barriers");
  static_assert(!kAddsInBulk || sizeof(SharedStorage::grad_q) == sizeof(typename SharedStorage::KeyTile), "grad_v takes the place of grad_q");
  static_assert(kTileQ / 64 * kPanels == kWarpgroups, "each warpgroup computes one 64 x 64 block of grad_q");
  static_assert(kSm90ModifiedRowPadding % kTileQ == 0, "tiles of the workspace");
  static_assert(kTile.consumer_registers() * kWarpgroups + kTile.producer_registers() <= 168 * (kWarpgroups + 1),
                "setmaxnreg moves what the block got at entry");
  static_assert(kThreads * 168 <= 65536, "registers at entry");
  static_assert(sizeof(SharedStorage) <= kTile.shared_memory_bytes(), "the planner's arithmetic");
  static_assert(kTile.shared_memory_bytes() <= 232448, "227 KiB of dynamic shared memory per block");
};

}  // namespace fa::sm90
