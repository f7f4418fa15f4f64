// With lists of query tiles it is not known beforehand which key tile comes first to a query tile, since lists have mixed tiles before whole ones. So whoever
// comes first stores its part of grad_q, the others add theirs. (StoredTiles is the same for ranges, where it is known.)
#pragma once

#include "kernels/sm90/backward_modified/listed_tiles.cuh"
#include "kernels/sm90/backward_modified/stored_tiles.cuh"
#include "ptx/mbarrier.cuh"
#include "ptx/reduce.cuh"

namespace fa::sm90 {

/// What a block's producer warp tells and asks of the others. A buffer of q that is free again says that the step which used it has stored its part. Nobody
/// waits for what waits for him: who begins a tile has waited for all that his steps before it need, and before he waits again he tells what he knows.
class BegunTiles {
 public:
  /// s_begins: of the steps whose buffers are in use, not 0 if the step stores its part, and then 1 more than the place of the tile's word.
  __device__ __forceinline__ BegunTiles(int* g_words, uint64_t (&q_empty)[2], int (&s_begins)[2], int&)
      : g_words_(g_words), q_empty_(q_empty), s_begins_(s_begins), first_lane_(threadIdx.x % 32 == 0) {
    if (first_lane_) {
      s_begins_[0] = s_begins_[1] = 0;
    }
  }

  /// first_word: of the head's first query tile.
  __device__ __forceinline__ void begin_head(int first_word) { first_word_ = first_word; }

  /// Which of the 32 entries around a step, from a multiple of 32 of its kind on, are known to be stored. Acquires, for the device; that empties the
  /// first-level cache.
  __device__ __forceinline__ void look(const ListedSteps& steps, int step) {
    const int tile = steps.lane_tile(step);
    known_ = __ballot_sync(0xFFFFFFFF, tile >= 0 && (ptx::load_acquire(g_words_ + first_word_ + max(tile, 0)) & kTileStored) != 0);
    __syncwarp();  // what the lanes have acquired, they have for the one that arrives at a barrier next
  }

  /// Comes to a step's tile: what its word was, in all lanes; 0: the step is to store its part. For one step ahead, behind wait_for of the one before.
  __device__ __forceinline__ int come_to(const ListedSteps& steps, int step, int tile) {
    if (steps.place(step) % 32 == 0) {
      look(steps, step);
    }
    return knows(steps, step) ? kTileStored : __shfl_sync(0xFFFFFFFF, first_lane_ ? ptx::fetch_or_relaxed(g_words_ + first_word_ + tile, kTileBegun) : 0, 0);
  }

  /// Returns when the step's part may be stored or added, before grad_o is loaded, without which it is neither. state: of come_to. cursor: the step's buffers.
  __device__ __forceinline__ void wait_for(const ListedSteps& steps, int step, int state, RingCursor cursor) {
    if (state == 0) {
      return;
    }
#pragma unroll 1
    while (!knows(steps, step)) {
      tell(take(cursor.stage));
      RingCursor next = cursor;
      next.advance();
      if (first_lane_ && ptx::mbarrier_test(&q_empty_[next.stage], next.phase ^ 1)) {
        tell(take(next.stage));
      }
      __syncwarp();
      look(steps, step);
    }
  }

  /// Says to the consumers what they are to do with a step's part. Returns what is to be told of the step that used the buffer before.
  __device__ __forceinline__ int say(int stage, int tile, int state) const {
    const int untold = first_lane_ ? s_begins_[stage] : 0;
    if (first_lane_) {
      s_begins_[stage] = state == 0 ? first_word_ + tile + 1 : 0;
    }
    return untold;
  }

  /// By the first lane. untold: of say; 0: nothing.
  __device__ __forceinline__ void tell(int untold) const {
    if (untold != 0) {
      ptx::or_release(g_words_ + (untold - 1), kTileStored);
    }
  }

  /// Tells of the last two steps. cursor: behind them.
  __device__ __forceinline__ void finish(RingCursor cursor) const {
#pragma unroll 1
    for (int i = 0; i < 2; ++i) {
      ptx::mbarrier_wait(&q_empty_[cursor.stage], cursor.phase ^ 1);
      tell(take(cursor.stage));
      cursor.advance();
    }
  }

 private:
  __device__ __forceinline__ bool knows(const ListedSteps& steps, int step) const {
    return (known_ >> steps.place(step) % 32 & 1u) != 0;
  }

  __device__ __forceinline__ int take(int stage) const {
    const int untold = first_lane_ ? s_begins_[stage] : 0;
    if (untold != 0) {
      s_begins_[stage] = 0;
    }
    return untold;
  }

  int* const g_words_;
  uint64_t (&q_empty_)[2];
  int (&s_begins_)[2];
  const bool first_lane_;
  int first_word_ = 0;
  uint32_t known_ = 0;
};

}  // namespace fa::sm90
