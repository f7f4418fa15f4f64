// Paired Hopper backward kernel. README.md beside this file has the schedule and the measurements.
#pragma once

#include "kernels/sm90/backward/params.h"
#include "kernels/sm90/backward_pair/config.h"
#include "kernels/sm90/backward_pair/consumer.cuh"
#include "kernels/sm90/backward_pair/producer.cuh"
#include "ptx/cluster.cuh"
#include "ptx/grid_dependency.cuh"
#include "ptx/mbarrier.cuh"
#include "ptx/setmaxnreg.cuh"
#include "ptx/tma.cuh"

namespace fa::sm90 {

template <typename Config>
__global__ void __cluster_dims__(Config::kClusterSize, 1, 1) __launch_bounds__(Config::kThreads, 1)
    backward_pair_kernel(const __grid_constant__ BackwardParams params) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  // Shared memory
  extern __shared__ __align__(1024) unsigned char s_bytes[];
  auto& smem = *reinterpret_cast<typename Config::SharedStorage*>(s_bytes);

  // Barriers. "Full" ones count one arrival and the bytes of copies, or the warps that write; "empty" ones the warps that read.
  if (threadIdx.x == 0) {
    ptx::tma_prefetch_map(&params.map_q);
    ptx::tma_prefetch_map(&params.map_k);
    ptx::tma_prefetch_map(&params.map_v);
    ptx::tma_prefetch_map(&params.map_grad_o);
    ptx::tma_prefetch_map(&params.map_statistics);
    ptx::mbarrier_init(&smem.k_full, 1);
    ptx::mbarrier_init(&smem.v_full, 1);
    ptx::mbarrier_init(&smem.peer_k_full, 1);
    for (int stage = 0; stage < Config::kStages; ++stage) {
      ptx::mbarrier_init(&smem.grad_o_full[stage], 1);
      ptx::mbarrier_init(&smem.grad_o_empty[stage], Config::kConsumerWarps);
    }
    for (int stage = 0; stage < Config::kQStages; ++stage) {
      ptx::mbarrier_init(&smem.q_full[stage], 1);
      ptx::mbarrier_init(&smem.q_empty[stage], Config::kConsumerWarps);
    }
    ptx::mbarrier_init(&smem.own_full, Config::kConsumerWarps);
    ptx::mbarrier_init(&smem.own_empty, Config::kConsumerWarps);
    ptx::mbarrier_init(&smem.peer_full, 1);
    ptx::mbarrier_init(&smem.peer_empty, Config::kConsumerWarps);
    ptx::mbarrier_init(&smem.sent_full, Config::kConsumerWarps);
    ptx::mbarrier_init(&smem.sent_empty, 1);
    ptx::mbarrier_init(&smem.grad_q_open, 2);
    ptx::mbarrier_init(&smem.grad_q_added, Config::kConsumerWarps);
    ptx::mbarrier_init_fence();
    smem.block = pair_block<Config>(params);
  }
  ptx::cluster_sync();
  ptx::wait_for_previous_kernel();
  ptx::launch_dependents();

  // Roles. The shuffle tells the compiler that the warpgroup's number, and all descriptors made from it, are the same in the whole warp.
  const int warpgroup = __shfl_sync(0xFFFFFFFF, static_cast<int>(threadIdx.x) / 128, 0);
  if (warpgroup == 0) {
    ptx::registers_release<Config::kTile.producer_registers()>();
    if (threadIdx.x == 0) {
      PairProducer<Config>(params, smem).load();
    } else if (threadIdx.x == 32) {
      PairProducer<Config>(params, smem).exchange();
    } else if (threadIdx.x == 64) {
      PairProducer<Config>(params, smem).open();
    } else if (threadIdx.x == 96) {
      PairProducer<Config>(params, smem).count();
    }
  } else {
    ptx::registers_acquire<Config::kTile.consumer_registers()>();
    PairConsumer<Config>(params, smem, warpgroup - 1).run();
  }
  // The other block may still arrive at barriers here.
  ptx::cluster_sync();
#else
  // Other targets have no wgmma; the planner never chooses this kernel there.
  __trap();
#endif
}

}  // namespace fa::sm90
