// The first key tile that visits a query tile stores its part of grad_q where the others add theirs, so that nobody clears the accumulator. Key tiles go
// through query tiles from the last to the first: under a window those that a key tile stores are then its first ones, which others that began beside it come
// to later.
#pragma once

#include "kernels/sm90/backward_modified/work.cuh"
#include "ptx/fence_proxy.cuh"
#include "ptx/mbarrier.cuh"
#include "ptx/reduce.cuh"

namespace fa::sm90 {

/// Position in a ring of two buffers, and the parity of the barrier phase that the current round completes.
struct RingCursor {
  int stage = 0;
  uint32_t phase = 0;

  __device__ __forceinline__ void advance() {
    phase ^= static_cast<uint32_t>(stage);
    stage ^= 1;
  }
};

/// Where an item's v is: that of the item's buffer of k, or where there is but one of v, the one; items then take turns in the phases of its barriers.
template <class Config>
__device__ __forceinline__ RingCursor value_cursor(RingCursor buffer) {
  return Config::kValueBuffers == 1 ? RingCursor{0, static_cast<uint32_t>(buffer.stage)} : buffer;
}

/// What a block's producer warp tells and asks of the others. A buffer of q that is free again says that the step which used it has stored its tile. It tells
/// behind its own loads, which the release would hold up, and asks a step ahead; but who must wait tells first what it knows. It waits only for key tiles of
/// the same head that were handed out before its own: so the earliest item that is not yet done always goes on. kTells: false where another thread tells.
template <bool kTells>
class StoredTiles {
 public:
  /// s_flags: of the steps whose buffers are in use, what others wait for; negative where they add. s_untold: of one that has stored.
  __device__ __forceinline__ StoredTiles(int* g_flags, uint64_t (&q_empty)[2], int (&s_flags)[2], int& s_untold)
      : g_flags_(g_flags), q_empty_(q_empty), s_flags_(s_flags), s_untold_(s_untold), first_lane_(threadIdx.x % 32 == 0) {
    if (first_lane_) {
      s_flags_[0] = s_flags_[1] = s_untold_ = kNone;
    }
  }

  /// first_flag: of the head's query tile 0.
  __device__ __forceinline__ void begin_head(int first_flag) {
    first_flag_ = first_flag;
    known_ = {0, 0};
  }

  /// Behind the wait for the buffer of q.
  __device__ __forceinline__ void begin_step(int q_tile, const KeyWork& work, int stage) {
    if (kTells && first_lane_) {
      s_untold_ = s_flags_[stage];
      s_flags_[stage] = q_tile >= work.first_stored ? first_flag_ + q_tile : kNone;
    }
  }

  /// Returns when the query tile may be added to. cursor: of this step's buffers.
  __device__ __forceinline__ void wait_for(int q_tile, const KeyWork& work, RingCursor cursor) {
    cursor.advance();
#pragma unroll 1
    while (!is_known(q_tile, work)) {
      tell();
      if (kTells && first_lane_ && s_flags_[cursor.stage] != kNone && ptx::mbarrier_test(&q_empty_[cursor.stage], cursor.phase ^ 1)) {
        s_untold_ = s_flags_[cursor.stage];
        s_flags_[cursor.stage] = kNone;
      }
      ask(q_tile, work);
    }
  }

  /// Behind the loads of a step. next_tile: of the next one.
  __device__ __forceinline__ void end_step(int next_tile, const KeyWork& work) {
    tell();
    if (!is_known(next_tile, work)) {
      ask(next_tile, work);
    }
  }

  /// Tells of the last two steps. cursor: behind them.
  __device__ __forceinline__ void finish(RingCursor cursor) {
#pragma unroll 1
    for (int i = 0; kTells && i < 2; ++i) {
      ptx::mbarrier_wait(&q_empty_[cursor.stage], cursor.phase ^ 1);
      if (first_lane_) {
        s_untold_ = s_flags_[cursor.stage];
      }
      tell();
      cursor.advance();
    }
  }

 private:
  static constexpr int kNone = -1;

  __device__ __forceinline__ void tell() {
    if (kTells && first_lane_ && s_untold_ != kNone) {
      ptx::increment_release(g_flags_ + s_untold_);
      s_untold_ = kNone;
    }
  }

  __device__ __forceinline__ bool is_known(int q_tile, const KeyWork& work) const {
    return q_tile >= work.first_stored || (q_tile >= known_.first && q_tile < known_.end);
  }

  /// Which of this query tile and those before it, up to 32, have been stored.
  __device__ __forceinline__ void ask(int q_tile, const KeyWork& work) {
    const int tile = q_tile - static_cast<int>(threadIdx.x % 32);
    const bool stored = tile < work.first_step || ptx::load_acquire(g_flags_ + first_flag_ + tile) != 0;
    const uint32_t missing = ~__ballot_sync(0xFFFFFFFF, stored);
    if constexpr (!kTells) {
      ptx::fence_proxy_async_global();  // what follows is added in bulk
    }
    known_ = {q_tile + 1 - (missing == 0 ? 32 : __ffs(static_cast<int>(missing)) - 1), q_tile + 1};
    __syncwarp();
  }

  int* const g_flags_;
  uint64_t (&q_empty_)[2];
  int (&s_flags_)[2];
  int& s_untold_;
  const bool first_lane_;
  int first_flag_ = 0;
  StepRange known_ = {0, 0};  // query tiles that may be added to
};

}  // namespace fa::sm90
