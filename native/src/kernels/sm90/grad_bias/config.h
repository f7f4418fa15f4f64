// Resource plan of one instantiation of the Hopper kernel for the gradient of a shared bias.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "plan/sm90_grad_bias.h"

namespace fa::sm90 {

template <typename Element_, int kTileIndex>
struct SharedGradBiasConfig {
  using Element = Element_;
  static constexpr Sm90GradBiasTile kTile = kSm90GradBiasTiles[kTileIndex];
  static constexpr int kHeadDim = kTile.head_dim;
  static constexpr int kRows = kTile.kRows;
  static constexpr int kSlots = kTile.slots;
  static constexpr int kBuffers = kTile.kBuffers;
  static constexpr int kThreads = kTile.threads();
  static constexpr int kConsumerWarps = 4 * kTile.kWarpgroups;
  static constexpr int kPanels = kHeadDim / 64;
  static constexpr int kBiasPanels = kRows / 64;

  /// Accumulator registers of a thread: S, dP and the sum of dS, 64 queries x 128 keys each.
  static constexpr int kScores = kRows / 2;

  /// Named barriers. 0 is __syncthreads. + w: consumer warpgroup w alone.
  static constexpr int kBarrierWarpgroup = 1;

  struct SharedStorage {
    // Panels of 64 columns with 128-byte swizzle: 1024-byte alignment (tile/wgmma_descriptor.cuh).
    using Tile = Element[kPanels][kRows][64];
    using BiasTile = Element[kBiasPanels][kRows][64];
    alignas(1024) Tile slots[kSlots];       ///< q, k, grad_o, v of a summand, one behind the other
    alignas(1024) BiasTile bias[kBuffers];  ///< afterwards its gradient
    uint64_t full[kSlots];
    uint64_t empty[kSlots];
    uint64_t bias_full[kBuffers];
    uint64_t bias_empty[kBuffers];  ///< the gradient has left the buffer
  };

  static_assert(kHeadDim == 64 || kHeadDim == 128, "panels are 64 columns wide");
  static_assert(kSlots >= 4, "a summand's tiles");
  static_assert(kTile.consumer_registers() * kTile.kWarpgroups + kTile.producer_registers() <= 168 * (kTile.kWarpgroups + 1),
                "setmaxnreg moves what the block got at entry");
  static_assert(sizeof(SharedStorage) <= kTile.shared_memory_bytes(), "the planner's arithmetic");
  static_assert(kTile.shared_memory_bytes() <= 232448, "227 KiB of dynamic shared memory per block");
};

}  // namespace fa::sm90
