// In which order thread blocks take up (row tile, head) pairs. Heads are worked on in sections whose keys and values fit into the second-level cache
// together; within a section all heads advance tile by tile, the longest tiles first, so that the short ones fill the gaps at the end.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define FA_HOST_DEVICE __host__ __device__
#else
#define FA_HOST_DEVICE
#endif

namespace fa {

struct TileOrder {
  int num_tiles = 0;        ///< row tiles of one head
  int num_heads = 0;        ///< heads of all batches
  int section_heads = 1;    ///< heads worked on at a time
  bool last_first = false;  ///< tiles in descending order: where the last is the longest, or the first one waits for those behind it

  struct Work {
    int tile;
    int head;  ///< batch * heads + head
  };

  FA_HOST_DEVICE Work work(int block) const {
    const int section_blocks = section_heads * num_tiles;
    const int section = block / section_blocks;
    const int rest = block - section * section_blocks;
    const int first_head = section * section_heads;
    const int heads_left = num_heads - first_head;
    const int heads_here = heads_left < section_heads ? heads_left : section_heads;
    const int step = rest / heads_here;
    return {last_first ? num_tiles - 1 - step : step, first_head + rest - step * heads_here};
  }

  /// Heads whose keys and values (bytes_per_head each) fill about half the cache.
  static int choose_section(int64_t num_heads, int64_t bytes_per_head, int64_t cache_bytes) {
    const int64_t fitting = bytes_per_head > 0 ? cache_bytes / 2 / bytes_per_head : num_heads;
    const int64_t section = fitting < 1 ? 1 : fitting;
    return static_cast<int>(section < num_heads ? section : num_heads);
  }

  /// Heads per section such that all sections are equal, to one head, and near the size wanted. A last section of a few heads would begin with its longest
  /// tiles when nothing is left to fill the multiprocessors beside them.
  static int even_section(int64_t num_heads, int64_t wanted) {
    const int64_t sections = wanted > 0 ? (num_heads + wanted / 2) / wanted : num_heads;
    return static_cast<int>(sections > 1 ? (num_heads + sections - 1) / sections : num_heads);
  }
};

}  // namespace fa
