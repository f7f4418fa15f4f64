// Wide Hopper backward kernel. README.md beside this file has the resource arithmetic, the schedule and the measurements.
#pragma once

#include "kernels/sm90/backward/params.h"
#include "kernels/sm90/backward_wide/config.h"
#include "kernels/sm90/backward_wide/derivatives.cuh"
#include "kernels/sm90/backward_wide/grad_q_turns.cuh"
#include "kernels/sm90/backward_wide/probabilities.cuh"
#include "kernels/sm90/backward_wide/producer.cuh"
#include "ptx/cluster.cuh"
#include "ptx/mbarrier.cuh"
#include "ptx/setmaxnreg.cuh"
#include "ptx/tma.cuh"

namespace fa::sm90 {

template <typename Config>
__global__ void __cluster_dims__(Config::kClusterSize, 1, 1) __launch_bounds__(Config::kThreads, 1)
    backward_wide_kernel(const __grid_constant__ BackwardParams params) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  // Shared memory
  extern __shared__ __align__(1024) unsigned char s_bytes[];
  auto& smem = *reinterpret_cast<typename Config::SharedStorage*>(s_bytes);

  // Barriers. "Full" ones count one arrival and the bytes of copies, or the warps that write; "empty" ones the warps that read.
  constexpr int kClusterWarps = Config::kConsumerWarps * Config::kClusterSize;
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
      ptx::mbarrier_init(&smem.q_empty[stage], kClusterWarps);
    }
    for (int slot = 0; slot < Config::kSlots; ++slot) {
      ptx::mbarrier_init(&smem.grad_o_full[slot], 1);
      ptx::mbarrier_init(&smem.grad_o_empty[slot], kClusterWarps);
    }
    for (int stage = 0; stage < Config::kDsStages; ++stage) {
      ptx::mbarrier_init(&smem.ds_full[stage], 128);
      ptx::mbarrier_init(&smem.peer_ds_full[stage], 1);
      ptx::mbarrier_init(&smem.ds_empty[stage], kClusterWarps);
    }
    ptx::mbarrier_init(&smem.keys_read, Config::kConsumerThreads);
    if constexpr (Config::kDeterministic) {
      for (int stage = 0; stage < Config::kTurnStages; ++stage) {
        ptx::mbarrier_init(&smem.grad_q_open[stage], 1);
        ptx::mbarrier_init(&smem.grad_q_added[stage], Config::kConsumerWarps);
        ptx::mbarrier_init(&smem.grad_q_counted[stage], 1);
      }
    }
    ptx::mbarrier_init_fence();
  }
  ptx::cluster_sync();

  // Roles. The shuffle tells the compiler that the warpgroup's number, and all descriptors made from it, are the same in the whole warp.
  const int warpgroup = __shfl_sync(0xFFFFFFFF, static_cast<int>(threadIdx.x) / 128, 0);
  if (warpgroup == 0) {
    ptx::registers_release<Config::kTile.producer_registers()>();
    if (threadIdx.x == 0) {
      WideProducer<Config>(params, smem).load();
    } else if (threadIdx.x == 32) {
      WideProducer<Config>(params, smem).exchange();
    }
    if constexpr (Config::kDeterministic) {
      if (threadIdx.x == 64) {
        GradQTurns<Config>(params, smem).open();
      } else if (threadIdx.x == 96) {
        GradQTurns<Config>(params, smem).count();
      }
    }
    return;
  }
  if (warpgroup == 1) {
    ptx::registers_acquire<Config::kTile.consumer_registers()>();
    ProbabilityWarpgroup<Config>(params, smem).run();
  } else {
    ptx::registers_acquire<Config::kTile.consumer_registers()>();
    DerivativeWarpgroup<Config>(params, smem).run();
  }
  // The other block may still arrive at barriers here. Its consumers have waited for all that its producers have sent.
  ptx::cluster_sync();
#else
  // Other targets have no wgmma; the planner never chooses this kernel there.
  __trap();
#endif
}

}  // namespace fa::sm90
