// The last, partial round of query tiles of a Hopper forward problem without a mask, shared by all blocks along the keys. Host and device agree through these
// functions.
#pragma once

#include <algorithm>
#include <cstdint>

namespace fa {

/// Persistent blocks take whole query tiles in rounds; what is left over, `tiles` of key_tiles steps each, is one row of tiles * key_tiles steps, of which
/// block b works on [begin(b), begin(b + 1)): parts of one or two neighbouring tiles. The parts of a tile leave their state in the workspace, and the last one
/// to come joins them.
struct Sm90SharedRound {
  int tiles = 0;  ///< 0: the last round is not shared
  int key_tiles = 1;
  int sharers = 1;      ///< blocks 0 ... sharers - 1 take part
  int min_steps = 1;    ///< of a part
  int saved_steps = 0;  ///< about, of those that the round would take

  /// No part has fewer keys: a part costs about 200 more for its beginning and end.
  static constexpr int kMinKeys = 512;
  /// Parts of a tile at most (two of them may be short), so that joining them takes no longer than what sharing saves.
  static constexpr int kMaxSharersPerTile = 4;
  /// Keys' worth of time that it takes: one more beginning and end, and joining.
  static constexpr int kOverheadKeys = 1088;

  constexpr int steps() const { return tiles * key_tiles; }

  /// Shares as equal as steps are, but that no part is short: the first step of a block. by_sharers, by_key_tiles: divide by these.
  template <typename BySharers, typename ByKeyTiles>
  constexpr int begin(int block, const BySharers& by_sharers, const ByKeyTiles& by_key_tiles) const {
    const int step = by_sharers(block * steps()), in_tile = step - by_key_tiles(step) * key_tiles;
    return in_tile < min_steps ? step - in_tile : key_tiles - in_tile < min_steps ? step - in_tile + key_tiles : step;
  }

  /// The first block that works on a tile, and the one behind the last. begin(b): the first step of block b, as above; block: one of those.
  struct Blocks {
    int begin;
    int end;
  };
  template <typename Begin>
  static constexpr Blocks blocks_around(int block, int tile_begin, int tile_end, const Begin& begin) {
    Blocks blocks = {block, block + 1};
    while (begin(blocks.begin) > tile_begin) {
      --blocks.begin;
    }
    while (begin(blocks.end) < tile_end) {
      ++blocks.end;
    }
    return blocks;
  }

  /// Place of a part in the workspace, in the order of the steps: from part to part the block grows or the tile does.
  static constexpr int slot(int block, int tile) { return block + tile; }
  constexpr int slots() const { return tiles > 0 ? sharers + tiles - 1 : 0; }
};

/// How so many tiles of key_tiles steps of tile_kv keys are worked on by persistent blocks: the last round is shared where that saves 1 in 200 of all steps.
inline Sm90SharedRound sm90_shared_round(int64_t tiles, int64_t key_tiles, int64_t tile_kv, int64_t blocks) {
  if (tiles <= blocks || key_tiles * blocks >= (int64_t{1} << 31) / blocks) {  // products are 32-bit
    return {};
  }
  const int64_t left_over = tiles % blocks, min_steps = std::max<int64_t>(Sm90SharedRound::kMinKeys / tile_kv, 1);
  const int64_t sharers = std::min({blocks, left_over * Sm90SharedRound::kMaxSharersPerTile, left_over * key_tiles / (2 * min_steps)});
  if (sharers <= left_over) {
    return {};
  }
  const int64_t share = (left_over * key_tiles + sharers - 1) / sharers, saved = key_tiles - share - Sm90SharedRound::kOverheadKeys / tile_kv;
  if (saved * 200 < (tiles / blocks + 1) * key_tiles) {
    return {};
  }
  return {static_cast<int>(left_over), static_cast<int>(key_tiles), static_cast<int>(sharers), static_cast<int>(min_steps), static_cast<int>(saved)};
}

/// In the workspace: a slot for the state of each part, then a counter for each tile and consumer warp.
struct Sm90SharedRoundLayout {
  uint64_t slot_bytes;  ///< O, and of each thread two references and two sums
  uint64_t counters_offset;
  uint64_t counters_bytes;
  uint64_t total_bytes;
};
inline Sm90SharedRoundLayout sm90_shared_round_layout(const Sm90SharedRound& round, int warpgroups, int head_dim) {
  const uint64_t threads = 128u * static_cast<uint64_t>(warpgroups);
  const uint64_t slot_bytes = threads * (static_cast<uint64_t>(head_dim) / 2 + 4) * 4;
  const uint64_t counters_offset = static_cast<uint64_t>(round.slots()) * slot_bytes, counters_bytes = static_cast<uint64_t>(round.tiles) * (threads / 32) * 4;
  return {slot_bytes, counters_offset, counters_bytes, counters_offset + counters_bytes};
}

}  // namespace fa
