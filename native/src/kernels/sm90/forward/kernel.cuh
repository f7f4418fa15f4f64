// Hopper forward kernel. README.md beside this file has the resource arithmetic, the schedule and the measurements.
#pragma once

#include "kernels/sm90/forward/config.h"
#include "kernels/sm90/forward/consumer.cuh"
#include "kernels/sm90/forward/listed_tiles.cuh"
#include "kernels/sm90/forward/modified_producer.cuh"
#include "kernels/sm90/forward/params.h"
#include "kernels/sm90/forward/producer.cuh"
#include "ptx/grid_dependency.cuh"
#include "ptx/mbarrier.cuh"
#include "ptx/setmaxnreg.cuh"
#include "ptx/tma.cuh"

namespace fa::sm90 {

/// "Full" barriers count the producer's arrival and its copies' bytes, "empty" ones the consumer warps.
template <typename Config>
__device__ __forceinline__ void initialise_barriers(typename Config::SharedStorage& smem) {
  for (int stage = 0; stage < Config::kQStages; ++stage) {
    ptx::mbarrier_init(&smem.q_full[stage], 1);
    ptx::mbarrier_init(&smem.q_empty[stage], Config::kConsumerWarps);
  }
  for (int stage = 0; stage < Config::kStages; ++stage) {
    ptx::mbarrier_init(&smem.k_full[stage], 1);
    ptx::mbarrier_init(&smem.v_full[stage], 1);
    ptx::mbarrier_init(&smem.k_empty[stage], Config::kConsumerWarps);
    ptx::mbarrier_init(&smem.v_empty[stage], Config::kConsumerWarps);
  }
}

template <typename Config>
__global__ void __launch_bounds__(Config::kThreads, 1) forward_kernel(const __grid_constant__ typename Config::Params params) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  // Shared memory
  extern __shared__ __align__(1024) unsigned char s_bytes[];
  auto* teams = reinterpret_cast<typename Config::SharedStorage*>(s_bytes);

  // Barriers
  if (threadIdx.x == 0) {
    ptx::tma_prefetch_map(&params.map_q);
    ptx::tma_prefetch_map(&params.map_k);
    ptx::tma_prefetch_map(&params.map_v);
    ptx::tma_prefetch_map(&params.map_o);
    for (int team = 0; team < Config::kTeams; ++team) {
      initialise_barriers<Config>(teams[team]);
    }
    ptx::mbarrier_init_fence();
  }
  __syncthreads();
  if constexpr (Config::Scores::kMask) {
    ptx::wait_for_previous_kernel();  // which writes the lists; launched so that it may begin before that one ends
  }

  // Roles: the consumers of all teams, then one warpgroup with a producer warp per team. The shuffles tell the compiler that the warpgroup's number and the
  // team's, and all descriptors made from them, are the same in the whole warp.
  const int warpgroup = __shfl_sync(0xFFFFFFFF, static_cast<int>(threadIdx.x) / 128, 0);
  if (warpgroup == Config::kTeams * Config::kWarpgroups) {
    ptx::registers_release<Config::kTile.producer_registers()>();
    const int team = __shfl_sync(0xFFFFFFFF, static_cast<int>(threadIdx.x) % 128 / 32, 0);
    if (team < Config::kTeams && threadIdx.x % 32 == 0) {
      if constexpr (Config::Scores::kMask) {
        produce_listed<Config>(params, teams[team]);
      } else if constexpr (Config::Scores::kModified) {
        produce_modified<Config>(params, teams[team], team);
      } else {
        produce<Config>(params, teams[team], team);
      }
    }
  } else {
    ptx::registers_acquire<Config::kTile.consumer_registers()>();
    const int team = Config::kTeams == 1 && Config::Scores::kModified ? 0 : warpgroup / Config::kWarpgroups;
    Consumer<Config>(params, teams[team], warpgroup % Config::kWarpgroups, Config::kBarrierTurn + team * Config::kWarpgroups).run();
  }
#else
  // Other targets have no wgmma; the planner never chooses this kernel there.
  __trap();
#endif
}

}  // namespace fa::sm90
