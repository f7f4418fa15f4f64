// Which tile of which head a block computes: the order of attention/tile_order.h with the divisions prepared by the host. A block begins and ends with them,
// and five divisions by numbers it is not told in advance take about as long as a sixth of a tile.
#pragma once

#include <cstdint>

#include "attention/fast_divisor.h"
#include "attention/tile_order.h"

namespace fa::sm80 {

class BlockOrder {
 public:
  struct Work {
    int tile;
    int batch;
    int head;       ///< of the batch entry
    int all_heads;  ///< batch * heads + head
  };

  BlockOrder() = default;
  /// section_heads: heads worked on at a time; last_first: the tile with the largest index is the longest.
  BlockOrder(int64_t tiles, int64_t batch, int64_t heads, int64_t section_heads, bool last_first = false)
      : num_tiles(static_cast<int>(tiles)), num_heads(static_cast<int>(batch * heads)), last_first_(last_first) {
    if (batch * heads == 0 || tiles == 0) return;  // no blocks
    section_heads_ = FastDivisor(section_heads);
    section_blocks_ = FastDivisor(section_heads * tiles);
    last_section_ = static_cast<int>((batch * heads - 1) / section_heads);
    last_section_heads_ = FastDivisor(batch * heads - last_section_ * section_heads);
    heads_ = FastDivisor(heads);
  }

#if defined(__CUDACC__) || defined(FA_EMULATOR)
  __device__ __forceinline__ Work work(int block) const {
    const int section = section_blocks_.quotient(block), rest = section_blocks_.remainder(block, section);
    const FastDivisor& heads_here = section == last_section_ ? last_section_heads_ : section_heads_;
    const int step = heads_here.quotient(rest);
    const int all_heads = section * static_cast<int>(section_heads_.divisor) + heads_here.remainder(rest, step);
    const int batch = heads_.quotient(all_heads);
    return {last_first_ ? num_tiles - 1 - step : step, batch, heads_.remainder(all_heads, batch), all_heads};
  }
#endif

  int num_tiles = 0;  ///< row tiles of one head
  int num_heads = 0;  ///< heads of all batches

 private:
  FastDivisor section_blocks_, section_heads_, last_section_heads_, heads_;
  int last_section_ = 0;
  bool last_first_ = false;
};

}  // namespace fa::sm80
