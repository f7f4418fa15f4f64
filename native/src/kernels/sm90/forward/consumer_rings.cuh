// A consumer warpgroup's part in the rings of q, k and v tiles and in the turns.
#pragma once

#include "kernels/sm90/forward/schedule.cuh"
#include "ptx/mbarrier.cuh"
#include "ptx/named_barrier.cuh"
#include "ptx/tma.cuh"

namespace fa::sm90 {

template <typename Config>
class ConsumerRings {
  using SharedStorage = typename Config::SharedStorage;

 protected:
  __device__ __forceinline__ ConsumerRings(SharedStorage& smem, int warpgroup, int first_turn) : smem_(smem), warpgroup_(warpgroup), first_turn_(first_turn) {}

  /// Takes part in the rings for a key tile that none of this warpgroup's rows sees.
  __device__ __forceinline__ void skip_tile() {
    skip_turn();
    skip_buffers();
  }
  __device__ __forceinline__ void skip_turn() const {
    await_turn();
    pass_turn();
  }
  __device__ __forceinline__ void skip_buffers() {
    ptx::mbarrier_wait(&smem_.k_full[k_cursor_.stage()], k_cursor_.phase());
    release_k();
    ptx::mbarrier_wait(&smem_.v_full[v_cursor_.stage()], v_cursor_.phase());
    release_v();
  }

  /// Turns go round the warpgroups, one per key tile of the block, whether a warpgroup sees the tile or not.
  __device__ __forceinline__ void await_turn() const {
    if constexpr (Config::kPingPong) {
      ptx::named_barrier_sync(first_turn_ + warpgroup_, 256);
    }
  }
  __device__ __forceinline__ void pass_turn() const {
    if constexpr (Config::kPingPong) {
      ptx::named_barrier_arrive(first_turn_ + (warpgroup_ + 1) % Config::kWarpgroups, 256);
    }
  }

  __device__ __forceinline__ void release_q() {
    release(&smem_.q_empty[q_cursor_.stage()]);
    q_cursor_.advance();
  }
  /// With kStagesInQ: the q tile before, once the store has read it.
  __device__ __forceinline__ void release_staged_q() {
    if constexpr (Config::kStagesInQ) {
      if (staged_ && threadIdx.x % 32 == 0) {
        ptx::tma_store_wait_read();
        ptx::mbarrier_arrive(&smem_.q_empty[q_cursor_.stage() ^ 1]);
      }
      staged_ = false;
    }
  }
  __device__ __forceinline__ void release_k() {
    release(&smem_.k_empty[k_cursor_.stage()]);
    k_cursor_.advance();
  }
  __device__ __forceinline__ void release_v() {
    release(&smem_.v_empty[v_cursor_.stage()]);
    v_cursor_.advance();
  }
  /// One arrival per warp.
  static __device__ __forceinline__ void release(uint64_t* barrier) {
    if (threadIdx.x % 32 == 0) {
      ptx::mbarrier_arrive(barrier);
    }
  }

  SharedStorage& smem_;
  const int warpgroup_;
  const int first_turn_;  ///< named barrier of the team's first warpgroup
  bool staged_ = false;   ///< with kStagesInQ: the q tile before is not released yet
  RingCursor<Config::kQStages> q_cursor_;
  RingCursor<Config::kStages> k_cursor_;
  RingCursor<Config::kStages> v_cursor_;
};

}  // namespace fa::sm90
