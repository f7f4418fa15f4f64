// Hopper backward kernel with modified scores. README.md beside this file has the resource arithmetic, the schedule and the measurements.
#pragma once

#include "kernels/sm90/backward_modified/bulk_items.cuh"
#include "kernels/sm90/backward_modified/config.h"
#include "kernels/sm90/backward_modified/consumer.cuh"
#include "kernels/sm90/backward_modified/finisher.cuh"
#include "kernels/sm90/backward_modified/params.h"
#include "kernels/sm90/backward_modified/producer.cuh"
#include "ptx/grid_dependency.cuh"
#include "ptx/mbarrier.cuh"
#include "ptx/setmaxnreg.cuh"
#include "ptx/tma.cuh"

namespace fa::sm90 {

template <typename Config>
__global__ void __launch_bounds__(Config::kThreads, 1) backward_modified_kernel(const __grid_constant__ ModifiedBackwardParams params) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  // Shared memory
  extern __shared__ __align__(1024) unsigned char s_bytes[];
  auto& smem = *reinterpret_cast<typename Config::SharedStorage*>(s_bytes);

  // Barriers. "Full" ones count the producer's arrival and its copies' bytes, the others the consumer warps; kv_empty them and one thread.
  if (threadIdx.x == 0) {
    ptx::tma_prefetch_map(&params.map_q);
    ptx::tma_prefetch_map(&params.map_k);
    ptx::tma_prefetch_map(&params.map_v);
    ptx::tma_prefetch_map(&params.map_grad_o);
    ptx::tma_prefetch_map(&params.map_statistics);
    if constexpr (Config::Policy::kBias) {
      ptx::tma_prefetch_map(&params.map_bias);
      ptx::tma_prefetch_map(&params.map_grad_bias);
    }
    for (int buffer = 0; buffer < Config::kBuffers; ++buffer) {
      ptx::mbarrier_init(&smem.k_full[buffer], 1);
      ptx::mbarrier_init(&smem.done[buffer], Config::kConsumerWarps);
      ptx::mbarrier_init(&smem.kv_empty[buffer], Config::kConsumerWarps + 1);
    }
    for (int buffer = 0; buffer < Config::kValueBuffers; ++buffer) {
      ptx::mbarrier_init(&smem.v_full[buffer], 1);
    }
    if constexpr (Config::kAddsInBulk) {
      ptx::mbarrier_init(&smem.v_empty, Config::kConsumerWarps);
      for (int w = 0; w < Config::kWarpgroups; ++w) {
        ptx::mbarrier_init(&smem.grad_q_full[w], 4);
        ptx::mbarrier_init(&smem.grad_q_empty[w], 1);
      }
    }
    for (int stage = 0; stage < Config::kStages; ++stage) {
      ptx::mbarrier_init(&smem.q_full[stage], 1);
      ptx::mbarrier_init(&smem.grad_o_full[stage], 1);
      ptx::mbarrier_init(&smem.q_empty[stage], Config::kConsumerWarps);
      ptx::mbarrier_init(&smem.grad_o_empty[stage], Config::kConsumerWarps);
    }
    ptx::mbarrier_init_fence();
  }
  __syncthreads();
  if constexpr (Config::kBeginsEarly) {
    ptx::wait_for_previous_kernel();
  }
  ptx::launch_dependents();

  // Roles. The shuffle tells the compiler that the warpgroup's number, and all descriptors made from it, are the same in the whole warp.
  const int warpgroup = __shfl_sync(0xFFFFFFFF, static_cast<int>(threadIdx.x) / 128, 0);
  if (warpgroup == 0) {
    ptx::registers_release<Config::kTile.producer_registers()>();
    const int warp = __shfl_sync(0xFFFFFFFF, static_cast<int>(threadIdx.x) / 32, 0);
    if (warp == 0) {
      ModifiedProducer<Config>(params, smem).run();
    } else if (warp == 1) {
      if (threadIdx.x % 32 == 0) {
        if constexpr (Config::kAddsInBulk) {
          add_and_store_items<Config>(params, smem);
        } else {
          store_items<Config>(params, smem);
        }
      }
    } else if (params.finish_inside) {
      finish_blocks<Config>(params);
    }
  } else {
    ptx::registers_acquire<Config::kTile.consumer_registers()>();
    ModifiedConsumer<Config>(params, smem, warpgroup - 1).run();
  }
#else
  // Other targets have no wgmma; the planner never chooses this kernel there.
  __trap();
#endif
}

}  // namespace fa::sm90
