// With lists of query tiles: which key tile comes first to a query tile is not known beforehand, since lists have mixed tiles before whole ones. So whoever comes
// first stores its part of grad_q, the others add theirs (StoredTiles is the same for ranges, where it is known).
#pragma once

#include "attention/visible_tiles.h"
#include "kernels/sm90/backward_modified/params.h"
#include "kernels/sm90/backward_modified/stored_tiles.cuh"
#include "ptx/mbarrier.cuh"
#include "ptx/reduce.cuh"

namespace fa::sm90 {

/// A block's producer warp. Nobody waits for what waits for him: who begins a tile has waited for all that his steps up to it need, and tells that it is stored
/// also while he waits for later ones. A buffer of q that is free again says so.
class BegunTiles {
 public:
  /// s_begins: of the steps whose buffers are in use, not 0 if the step stores its part, and then 1 more than the place of the tile's word.
  __device__ __forceinline__ BegunTiles(int* g_words, uint64_t (&q_empty)[2], int (&s_begins)[2])
      : g_words_(g_words), q_empty_(q_empty), s_begins_(s_begins), first_lane_(threadIdx.x % 32 == 0) {
    if (first_lane_) {
      s_begins_[0] = s_begins_[1] = 0;
    }
  }

  /// Behind the wait for a buffer of q.
  __device__ __forceinline__ void tell(int stage) const {
    const int begins = first_lane_ ? s_begins_[stage] : 0;
    if (begins != 0) {
      ptx::or_release(g_words_ + (begins - 1), kTileStored);
      s_begins_[stage] = 0;
    }
  }

  /// Comes to a tile: what its word was, in all lanes. Behind the wait for the buffer of q.
  __device__ __forceinline__ int begin(int word) const {
    return __shfl_sync(0xFFFFFFFF, first_lane_ ? ptx::fetch_or_relaxed(g_words_ + word, kTileBegun) : 0, 0);
  }

  /// Returns when the step's part may be stored or added. Before grad_o is loaded, without which it is neither. state: of begin.
  __device__ __forceinline__ void wait_for(int word, int state, RingCursor cursor) const {
    const bool begins = state == 0;
    if (!begins) {
#pragma unroll 1
      while (!(state & kTileStored)) {
        RingCursor next = cursor;
        next.advance();
        if (first_lane_ && ptx::mbarrier_test(&q_empty_[next.stage], next.phase ^ 1)) {
          tell(next.stage);
        }
        state = __shfl_sync(0xFFFFFFFF, ptx::load_relaxed(g_words_ + word), 0);
      }
      ptx::load_acquire(g_words_ + word);
    }
    if (first_lane_) {
      s_begins_[cursor.stage] = begins ? word + 1 : 0;
    }
  }

  /// Tells of the last two steps. cursor: behind them.
  __device__ __forceinline__ void finish(RingCursor cursor) const {
#pragma unroll 1
    for (int i = 0; i < 2; ++i) {
      ptx::mbarrier_wait(&q_empty_[cursor.stage], cursor.phase ^ 1);
      tell(cursor.stage);
      cursor.advance();
    }
  }

 private:
  int* const g_words_;
  uint64_t (&q_empty_)[2];
  int (&s_begins_)[2];
  const bool first_lane_;
};

}  // namespace fa::sm90
