// Which query tiles a team of consumers works on, in which order, and which key tiles each needs.
//
// Without a mask every tile is the same work: the grid is one block per multiprocessor, tiles of one head follow each other so that its keys stay in L2.
// With a causal mask the tiles of a head differ. Where the numbers allow it, they go out in pairs of equal work, tile i of n with tile n - 1 - i. Otherwise
// sections of heads whose keys and values fit L2 together are taken one after the other: long problems launch one block per tile, longest first, and leave the
// balance to the hardware's block scheduler; short ones run persistent blocks that go through the order back and forth, so that a block which had the longer
// tile of one round has the shorter one of the next. Within a section the longest tiles come first, or, for the shortest problems, which are limited by memory,
// the tiles of a head follow each other: blocks beside each other then read the same keys at the same time. Their last section, which need not be a whole
// number of rounds, is longest first again. The number of query rows need not be a multiple of the tile: with a causal mask it is the first tile that is not
// full, since it is the shortest.
#pragma once

#include "kernels/sm90/forward/params.h"

namespace fa::sm90 {

struct WorkTile {
  int first_row;  ///< -64 or -128 where a head's first tile is not full
  int head;
  int batch;
};

/// What the producer says of a work tile, through shared memory and the barrier of its q tile. block_end: the number of key tiles that some row of it sees, or
/// kNoMoreWork after the last work tile.
inline constexpr int kNoMoreWork = -1;
__device__ __forceinline__ int4 work_message(const WorkTile& tile, int block_end) {
  return make_int4(tile.first_row, tile.head, tile.batch, block_end);
}

/// The tiles of this block, one after the other.
template <typename Config>
class WorkIterator {
 public:
  __device__ __forceinline__ WorkIterator(const ForwardParams& params, int team) : params_(params), team_(team) {}

  __device__ __forceinline__ bool done() const { return unit() >= params_.num_units; }
  __device__ __forceinline__ void advance() { ++count_; }

  __device__ __forceinline__ WorkTile tile() const {
    const int unit = this->unit();
    int q_tile, flat_head;
    if (params_.sections) {
      const int section = min(params_.section_tiles.quotient(unit), params_.last_section);
      const int in_section = unit - section * static_cast<int>(params_.section_tiles.divisor);
      int head, step;
      if (params_.adjacent_tiles && section < params_.last_section) {
        head = params_.units_of_head.quotient(in_section);
        step = params_.units_of_head.remainder(in_section, head);
      } else {
        const FastDivisor& heads = section == params_.last_section ? params_.last_section_heads : params_.section_heads;
        step = heads.quotient(in_section);
        head = heads.remainder(in_section, step);
      }
      q_tile = params_.q_tiles - 1 - step;
      flat_head = section * static_cast<int>(params_.section_heads.divisor) + head;
    } else {
      flat_head = params_.units_of_head.quotient(unit);
      const int group = params_.units_of_head.remainder(unit, flat_head);
      const bool second_of_pair = (count_ & params_.unit_shift) != 0;
      q_tile = second_of_pair ? params_.q_tiles - 1 - group : group;
    }
    const int batch = params_.heads.quotient(flat_head);
    return {q_tile * Config::kTileQ + params_.first_row, params_.heads.remainder(flat_head, batch), batch};
  }

 private:
  /// Teams of the same number follow each other, so that a small problem takes all multiprocessors before it takes second teams.
  __device__ __forceinline__ int unit() const {
    const int workers = Config::kTeams * static_cast<int>(gridDim.x);
    const int worker = (Config::kTeams > 1 ? team_ * static_cast<int>(gridDim.x) : 0) + static_cast<int>(blockIdx.x);
    const int round = count_ >> params_.unit_shift;
    return round * workers + (round % 2 == 0 ? worker : workers - 1 - worker);
  }

  const ForwardParams& params_;
  const int team_;
  int count_ = 0;  ///< tiles gone by
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
