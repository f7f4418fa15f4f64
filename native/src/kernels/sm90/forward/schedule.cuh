// Which query tiles a block works on, in which order, and which key tiles each needs.
//
// Without a mask every tile is the same work: the grid is one block per multiprocessor, tiles of one head follow each other so that its keys stay in L2.
// With a causal mask the tiles of a head differ: sections of heads whose keys and values fit L2 together are taken one after the other, and within a section
// the longest tiles come first. Long problems launch one block per tile and leave the balance to the hardware's block scheduler; short ones run persistent
// blocks that go through the order back and forth, so that a block which had the longer tile of one round has the shorter one of the next.
#pragma once

#include "kernels/sm90/forward/params.h"

namespace fa::sm90 {

struct WorkTile {
  int q_tile;
  int head;
  int batch;
};

/// The tiles of this block, one after the other. Producer and consumers walk the same sequence.
class WorkIterator {
 public:
  __device__ __forceinline__ explicit WorkIterator(const ForwardParams& params) : params_(params) {}

  __device__ __forceinline__ bool done() const { return index() >= params_.num_tiles; }
  __device__ __forceinline__ void advance() { ++round_; }

  __device__ __forceinline__ WorkTile tile() const {
    const int index = this->index();
    int q_tile, flat_head;
    if (params_.causal) {
      const int section = params_.section_tiles.quotient(index);
      const int in_section = params_.section_tiles.remainder(index, section);
      const FastDivisor& heads = section == params_.last_section ? params_.last_section_heads : params_.section_heads;
      const int step = heads.quotient(in_section);
      q_tile = static_cast<int>(params_.q_tiles.divisor) - 1 - step;
      flat_head = section * static_cast<int>(params_.section_heads.divisor) + heads.remainder(in_section, step);
    } else {
      flat_head = params_.q_tiles.quotient(index);
      q_tile = params_.q_tiles.remainder(index, flat_head);
    }
    const int batch = params_.heads.quotient(flat_head);
    return {q_tile, params_.heads.remainder(flat_head, batch), batch};
  }

 private:
  __device__ __forceinline__ int index() const {
    const int blocks = static_cast<int>(gridDim.x), block = static_cast<int>(blockIdx.x);
    return round_ * blocks + (round_ % 2 == 0 ? block : blocks - 1 - block);
  }

  const ForwardParams& params_;
  int round_ = 0;
};

/// Number of keys that rows [0, row] see at most, i.e. what query `row` sees.
__device__ __forceinline__ int visible_keys(const ForwardParams& params, int row) {
  return max(0, min(params.len_kv, row + params.causal_limit));
}

/// Key tiles of `rows` query rows from first_row on: [0, full_end) are seen by every row, [full_end, end) need the mask, the rest is seen by none.
struct KeyTiles {
  int full_end;
  int end;
};

template <int kTileKv>
__device__ __forceinline__ KeyTiles key_tiles(const ForwardParams& params, int first_row, int rows) {
  const int last_row = min(first_row + rows, params.len_q) - 1;
  if (last_row < first_row) {
    return {0, 0};
  }
  return {visible_keys(params, first_row) / kTileKv, (visible_keys(params, last_row) + kTileKv - 1) / kTileKv};
}

/// Position in a ring of kStages buffers, in one register: the number of buffers gone by.
template <int kStages>
class RingCursor {
  static_assert(kStages == 1 || kStages == 2 || kStages == 4, "a power of two");

 public:
  __device__ __forceinline__ int stage() const { return static_cast<int>(count_ % kStages); }
  /// Parity of the barrier phase that the ring's current round completes.
  __device__ __forceinline__ uint32_t phase() const { return count_ / kStages % 2; }
  __device__ __forceinline__ void advance() { ++count_; }

 private:
  uint32_t count_ = 0;
};

}  // namespace fa::sm90
