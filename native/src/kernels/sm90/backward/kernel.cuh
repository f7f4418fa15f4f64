// Hopper backward kernel. README.md beside this file has the resource arithmetic, the schedule and the measurements.
#pragma once

#include "kernels/sm90/backward/bulk_additions.cuh"
#include "kernels/sm90/backward/config.h"
#include "kernels/sm90/backward/consumer.cuh"
#include "kernels/sm90/backward/finish.cuh"
#include "kernels/sm90/backward/params.h"
#include "kernels/sm90/backward/producer.cuh"
#include "ptx/grid_dependency.cuh"
#include "ptx/mbarrier.cuh"
#include "ptx/setmaxnreg.cuh"
#include "ptx/tma.cuh"

namespace fa::sm90 {

template <typename Config>
__global__ void __launch_bounds__(Config::kThreads, 1) backward_kernel(const __grid_constant__ BackwardParams params) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  // Shared memory
  extern __shared__ __align__(1024) unsigned char s_bytes[];
  auto& smem = *reinterpret_cast<typename Config::SharedStorage*>(s_bytes);

  // Barriers. "Full" ones count the producer's arrival and its copies' bytes, "empty" ones the consumer warps.
  if (threadIdx.x == 0) {
    ptx::tma_prefetch_map(&params.map_q);
    ptx::tma_prefetch_map(&params.map_k);
    ptx::tma_prefetch_map(&params.map_v);
    ptx::tma_prefetch_map(&params.map_grad_o);
    ptx::tma_prefetch_map(&params.map_statistics);
    ptx::mbarrier_init(&smem.k_full, 1);
    ptx::mbarrier_init(&smem.v_full, 1);
    for (int stage = 0; stage < Config::kStages; ++stage) {
      ptx::mbarrier_init(&smem.q_full[stage], 1);
      ptx::mbarrier_init(&smem.grad_o_full[stage], 1);
      ptx::mbarrier_init(&smem.q_empty[stage], Config::kConsumerWarps);
      ptx::mbarrier_init(&smem.grad_o_empty[stage], Config::kConsumerWarps);
    }
    if constexpr (Config::kAddsInBulk) {
      for (int stage = 0; stage < Config::kStages; ++stage) {
        ptx::mbarrier_init(&smem.grad_q_full[stage], 1);
        ptx::mbarrier_init(&smem.grad_q_empty[stage], 1);
      }
    } else if constexpr (Config::kInTurns) {
      smem.steps_added = 0;
    }
    ptx::mbarrier_init_fence();
  }
  __syncthreads();
  ptx::wait_for_previous_kernel();
  ptx::launch_dependents();

  // Roles. The shuffle tells the compiler that the warpgroup's number, and all descriptors made from it, are the same in the whole warp.
  const int warpgroup = __shfl_sync(0xFFFFFFFF, static_cast<int>(threadIdx.x) / 128, 0);
  if (warpgroup == 0) {
    ptx::registers_release<Config::kTile.producer_registers()>();
    if (threadIdx.x == 0) {
      produce_backward<Config>(params, smem);
    } else if (threadIdx.x >= 128 - 32 * Config::kFinishingWarps) {
      if constexpr (Config::kTile.finishes_earlier_heads) {
        const int warp = static_cast<int>(threadIdx.x) / 32 - (4 - Config::kFinishingWarps);
        if constexpr (Config::kClears) {
          clear_later_head<Config>(params, warp);
        }
        finish_earlier_head<Config>(params, warp);
      }
    } else if (threadIdx.x % 32 == 0) {
      if constexpr (Config::kAddsInBulk) {
        add_in_bulk<Config>(params, smem, static_cast<int>(threadIdx.x) / 32 - 1);
      } else if constexpr (Config::kInTurns) {
        publish_added_steps<Config>(params, smem);
      }
    }
  } else {
    ptx::registers_acquire<Config::kTile.consumer_registers()>();
    BackwardConsumer<Config>(params, smem, warpgroup - 1).run();
  }
#else
  // Other targets have no wgmma; the planner never chooses this kernel there.
  __trap();
#endif
}

}  // namespace fa::sm90
