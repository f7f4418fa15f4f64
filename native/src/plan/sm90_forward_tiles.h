// The tile configurations of the Hopper forward kernel: what the planner chooses from and what the kernel is instantiated for. Resource arithmetic and
// measurements: src/kernels/sm90/forward/README.md.
#pragma once

#include <algorithm>
#include <climits>
#include <cstdint>
#include <numeric>

#include "plan/problem.h"
#include "plan/sm90_scores.h"
#include "plan/sm90_shared_round.h"
#include "plan/visible_tiles.h"

namespace fa {

/// How the running maximum of a row is kept while the unmasked key tiles go by.
enum class Sm90Softmax {
  /// Keep the reference of the first tile and only check that the row sums stay in range; repeat the tile the exact way where they do not. Without variants
  /// and with ranges, long rows follow the maximum where their logits vary much.
  kOptimisticMaximum,
  /// Take the maximum of every tile, but move the reference and rescale the output only when it grew by more than 2^8.
  kLazyRescale,
};

struct Sm90ForwardTile {
  int head_dim;    ///< columns of q, k, v and o in shared memory; smaller head dims are padded with zeros
  int warpgroups;  ///< consumer warpgroups of a team, each with 64 query rows
  int tile_kv;     ///< keys per step
  int stages;      ///< tiles of k and of v in flight, per team
  /// True: two q tiles and a staging tile for o in shared memory; the end of a query tile overlaps with the beginning of the next, and o leaves by TMA.
  /// False, where they do not fit: one q tile, and o is stored from registers.
  bool overlap_tiles;
  Sm90Softmax softmax;
  /// True: the warpgroups of a team issue their products in turns.
  bool ping_pong;
  /// Independent halves of a block, each with its own query tiles, rings and producer warp, so that one's serial stretches (first and last product, epilogue)
  /// meet the other's products.
  int teams = 1;
  /// The longest sequence of keys this tile is meant for.
  int64_t max_len_kv = INT64_MAX;
  /// With a causal mask, the tiles of a head follow each other in persistent blocks (Sm90ForwardOrder) if there are at most so many. If they do not, they are
  /// handed out in pairs of equal work, if there are at least and at most so many; none if 0.
  int max_adjacent_tiles = 0;
  int min_paired_tiles = 0;
  int max_paired_tiles = 0;
  /// Only for causal masks.
  bool causal_only = false;
  /// A tile of a bias travels with each k tile.
  bool staged_bias = false;
  /// Without overlap_tiles: two q tiles all the same, and o is staged in the place of its own q tile.
  bool second_q_tile = false;
  /// As max_adjacent_tiles, where every block gets the same work (sm90_even_blocks).
  int max_even_tiles = 0;
  /// Causal problems of any length run in persistent blocks: of a block for two teams' tiles, one team would wait for the other's longer tile. Beyond
  /// max_adjacent_tiles a head has an even number of query tiles then (sm90_query_tiles), for pairs.
  bool always_persistent = false;
  /// Without a mask, blocks share the last round of query tiles where that pays (plan/sm90_shared_round.h).
  bool shares_last_round = false;
  /// By a kernel of its own: in the other one, the code for it would cost up to 1 % of what it is not used for.
  bool own_sharing_kernel = false;
  /// Key tiles go from the first to the last instead of the last to the first: query tiles of a head that begin at the same time then read the same keys at the
  /// same time, under a causal mask, too.
  bool ascending_keys = false;

  constexpr int tile_q() const { return 64 * warpgroups; }
  /// The consumers and one producer warpgroup.
  constexpr int threads() const { return 128 * (teams * warpgroups + 1); }
  constexpr int consumer_registers() const { return teams * warpgroups == 4 ? 112 : teams * warpgroups == 3 ? 160 : stages == 4 || second_q_tile ? 232 : 240; }
  constexpr int producer_registers() const { return teams * warpgroups >= 3 ? 32 : stages == 4 || second_q_tile ? 40 : 24; }
  /// What the compiler may use before the registers are divided: a multiple of 8, the same for all threads.
  constexpr int entry_registers() const { return 65536 / threads() / 8 * 8; }
  constexpr int64_t q_bytes() const { return int64_t{2} * tile_q() * head_dim; }
  constexpr int64_t kv_tile_bytes() const { return int64_t{2} * tile_kv * head_dim; }
  constexpr int64_t bias_bytes() const { return int64_t{2} * tile_q() * tile_kv; }
  /// Bytes of dynamic shared memory of a team (tiles, then barriers), and of a block.
  constexpr int64_t team_memory_bytes() const {
    return q_bytes() * (overlap_tiles ? 3 : second_q_tile ? 2 : 1) + 2 * stages * kv_tile_bytes() + kBarrierBytes + (staged_bias ? stages * bias_bytes() : 0);
  }
  constexpr int64_t shared_memory_bytes() const { return teams * team_memory_bytes(); }

  /// The barriers need less; sizes are multiples of the 1024 bytes that tiles are aligned to.
  static constexpr int64_t kBarrierBytes = 1024;
};

/// Smallest head_dim first, then shortest sequence: a problem takes the first tile that holds it, but that behind kSm90MediumForwardTile instead of it where
/// sm90_takes_large_tile says so.
inline constexpr Sm90ForwardTile kSm90ForwardTiles[] = {
    {64, 2, 64, 4, true, Sm90Softmax::kOptimisticMaximum, true, 2, 1024, 8, 4, 16, false, false, false, 0, false, false, false, true},
    {64, 3, 128, 2, true, Sm90Softmax::kOptimisticMaximum, true, 1, INT64_MAX, 0, 20, 32, false, false, false, 0, false, true},
    {128, 2, 64, 4, true, Sm90Softmax::kOptimisticMaximum, true, 1, 512, 4, 0, 0, true, false, false, 0, false, false, false, true},
    {128, 2, 128, 2, true, Sm90Softmax::kOptimisticMaximum, true, 1, INT64_MAX, 4, 32, 32},
    {128, 3, 64, 4, false, Sm90Softmax::kOptimisticMaximum, false, 1, INT64_MAX, 4, 0, 0, false, false, true, 0, false, true, true},
    {192, 2, 64, 2, false, Sm90Softmax::kOptimisticMaximum, true, 1, INT64_MAX, 4, 8, 16, false, false, true, 8, false, false, false, true},
    {256, 2, 64, 2, false, Sm90Softmax::kLazyRescale, false, 1, INT64_MAX, 4, 8, 16, false, false, false, 8, false, true, true, true},
};
inline constexpr int kNumSm90ForwardTiles = sizeof(kSm90ForwardTiles) / sizeof(kSm90ForwardTiles[0]);

/// The tiles that are compiled with modified scores (plan/sm90_scores.h): head_dim 192 is padded to 256.
inline constexpr Sm90ForwardTile kSm90ModifiedForwardTiles[] = {
    {64, 3, 128, 2, true, Sm90Softmax::kOptimisticMaximum, true, 1, INT64_MAX, 0, 20, 32},
    {128, 2, 128, 2, true, Sm90Softmax::kOptimisticMaximum, true, 1, INT64_MAX, 4, 32, 32},
    {256, 2, 64, 2, false, Sm90Softmax::kLazyRescale, false, 1, INT64_MAX, 4, 8, 16},
    {128, 2, 128, 2, false, Sm90Softmax::kOptimisticMaximum, true, 1, INT64_MAX, 4, 32, 32, false, true},
    {128, 3, 64, 4, false, Sm90Softmax::kOptimisticMaximum, false, 1, INT64_MAX, 4, 32, 32, false, false, true},
    {64, 2, 64, 4, true, Sm90Softmax::kOptimisticMaximum, true, 2, INT64_MAX, 8, 4, INT_MAX, false, false, false, 0, true},
};
/// For a bias, of which two tiles take the place of the second q tile and of o's.
inline constexpr int kSm90BiasForwardTile = 3;
/// For ranges at head_dim 128, alone.
inline constexpr int kSm90RangeForwardTile = 4;
/// At head_dim 64, so.
inline constexpr int kSm90NarrowRangeForwardTile = 5;
/// Those up to this one are compiled with boolean and block masks.
inline constexpr int kSm90LargestMaskTile = 1;

/// At head_dim 128: two warpgroups with key tiles of 128. The next one has three, with key tiles of 64 and four of them in flight.
inline constexpr int kSm90MediumForwardTile = 3;
static_assert(kSm90ForwardTiles[kSm90MediumForwardTile].head_dim == kSm90ForwardTiles[kSm90MediumForwardTile + 1].head_dim);
/// Without a mask, up to so many keys, that one takes fewer rows in a round to be as fast: rounds may be longer (sm90_takes_large_tile).
inline constexpr int64_t kSm90MaxMediumKeys = 1024;

/// Under a causal mask, whose tiles differ and fill rounds of blocks up, it takes so many rounds of them.
inline constexpr int64_t kSm90MinLargeRounds = 5;

/// Whether and how the blocks of a problem without variants share the last round of query tiles. `blocks`: persistent ones.
inline Sm90SharedRound sm90_shared_round_of(const Problem& problem, const Sm90ForwardTile& tile, int64_t blocks) {
  if (!tile.shares_last_round || problem.mask != Mask::kNone) {
    return {};
  }
  const int64_t q_tiles = (problem.len_q + tile.tile_q() - 1) / tile.tile_q(), key_tiles = (problem.len_kv + tile.tile_kv - 1) / tile.tile_kv;
  return sm90_shared_round(q_tiles * problem.batch * problem.heads_q, key_tiles, tile.tile_kv, blocks);
}

/// Whether a problem takes the tile behind kSm90MediumForwardTile: its steps are 2 to 7 % faster, and so are the ends of its query tiles, but these are larger,
/// so that the last round of blocks may cost more than that (measured: kernels/sm90/forward/README.md, log).
inline bool sm90_takes_large_tile(const Problem& problem, int64_t multiprocessors) {
  const auto tiles = [&](int index) {
    const int64_t rows = kSm90ForwardTiles[index].tile_q();
    return (problem.len_q + rows - 1) / rows * problem.batch * problem.heads_q;
  };
  // With a last round that is shared, as many of a tile's rows as the steps of it are of a whole tile's.
  const auto rows_of_a_block = [&](int index) {
    const int64_t rows = kSm90ForwardTiles[index].tile_q(), rounds = (tiles(index) + multiprocessors - 1) / multiprocessors;
    const Sm90SharedRound shared = sm90_shared_round_of(problem, kSm90ForwardTiles[index], multiprocessors);
    return rounds * rows - shared.saved_steps * rows / shared.key_tiles;
  };
  if (problem.is_causal()) {
    return tiles(kSm90MediumForwardTile + 1) >= kSm90MinLargeRounds * multiprocessors;
  }
  const int64_t keys = problem.len_kv, thousandths = keys > kSm90MaxMediumKeys ? 1052 : keys > 768 ? 1070 : keys > 256 ? 1125 : 0;
  return rows_of_a_block(kSm90MediumForwardTile + 1) * 1000 <= rows_of_a_block(kSm90MediumForwardTile) * thousandths;
}

/// Index of the tile for a problem whose head dims fit the last one.
inline int sm90_forward_tile_of(const Problem& problem, int64_t multiprocessors) {
  const int64_t head_dim = problem.head_dim > problem.head_dim_v ? problem.head_dim : problem.head_dim_v;
  int index = 0;
  while (kSm90ForwardTiles[index].head_dim < head_dim || kSm90ForwardTiles[index].max_len_kv < problem.len_kv ||
         (kSm90ForwardTiles[index].causal_only && !problem.is_causal())) {
    ++index;
  }
  return index == kSm90MediumForwardTile && sm90_takes_large_tile(problem, multiprocessors) ? index + 1 : index;
}

/// The same for a problem that sets variants: an index into kSm90ModifiedForwardTiles.
inline int sm90_modified_forward_tile_of(const Problem& problem) {
  const int64_t head_dim = problem.head_dim > problem.head_dim_v ? problem.head_dim : problem.head_dim_v;
  if (problem.variants.bias && head_dim <= kSm90ModifiedForwardTiles[kSm90BiasForwardTile].head_dim) {
    return kSm90BiasForwardTile;
  }
  if (head_dim <= kSm90ModifiedForwardTiles[kSm90RangeForwardTile].head_dim && (variants_of(problem) & ~kSm90RangeVariants) == 0) {
    return head_dim <= kSm90ModifiedForwardTiles[kSm90NarrowRangeForwardTile].head_dim ? kSm90NarrowRangeForwardTile : kSm90RangeForwardTile;
  }
  return head_dim <= 64 ? 0 : head_dim <= 128 ? 1 : 2;
}

/// Query tiles of a head. With one more than rows need, the first tile lies in front of the first row and costs nothing.
inline int64_t sm90_query_tiles(const Problem& problem, const Sm90ForwardTile& tile) {
  const int64_t tiles = (problem.len_q + tile.tile_q() - 1) / tile.tile_q();
  const bool pairs = tile.always_persistent && problem.is_causal() && !problem.variants.sequences.given && tiles > tile.max_adjacent_tiles;
  return pairs ? (tiles + 1) / 2 * 2 : tiles;
}

/// With a causal mask, heads are worked on in sections whose keys and values take about this much of L2 together.
inline constexpr int64_t kSm90SectionBytes = int64_t{32} << 20;
/// With sequences, those of the longest that there may be; all others of the section are shorter.
inline constexpr int64_t kSm90SequenceSectionBytes = int64_t{16} << 20;
/// Up to so many query tiles per head, a causal problem runs in persistent blocks, if whole rounds of them (below) take no more than this of L2.
inline constexpr int64_t kSm90MaxPersistentTiles = 16;
inline constexpr int64_t kSm90MaxPersistentBytes = int64_t{40} << 20;

/// Bytes of keys and values that one query head reads.
inline int64_t sm90_kv_bytes(const Problem& problem) {
  return problem.len_kv * (problem.head_dim + problem.head_dim_v) * dtype_bytes(problem.dtype);
}

/// The least number of heads whose query tiles are a whole number of rounds of persistent blocks. Going through such a section back and forth gives every block
/// the same work: d=128, length 1024 on 132 multiprocessors runs at 373 TFLOP/s with sections of 122 heads, at 435 with 33.
inline int64_t sm90_whole_rounds(int64_t q_tiles, int64_t blocks) {
  return blocks / std::gcd(blocks, q_tiles);
}

/// From so many query tiles per head on, a causal problem of few heads (at least four blocks for each) runs in persistent blocks again, where the end of a
/// query tile overlaps with the beginning of the next. Nothing else balances there: all heads are one section, and the blocks of a head read its keys together.
inline constexpr int64_t kSm90MinLongTiles = 80;

inline bool sm90_persistent(const Problem& problem, const Sm90ForwardTile& tile, int64_t q_tiles, int64_t workers) {
  if (!problem.is_causal() || tile.always_persistent ||
      (tile.overlap_tiles && q_tiles >= kSm90MinLongTiles && problem.batch * problem.heads_q * 4 <= workers)) {
    return true;
  }
  return q_tiles <= kSm90MaxPersistentTiles && sm90_whole_rounds(q_tiles, workers) * sm90_kv_bytes(problem) <= kSm90MaxPersistentBytes * problem.group_size();
}

/// With adjacent tiles: so many of at most `blocks` persistent blocks that an even number of rounds has a tile for each. Back and forth, tile i of n always
/// comes with tile n - 1 - i then: every block has the same work, and its neighbours the same head. 0 where the numbers are not so, and for two teams per
/// block, which are not limited by memory alone and need every multiprocessor.
inline int64_t sm90_even_blocks(const Sm90ForwardTile& tile, int64_t q_tiles, int64_t all_heads, int64_t blocks) {
  const int64_t units = q_tiles * all_heads, rounds = (units + 2 * blocks - 1) / (2 * blocks) * 2;
  const int64_t even = rounds > 0 && tile.teams == 1 ? units / rounds : 0;
  return even * rounds == units && even % q_tiles == 0 && even * 20 >= blocks * 19 ? even : 0;
}

/// In which order query tiles are worked on; src/kernels/sm90/forward/schedule.cuh.
enum class Sm90ForwardOrder {
  kSequence,  ///< all tiles of a head, then the next head's; without a mask, where all tiles are the same work
  kPairs,     ///< a short and a long tile of one head together, the same work for every worker
  /// Sections of heads, longest tiles first.
  kSections,
  /// Sections of heads; in all but the last the tiles of a head follow each other, so that they run side by side and read its keys at the same time.
  kAdjacentTiles,
  /// Causal windows: of each head the tiles that see as many keys as any, head by head; at last the others of all heads, longest first.
  kShortTilesLast,
};

/// Query tiles at the beginning of a head that see fewer keys than others, since the window of their rows begins in front of the first key. 0 if they are not
/// to come last: with other variants than the kernel knows this order for, and where the keys of all heads' beginnings, which are read at the same time then,
/// take more than L2 while fewer than four blocks share a head's.
inline int64_t sm90_short_tiles(const Problem& problem, const Sm90ForwardTile& tile, int64_t q_tiles, int64_t blocks) {
  const uint32_t variants = variants_of(problem);
  if ((variants & kVariantWindow) == 0 || (variants & ~(kVariantWindow | kVariantSinks)) != 0 || problem.variants.window_right != 0) {
    return 0;
  }
  const int64_t left = problem.variants.window_left < 0 ? problem.len_q : problem.variants.window_left;
  const int64_t offset = problem.bottom_right() ? problem.len_kv - problem.len_q : 0;
  const int64_t rows = std::clamp<int64_t>(std::min(left, problem.len_q) - offset, 0, problem.len_q);
  const int64_t short_tiles = std::min((rows + tile.tile_q() - 1) / tile.tile_q(), q_tiles), all_heads = problem.batch * problem.heads_q;
  const int64_t bytes = std::min(rows + std::max<int64_t>(offset, 0), problem.len_kv) * (problem.head_dim + problem.head_dim_v) * dtype_bytes(problem.dtype);
  return bytes * problem.batch * problem.heads_kv <= kSm90SectionBytes || all_heads * 4 <= blocks ? short_tiles : 0;
}

/// In which order lists of visible tiles are worked on: sections of heads whose keys and values fit L2. A section is section_sharers of the heads that share a
/// plane; only if that is all of them it may be several planes.
struct Sm90MaskOrder {
  int64_t sharers;  ///< heads (over the batch) of a plane
  int64_t section_sharers;
  int64_t planes_per_group;
};
inline Sm90MaskOrder sm90_mask_order(const Problem& problem) {
  const auto largest_divisor = [](int64_t number, int64_t most) {
    int64_t divisor = std::clamp<int64_t>(most, 1, number);
    while (number % divisor != 0) {
      --divisor;
    }
    return divisor;
  };
  const int64_t planes = visible_planes(problem), sharers = problem.batch * problem.heads_q / planes;
  const int64_t fitting = kSm90SectionBytes / std::max<int64_t>(sm90_kv_bytes(problem), 1) * problem.group_size();
  const int64_t section_sharers = largest_divisor(sharers, fitting);
  return {sharers, section_sharers, section_sharers == sharers ? largest_divisor(planes, fitting / sharers) : 1};
}
inline VisibleTilesLayout sm90_mask_layout(const Problem& problem, const Sm90ForwardTile& tile) {
  return visible_tiles_layout(problem, true, tile.tile_q(), sm90_mask_order(problem).planes_per_group);
}

/// A function of the grid alone, so that the planner and the launch agree. `blocks`: persistent ones.
inline Sm90ForwardOrder sm90_forward_order(const Problem& problem, const Sm90ForwardTile& tile, int64_t q_tiles, int64_t blocks) {
  if (!problem.is_causal()) {
    return sm90_short_tiles(problem, tile, q_tiles, blocks) > 0 ? Sm90ForwardOrder::kShortTilesLast : Sm90ForwardOrder::kSequence;
  }
  const int64_t workers = blocks * tile.teams, all_heads = problem.batch * problem.heads_q;
  // Where every worker has at most one tile, or every tile has a block, none follows another.
  const bool adjacent = q_tiles <= tile.max_adjacent_tiles || (q_tiles <= tile.max_even_tiles && sm90_even_blocks(tile, q_tiles, all_heads, blocks) > 0);
  if (adjacent && q_tiles * all_heads > workers && sm90_persistent(problem, tile, q_tiles, workers)) {
    return Sm90ForwardOrder::kAdjacentTiles;
  }
  // Sections are as even in persistent blocks, and better where eight workers or more share the keys of each of a section's heads.
  const bool shared = tile.always_persistent && sm90_whole_rounds(q_tiles, workers) * 8 <= workers;
  if (q_tiles >= tile.min_paired_tiles && q_tiles <= tile.max_paired_tiles && q_tiles % 2 == 0 && !shared) {
    // The last round must be nearly full: 19 of 20 workers busy on average.
    const int64_t units = q_tiles / 2 * all_heads, rounds = (units + workers - 1) / workers;
    if (units * 20 >= rounds * workers * 19) {
      return Sm90ForwardOrder::kPairs;
    }
  }
  return Sm90ForwardOrder::kSections;
}

/// Heads (over the batch too) of a section, for `workers` (teams of all blocks) and q_tiles query tiles per head.
inline int64_t sm90_section_heads(const Problem& problem, Sm90ForwardOrder order, int64_t q_tiles, int64_t workers) {
  const int64_t all_heads = problem.batch * problem.heads_q;
  const int64_t kv_bytes = sm90_kv_bytes(problem);
  int64_t heads = kv_bytes > 0 ? kSm90SectionBytes / kv_bytes * problem.group_size() : all_heads;
  if (workers < q_tiles * all_heads) {
    const int64_t whole_rounds = sm90_whole_rounds(q_tiles, workers);
    heads = order == Sm90ForwardOrder::kAdjacentTiles || heads < whole_rounds ? whole_rounds : heads / whole_rounds * whole_rounds;
  }
  heads = heads < problem.group_size() ? problem.group_size() : heads;
  return heads < all_heads ? heads : all_heads;
}

/// Sections of heads with sequences of different lengths, whose tiles a counter hands out: blocks then need no whole rounds. Only the last section matters for
/// balance, since its longest tiles must not come at the end: it holds what two or more others do.
struct Sm90SequenceSections {
  int64_t heads;
  int64_t last;  ///< number of the last one
  int64_t last_heads;
};
inline Sm90SequenceSections sm90_sequence_sections(const Problem& problem) {
  const int64_t kv_bytes = problem.max_len_kv() * (problem.head_dim + problem.head_dim_v) * dtype_bytes(problem.dtype);
  const int64_t fitting = kSm90SequenceSectionBytes / std::max<int64_t>(kv_bytes, 1) * problem.group_size();
  const int64_t heads = std::clamp(fitting, problem.group_size(), problem.heads_q), last = std::max<int64_t>(problem.heads_q / heads - 2, 0);
  return {heads, last, problem.heads_q - last * heads};
}

}  // namespace fa
