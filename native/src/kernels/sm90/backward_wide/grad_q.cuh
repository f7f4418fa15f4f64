// A warpgroup's share of a tile of grad_q, 64 rows by kColumns columns over all keys of the cluster, and its way into the fp32 accumulator in global memory.
#pragma once

#include "kernels/sm90/backward_wide/block.cuh"
#include "kernels/sm90/backward_wide/config.h"
#include "ptx/mbarrier.cuh"
#include "ptx/reduce.cuh"
#include "ptx/wgmma.cuh"
#include "tile/wgmma_descriptor.cuh"

namespace fa::sm90 {

/// Works one step behind: in each step the product with dS of the step before, which the other block has sent meanwhile.
template <typename Config, int kWarpgroup>
class GradQShare {
  using SharedStorage = typename Config::SharedStorage;
  static constexpr int kColumns = kWarpgroup == 0 ? Config::kGradQColumns0 : Config::kGradQColumns1;
  using Product = ptx::Wgmma<typename Config::Element, kColumns>;
  static constexpr uint32_t kDsStep = sizeof(typename SharedStorage::DsTile) / 16;

 public:
  static constexpr int kRegisters = kColumns / 2;

  __device__ __forceinline__ GradQShare(SharedStorage& smem, int rank)
      : smem_(smem),
        desc_ds_(tile::k_major_descriptor(smem.ds[0])),
        desc_k_rows_(
            tile::mn_major_descriptor(&smem.k[grad_q_panel<Config>(rank, kWarpgroup)][0][grad_q_column<Config>(rank, kWarpgroup)], Config::kBlockKeys)),
        desc_peer_k_rows_(tile::mn_major_descriptor(&smem.peer_k[kWarpgroup][0][grad_q_column<Config>(rank, kWarpgroup)], Config::kBlockKeys)),
        offset_(grad_q_panel<Config>(rank, kWarpgroup) * kGradQBlock + grad_q_column<Config>(rank, kWarpgroup) * 64 + 4 * (threadIdx.x % 128)) {}

  /// Issues grad_q = dS K, own keys first. In the first step, where there is no dS yet, the result is meaningless and not to be added.
  __device__ __forceinline__ void multiply(float (&grad_q)[kRegisters]) {
    const uint32_t stage_step = cursor_.stage * kDsStep;
    if (g_tile_ != nullptr) {
      ptx::mbarrier_wait(&smem_.ds_full[cursor_.stage], cursor_.phase);
      ptx::mbarrier_wait(&smem_.peer_ds_full[cursor_.stage], cursor_.phase);
    }
    ptx::wgmma_fence();
#pragma unroll
    for (int k = 0; k < Config::kBlockKeys / 16; ++k) {
      Product::ss_mn(grad_q, desc_ds_.at(stage_step + tile::k_major_step(k, Config::kTileQ)), desc_k_rows_.at(tile::mn_major_step(k)), k != 0);
    }
#pragma unroll
    for (int k = 0; k < Config::kBlockKeys / 16; ++k) {
      Product::ss_mn(grad_q, desc_ds_.at(kToPeerDs + stage_step + tile::k_major_step(k, Config::kTileQ)), desc_peer_k_rows_.at(tile::mn_major_step(k)), 1);
    }
  }

  /// Behind the wait for the product: gives both tiles of dS back to both blocks. Called by all threads of a warp.
  __device__ __forceinline__ void release() {
    if (g_tile_ != nullptr && threadIdx.x % 32 < Config::kClusterSize) {
      ptx::mbarrier_arrive_cluster(ptx::cluster_address(&smem_.ds_empty[cursor_.stage], threadIdx.x % 32));
    }
  }

  /// Adds the result where the step before belongs; in deterministic mode when it is the block's turn.
  __device__ __forceinline__ void add(const float (&grad_q)[kRegisters]) {
    if (g_tile_ != nullptr) {
      if constexpr (Config::kDeterministic) {
        ptx::mbarrier_wait(&smem_.grad_q_open[turn_cursor_.stage], turn_cursor_.phase);
      }
#pragma unroll
      for (int j = 0; j < kRegisters / 4; ++j) {
        ptx::reduce_add_v4(g_tile_ + 512 * j, grad_q[4 * j], grad_q[4 * j + 1], grad_q[4 * j + 2], grad_q[4 * j + 3]);
      }
      if constexpr (Config::kDeterministic) {
        __syncwarp();
        if (threadIdx.x % 32 == 0) {
          ptx::mbarrier_arrive(&smem_.grad_q_added[turn_cursor_.stage]);
        }
        turn_cursor_.advance();
      }
    }
  }

  /// g_tile: the part of the accumulator of the query tile whose dS comes next.
  __device__ __forceinline__ void advance(float* g_tile) {
    g_tile_ = g_tile + offset_;
    cursor_.advance();
  }

 private:
  static constexpr uint32_t kToPeerDs = Config::kDsStages * kDsStep;

  SharedStorage& smem_;
  const tile::Descriptor desc_ds_;
  const tile::Descriptor desc_k_rows_;
  const tile::Descriptor desc_peer_k_rows_;
  const int offset_;                                                // of the thread's first float in a tile of the accumulator
  float* g_tile_ = nullptr;                                         // null in the first step
  StepCursor<Config::kDsStages> cursor_{Config::kDsStages - 1, 1};  // of the step before
  StepCursor<Config::kTurnStages> turn_cursor_;                     // of the step before, from the first step that has one
};

}  // namespace fa::sm90
