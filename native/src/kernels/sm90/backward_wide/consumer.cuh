// What both consumer warpgroups of the wide kernel have in common: their place, their masks, giving buffers back, and the way of a gradient to global memory.
#pragma once

#include "kernels/sm90/backward/scores.cuh"
#include "kernels/sm90/backward_wide/block.cuh"
#include "kernels/sm90/backward_wide/config.h"
#include "kernels/sm90/backward_wide/grad_q.cuh"
#include "ptx/cluster.cuh"
#include "ptx/fence_proxy.cuh"
#include "ptx/mbarrier.cuh"
#include "ptx/named_barrier.cuh"
#include "ptx/stmatrix.cuh"
#include "ptx/tma.cuh"
#include "ptx/wgmma.cuh"
#include "tile/wgmma_descriptor.cuh"

namespace fa::sm90 {

template <typename Config>
class WideConsumer {
 public:
  using Element = typename Config::Element;
  using SharedStorage = typename Config::SharedStorage;
  using ScoreProduct = ptx::Wgmma<Element, Config::kTileQ>;
  using PartProduct = ptx::Wgmma<Element, 64 * Config::kPartPanels>;
  /// A gradient of the block's keys: columns of part p in element p.
  using Gradient = float[Config::kParts][Config::kPartGradient];

  __device__ __forceinline__ WideConsumer(const BackwardParams& params, SharedStorage& smem)
      : params(params), smem(smem), block(cluster_block<Config>(params)), warp(threadIdx.x % 128 / 32), lane(threadIdx.x % 32) {
    const int key_of_thread = block.first_key + 16 * warp + lane / 4;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int key = key_of_thread + 8 * r;
      // Relative to the thread's first column. Nobody sees a key at the padding; without a mask everybody sees every other.
      first_row[r] = (key >= params.visible_len_kv ? kNever : params.causal ? key - params.causal_offset : -kNever) - lane % 4 * 2;
    }
  }

  /// Gives a buffer that all blocks load together back to all of them. Called by all threads of a warp that have read it for the last time.
  __device__ __forceinline__ void release(uint64_t* empty) const {
    __syncwarp();
    if (lane < Config::kClusterSize) {
      ptx::mbarrier_arrive_cluster(ptx::cluster_address(empty, lane));
    }
  }

  /// Calls step(masked, QueryTile) for all query tiles that the keys are seen by; masked is a Masked<>.
  template <typename Step>
  __device__ __forceinline__ void for_each_step(const Step& step) const {
#pragma unroll 1
    for (int group_head = 0; group_head < params.group_size; ++group_head) {
      float* g_accumulator = params.grad_q_accumulator + workspace_row(params, block.tile, group_head, 0) * Config::kHeadDim;
      const auto tile_of = [&](int tile) {
        return QueryTile{group_head, tile, g_accumulator + static_cast<int64_t>(tile) * (Config::kTileQ * Config::kHeadDim)};
      };
      if constexpr (Config::kFromLastQueryTile) {
        int tile = params.num_q_tiles - 1;
#pragma unroll 1
        for (; tile >= block.tile.end_masked; --tile) {
          step(Masked<false>{}, tile_of(tile));
        }
#pragma unroll 1
        for (; tile >= block.tile.first_step; --tile) {
          step(Masked<true>{}, tile_of(tile));
        }
      } else {
        int tile = block.tile.first_step;
#pragma unroll 1
        for (; tile < block.tile.end_masked; ++tile) {
          step(Masked<true>{}, tile_of(tile));
        }
#pragma unroll 1
        for (; tile < params.num_q_tiles; ++tile) {
          step(Masked<false>{}, tile_of(tile));
        }
      }
    }
  }

  /// grad_q of the last step, which no step follows. Behind it k and v are there even if there was no step.
  template <typename GradQ>
  __device__ __forceinline__ void add_last(GradQ& grad_q_share) const {
    ptx::mbarrier_wait(&smem.k_full, 0);
    ptx::mbarrier_wait(&smem.v_full, 0);
    if (block.tile.first_step >= params.num_q_tiles) {
      return;
    }
    float grad_q[GradQ::kRegisters];
    grad_q_share.multiply(grad_q);
    ptx::wgmma_commit_group();
    ptx::wgmma_wait_group<0>();
    ptx::pin_registers(grad_q);
    grad_q_share.add(grad_q);
  }

  /// Waits until all consumers have read k and v for the last time. No named barrier: the warpgroups come here from different places of the program.
  __device__ __forceinline__ void finish_reading_keys() const {
    ptx::mbarrier_arrive(&smem.keys_read);
    ptx::mbarrier_wait(&smem.keys_read, 0);
  }

  /// True in all lanes if any of the warp's elements is NaN or infinite.
  __device__ __forceinline__ static bool any_nonfinite(const Gradient& gradient) {
    float probe = 0.0f;
#pragma unroll
    for (int part = 0; part < Config::kParts; ++part) {
#pragma unroll
      for (int i = 0; i < Config::kPartGradient; ++i) {
        probe = fmaf(gradient[part][i], 0.0f, probe);
      }
    }
    return __any_sync(0xFFFFFFFF, !(probe == 0.0f));
  }

  /// Writes factor * gradient to the block's keys of the tensor, through s_tile and by TMA, which clips what lies outside the tensor.
  __device__ __forceinline__ void store_gradient(const CUtensorMap* map, typename SharedStorage::KeyTile& s_tile, const Gradient& gradient, float factor,
                                                 int barrier) const {
    const int row = 16 * warp + lane % 16;
#pragma unroll
    for (int panel = 0; panel < Config::kPanels; ++panel) {
      const uint32_t s_panel = ptx::shared_address(s_tile[panel]);
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const float* part = gradient[panel / Config::kPartPanels] + panel % Config::kPartPanels * 32 + 8 * k;
        ptx::stmatrix_x4(s_panel + tile::swizzled_offset_bytes(row, 2 * k + lane / 16), ptx::pack2<Element>(part[0] * factor, part[1] * factor),
                         ptx::pack2<Element>(part[2] * factor, part[3] * factor), ptx::pack2<Element>(part[4] * factor, part[5] * factor),
                         ptx::pack2<Element>(part[6] * factor, part[7] * factor));
      }
    }
    ptx::fence_proxy_async_shared();
    ptx::named_barrier_sync(barrier, 128);
    if (threadIdx.x % 128 == 0) {
      if (block.first_key < params.len_kv) {
#pragma unroll
        for (int panel = 0; panel < Config::kPanels; ++panel) {
          ptx::tma_store_4d(map, s_tile[panel], 64 * panel, block.first_key, block.tile.kv_head, block.tile.batch);
        }
        ptx::tma_store_commit();
      }
      ptx::tma_store_wait_read();  // shared memory must outlive the copies
    }
  }

  template <bool kValue>
  struct Masked {
    static constexpr bool value = kValue;
  };

  const BackwardParams& params;
  SharedStorage& smem;
  const ClusterBlock block;
  const int warp;  // in the warpgroup
  const int lane;
  int first_row[2];  // first query that sees the thread's keys, less the thread's first column

 private:
  static constexpr int kNever = 1 << 30;
};

}  // namespace fa::sm90
