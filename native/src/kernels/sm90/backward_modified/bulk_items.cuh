// Additions to grad_q in bulk: the consumer warpgroups leave their parts of a tile in shared memory, and a spare thread has them added, or stored where the key
// tile is the first to come. The consumers' own additions would stand in the way of whatever else goes through their queues to memory. There is no room for
// them beside two buffers of v: so v of the next item is loaded when the last step is done, beside the end of the item, and grad_v leaves through the memory
// of grad_q.
#pragma once

#include "kernels/sm90/backward_modified/config.h"
#include "kernels/sm90/backward_modified/stored_tiles.cuh"
#include "kernels/sm90/backward_modified/work.cuh"
#include "ptx/bulk_copy.cuh"
#include "ptx/fence_proxy.cuh"
#include "ptx/mbarrier.cuh"
#include "ptx/reduce.cuh"
#include "ptx/tma.cuh"

namespace fa::sm90 {

/// Where grad_v of an item is left.
template <class SharedStorage>
__device__ __forceinline__ typename SharedStorage::KeyTile& staged_grad_v(SharedStorage& smem) {
  return reinterpret_cast<typename SharedStorage::KeyTile&>(smem.grad_q);
}

/// A consumer warpgroup's side. Every step's part of grad_q, and every item's grad_v, takes its turn in the phases of grad_q_empty.
template <typename Config>
class LeftParts {
  using SharedStorage = typename Config::SharedStorage;

 public:
  __device__ __forceinline__ LeftParts(SharedStorage& smem, int warpgroup) : smem_(smem), warpgroup_(warpgroup) {}

  /// Leaves the warpgroup's part of grad_q to add_and_store_items, which has long read that of the step before.
  __device__ __forceinline__ void leave(const float (&grad_q)[Config::kGradQ]) {
    ptx::mbarrier_wait(&smem_.grad_q_empty[warpgroup_], phase_ ^ 1);
    float4* s_pieces = reinterpret_cast<float4*>(smem_.grad_q[warpgroup_]) + threadIdx.x % 128;
#pragma unroll
    for (int j = 0; j < Config::kGradQ / 4; ++j) {
      s_pieces[128 * j] = make_float4(grad_q[4 * j], grad_q[4 * j + 1], grad_q[4 * j + 2], grad_q[4 * j + 3]);
    }
    ptx::fence_proxy_async_shared();
    __syncwarp();
    if (threadIdx.x % 32 == 0) {
      ptx::mbarrier_arrive(&smem_.grad_q_full[warpgroup_]);
    }
    phase_ ^= 1;
  }

  /// Returns when the last parts of both warpgroups have been read: grad_v may take their place.
  __device__ __forceinline__ void wait_for_all() {
#pragma unroll
    for (int w = 0; w < Config::kWarpgroups; ++w) {
      ptx::mbarrier_wait(&smem_.grad_q_empty[w], phase_ ^ 1);
    }
    phase_ ^= 1;
  }

 private:
  SharedStorage& smem_;
  const int warpgroup_;
  uint32_t phase_ = 0;
};

/// The parts of grad_q of all of an item's steps. phase: of grad_q_full.
template <typename Config>
__device__ __forceinline__ void add_steps(const ModifiedBackwardParams& params, typename Config::SharedStorage& smem, const KeyWork& work, uint32_t& phase) {
  const int num_steps = work.end_step - work.first_step;
#pragma unroll 1
  for (int group_head = 0; group_head < params.group_size; ++group_head) {
    const int head = work.workspace_head + group_head, first_tile = work.row_begin / Config::kTileQ;
    float* g_head = params.grad_q_accumulator + (head * params.padded_rows + work.row_begin) * Config::kHeadDim;
    int* g_flags = params.tiles_stored + static_cast<int>(head * (params.padded_rows / Config::kTileQ)) + first_tile;
#pragma unroll 1
    for (int i = 0; i < num_steps; ++i) {
      const int step = work.visited_step(i);
      const bool begins = step >= work.first_stored;
      float* g_tile = g_head + int64_t{step} * (Config::kTileQ * Config::kHeadDim);
#pragma unroll
      for (int w = 0; w < Config::kWarpgroups; ++w) {
        ptx::mbarrier_wait(&smem.grad_q_full[w], phase);
        if (begins) {
          ptx::bulk_store(g_tile + w * kGradQBlock, smem.grad_q[w], sizeof(smem.grad_q[0]));
        } else {
          ptx::bulk_reduce_add(g_tile + w * kGradQBlock, smem.grad_q[w], sizeof(smem.grad_q[0]));
        }
        ptx::bulk_commit();
      }
      phase ^= 1;
      ptx::bulk_wait_read();
#pragma unroll
      for (int w = 0; w < Config::kWarpgroups; ++w) {
        ptx::mbarrier_arrive(&smem.grad_q_empty[w]);
      }
      if (begins) {
        ptx::bulk_wait();
        ptx::fence_proxy_async_global();
        ptx::increment_release(g_flags + step);
      }
    }
  }
}

/// Runs in one thread: goes through the block's items behind the consumers, adds to grad_q, stores grad_k and grad_v by TMA, which clips what lies outside the
/// tensors, and gives the buffers back.
template <typename Config>
__device__ __forceinline__ void add_and_store_items(const ModifiedBackwardParams& params, typename Config::SharedStorage& smem) {
  uint32_t phase = 0;
#pragma unroll 1
  for (RingCursor buffer;; buffer.advance()) {
    const int stage = buffer.stage;
    ptx::mbarrier_wait(&smem.k_full[stage], buffer.phase);
    const KeyWork& work = smem.work[stage];
    if (work.kind == KeyWork::kNone) {
      break;
    }
    if (work.kind == KeyWork::kWithSteps) {
      add_steps<Config>(params, smem, work, phase);
    }
    int* g_added = added_tiles(params, work, Config::kTileKv);
    ptx::mbarrier_wait(&smem.done[stage], buffer.phase);
    if (!work.has_foreign_keys(params, Config::kTileKv)) {
      const auto& s_grad_v = staged_grad_v(smem);
#pragma unroll 1
      for (int row = 0; row < min(work.len_kv - work.first_key, Config::kTileKv); row += 64) {
#pragma unroll
        for (int panel = 0; panel < Config::kPanels; ++panel) {
          ptx::tma_store_4d(&params.map_grad_v, s_grad_v[panel][row], 64 * panel, work.kv_begin + work.first_key + row, work.kv_head, work.batch);
          ptx::tma_store_4d(&params.map_grad_k, smem.k[stage][panel][row], 64 * panel, work.kv_begin + work.first_key + row, work.kv_head, work.batch);
        }
      }
      ptx::tma_store_commit();
    }
    ptx::bulk_wait_read();
#pragma unroll
    for (int w = 0; w < Config::kWarpgroups; ++w) {
      ptx::mbarrier_arrive(&smem.grad_q_empty[w]);
    }
    ptx::mbarrier_arrive(&smem.kv_empty[stage]);
    if (params.finish_inside) {
      ptx::bulk_wait();
      ptx::fence_proxy_async_global();
      ptx::increment_release(g_added);
    }
  }
  ptx::bulk_wait();  // shared memory must outlive the copies
}

}  // namespace fa::sm90
