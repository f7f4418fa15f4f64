// The producer warpgroup. One thread brings the block's k and v and keeps the rings of q and grad_o tiles full: of each tile every block of the cluster loads
// half the rows, for all of them. Another thread sends the block's tiles of dS to the other block.
#pragma once

#include "kernels/sm90/backward_wide/block.cuh"
#include "kernels/sm90/backward_wide/config.h"
#include "ptx/cluster.cuh"
#include "ptx/mbarrier.cuh"
#include "ptx/tma.cuh"

namespace fa::sm90 {

template <typename Config>
class WideProducer {
  using Element = typename Config::Element;
  using SharedStorage = typename Config::SharedStorage;
  static constexpr uint16_t kWholeCluster = (1 << Config::kClusterSize) - 1;

 public:
  __device__ __forceinline__ WideProducer(const BackwardParams& params, SharedStorage& smem)
      : params_(params), smem_(smem), block_(cluster_block<Config>(params)) {}

  /// Runs in one thread.
  __device__ __forceinline__ void load() {
    ptx::mbarrier_arrive_expect_tx(&smem_.k_full, sizeof(smem_.k));
    load_keys(&params_.map_k, smem_.k, &smem_.k_full);
    bool keys_loaded = false;
    StepCursor<Config::kStages> q_cursor;
    StepCursor<Config::kSlots> grad_o_cursor;
    for (int group_head = 0; group_head < params_.group_size; ++group_head) {
#pragma unroll 1
      for (int i = block_.tile.first_step; i < params_.num_q_tiles; ++i) {
        const int query_tile = Config::kFromLastQueryTile ? params_.num_q_tiles - 1 - (i - block_.tile.first_step) : i;
        const int first_row = query_tile * Config::kTileQ;
        load_q(group_head, first_row, q_cursor);
        if (!keys_loaded) {
          load_other_keys();
          keys_loaded = true;
        }
        load_grad_o(group_head, first_row, grad_o_cursor);
      }
    }
    if (!keys_loaded) {
      load_other_keys();
    }
  }

  /// Sends dS, as soon as it is there, to the other block. Runs in one thread. The place it goes to is free: warpgroup 1 waits for that before it writes dS.
  __device__ __forceinline__ void exchange() {
    const int num_steps = params_.group_size * (params_.num_q_tiles - block_.tile.first_step), peer = block_.rank ^ 1;
    StepCursor<Config::kDsStages> cursor;
#pragma unroll 1
    for (int step = 0; step < num_steps; ++step) {
      const uint32_t peer_full = ptx::cluster_address(&smem_.peer_ds_full[cursor.stage], peer);
      ptx::mbarrier_wait(&smem_.ds_full[cursor.stage], cursor.phase);
      ptx::mbarrier_arrive_expect_tx_cluster(peer_full, sizeof(smem_.ds[0]));
      ptx::bulk_copy_cluster(ptx::cluster_address(smem_.peer_ds[cursor.stage], peer), smem_.ds[cursor.stage], sizeof(smem_.ds[0]), peer_full);
      cursor.advance();
    }
  }

 private:
  __device__ __forceinline__ void load_keys(const CUtensorMap* map, typename SharedStorage::KeyTile& s_tile, uint64_t* full) {
#pragma unroll
    for (int panel = 0; panel < Config::kPanels; ++panel) {
      ptx::tma_load_4d(map, full, s_tile[panel], 64 * panel, block_.first_key, block_.tile.kv_head, block_.tile.batch, ptx::L2Hint::kEvictFirst);
    }
  }

  /// v, and of the other block's k what the block multiplies its dS with.
  __device__ __forceinline__ void load_other_keys() {
    ptx::mbarrier_arrive_expect_tx(&smem_.v_full, sizeof(smem_.v) + sizeof(smem_.peer_k));
    load_keys(&params_.map_v, smem_.v, &smem_.v_full);
#pragma unroll
    for (int warpgroup = 0; warpgroup < 2; ++warpgroup) {
      ptx::tma_load_4d(&params_.map_k, &smem_.v_full, smem_.peer_k[warpgroup], 64 * grad_q_panel<Config>(block_.rank, warpgroup), block_.peer_key,
                       block_.tile.kv_head, block_.tile.batch, ptx::L2Hint::kEvictFirst);
    }
  }

  __device__ __forceinline__ void load_q(int group_head, int first_row, StepCursor<Config::kStages>& cursor) {
    const int stage = cursor.stage;
    uint64_t* full = &smem_.q_full[stage];
    ptx::mbarrier_wait(&smem_.q_empty[stage], cursor.phase ^ 1);
    ptx::mbarrier_arrive_expect_tx(full, sizeof(smem_.q[0]) + sizeof(smem_.lse_log2[0]));
    load_half<Config::kPanels>(&params_.map_q, smem_.q[stage], 0, full, group_head, first_row);
    ptx::tma_load_2d(&params_.map_statistics, full, smem_.lse_log2[stage], first_row, block_.tile.first_head + group_head);
    cursor.advance();
  }

  __device__ __forceinline__ void load_grad_o(int group_head, int first_row, StepCursor<Config::kSlots>& cursor) {
#pragma unroll
    for (int part = 0; part < Config::kParts; ++part) {
      const int slot = cursor.stage;
      uint64_t* full = &smem_.grad_o_full[slot];
      ptx::mbarrier_wait(&smem_.grad_o_empty[slot], cursor.phase ^ 1);
      ptx::mbarrier_arrive_expect_tx(full, sizeof(smem_.grad_o[0]) + (part == 0 ? sizeof(smem_.delta[0]) : 0));
      load_half<Config::kPartPanels>(&params_.map_grad_o, smem_.grad_o[slot], part * Config::kPartPanels, full, group_head, first_row);
      if (part == 0) {
        const int num_heads = params_.order.num_heads * params_.group_size;
        ptx::tma_load_2d(&params_.map_statistics, full, smem_.delta[slot], first_row, num_heads + block_.tile.first_head + group_head);
      }
      cursor.advance();
    }
  }

  /// This block's half of the rows of a tile, into all blocks.
  template <int kNumPanels>
  __device__ __forceinline__ void load_half(const CUtensorMap* map, Element (&s_tile)[kNumPanels][Config::kTileQ][64], int first_panel, uint64_t* full,
                                            int group_head, int first_row) {
    const int head = block_.tile.kv_head * params_.group_size + group_head, row = block_.rank * Config::kBoxRows;
#pragma unroll
    for (int panel = 0; panel < kNumPanels; ++panel) {
      ptx::tma_load_4d_multicast(map, full, s_tile[panel][row], kWholeCluster, 64 * (first_panel + panel), first_row + row, head, block_.tile.batch,
                                 ptx::L2Hint::kEvictLast);
    }
  }

  const BackwardParams& params_;
  SharedStorage& smem_;
  const ClusterBlock block_;
};

}  // namespace fa::sm90
