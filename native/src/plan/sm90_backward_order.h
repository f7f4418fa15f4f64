// In which order the blocks of the Hopper backward kernels work, and what they do for each other. Nothing but speed depends on it.
#pragma once

#include <algorithm>
#include <cstdint>

#include "plan/problem.h"
#include "plan/sm90_backward_tile.h"

namespace fa {

/// Blocks that run at a time, one per multiprocessor.
inline constexpr int64_t kSm90ResidentBlocks = 132;
/// Where a head's key tiles follow each other at a step or two through the same query tiles, one head alone does not keep all multiprocessors busy once its
/// tiles become short; so many side by side do.
inline constexpr int64_t kSm90StaggeredHeads = 8;
/// Quarters of a step by which a block of the deterministic kernel lags behind the one for which it waits, where it adds from registers. In bulk it lags less
/// than any number of heads that share the cache would make it wait.
inline constexpr int64_t kSm90TurnQuarterSteps = 9;
/// Without a mask, so many heads side by side in deterministic mode at least: fewer key tiles of one head lag behind each other at a time, and read its query
/// tiles at nearly the same time.
inline constexpr int64_t kSm90UnmaskedTurnHeads = 6;
/// Sections between a head and the blocks that round its grad_q. In turns under the causal mask the longest tiles of a head are its last, and not done when
/// blocks of a step or two, two sections behind, would wait for them.
inline constexpr int64_t kSm90FinishSections = 2;
inline constexpr int64_t kSm90CausalTurnFinishSections = 3;
/// Heads of so few key tiles do not wait for each other long enough to need as many side by side as the cache holds, and are faster from it (README.md
/// of the kernel, deterministic mode).
inline constexpr int64_t kSm90ShortKeyTiles = 4;
inline constexpr int64_t kSm90ShortCausalKeyTiles = 8;
/// In any order: up to so many key tiles, all of a head's are resident at once, and of several heads beside each other.
inline constexpr int64_t kSm90ResidentKeyTiles = 16;
/// What the query tiles of heads that are worked on side by side stream through L2 should fit half of.
inline constexpr int64_t kSm90CacheBytes = int64_t{50} << 20;

struct Sm90BackwardOrder {
  int64_t section_heads;   ///< key heads whose blocks are launched side by side
  int64_t finished_heads;  ///< key heads, the first, whose grad_q other blocks of the main kernel round, those of heads two or three sections behind
};

/// Key heads worked on side by side under the causal mask, of which `fitting` share the cache. A last section of fewer heads would begin with its longest tiles
/// when little is left to do beside them: up to twice as many heads as fit, so that it lacks the fewest.
inline int64_t sm90_level_section(int64_t num_heads, int64_t fitting) {
  const auto missing = [&](int64_t section) { return (section - num_heads % section) % section; };
  int64_t best = fitting;
  for (int64_t section = fitting + 1; section <= std::min(2 * fitting, num_heads); ++section) {
    best = missing(section) < missing(best) ? section : best;
  }
  return best;
}

/// section_heads.
inline int64_t sm90_backward_section_heads(const Sm90BackwardTile& tile, const Problem& problem) {
  const int64_t key_heads = std::max<int64_t>(problem.batch * problem.heads_kv, 1);
  const int64_t steps = std::max<int64_t>(problem.group_size() * ((problem.len_q + tile.tile_q - 1) / tile.tile_q), 1);
  int64_t wanted = 1;
  if (tile.from_last_key_tile()) {
    // From registers, where key tiles see the same query tiles, each follows the one behind it at a distance of kSm90TurnQuarterSteps: so many heads that a
    // head's last one waits for no longer than its own steps take.
    wanted = tile.turns_in_bulk() ? 1 : (kSm90ResidentBlocks * kSm90TurnQuarterSteps / 4 + steps - 1) / steps;
    wanted = problem.is_causal() ? wanted : std::max(wanted, kSm90UnmaskedTurnHeads);
  } else if (tile.deterministic) {
    // So many that no more key tiles of a head run side by side than it has steps to be staggered by.
    wanted = kSm90ResidentBlocks / tile.blocks_per_tile() / steps;
  }
  if ((tile.deterministic && tile.is_wide()) || (problem.is_causal() && tile.is_wide())) {
    wanted = std::max(wanted, kSm90StaggeredHeads);
  }
  const int64_t head_bytes = problem.len_q * (2 * (problem.head_dim + problem.head_dim_v) + 4 * tile.head_dim) * problem.group_size();
  const int64_t fitting = std::clamp<int64_t>(head_bytes > 0 ? kSm90CacheBytes / 2 / head_bytes : key_heads, 1, key_heads);
  // At head_dim 64, and in turns in bulk, a larger share of the cache costs more than a level last section gains.
  const bool level = problem.is_causal() && (tile.deterministic ? !tile.turns_in_bulk() : tile.head_dim > 64);
  wanted = std::max(wanted, level ? sm90_level_section(key_heads, fitting) : fitting);
  const int64_t key_tiles = std::max<int64_t>((problem.len_kv + tile.tile_kv() - 1) / tile.tile_kv(), 1);
  if (tile.from_last_key_tile() && key_tiles <= (problem.is_causal() ? kSm90ShortCausalKeyTiles : kSm90ShortKeyTiles)) {
    // About as many heads as fill the multiprocessors with all their key tiles, at head_dim 64, with half as many steps, twice as many.
    wanted = std::min(wanted, sm90_level_section(key_heads, kSm90ResidentBlocks * 3 / 4 / key_tiles * (tile.tile_q / 64)));
  } else if (tile.finishes_earlier_heads && !tile.deterministic && key_tiles <= kSm90ResidentKeyTiles && steps >= kSm90ShortKeyTiles) {
    // More heads than fill the multiprocessors with all their key tiles only take cache, and leave more to the pass behind. Where heads are shortest, three
    // quarters.
    const int64_t filling = kSm90ResidentBlocks / key_tiles;
    wanted = std::min(wanted, key_tiles <= kSm90ShortKeyTiles && tile.tile_q == 64 ? filling * 3 / 4 : filling);
  }
  return std::clamp<int64_t>(wanted, 1, key_heads);
}

inline Sm90BackwardOrder sm90_backward_order(const Sm90BackwardTile& tile, const Problem& problem) {
  Sm90BackwardOrder order{};
  const int64_t key_tiles = (problem.len_kv + tile.tile_kv() - 1) / tile.tile_kv(), key_heads = problem.batch * problem.heads_kv;
  order.section_heads = sm90_backward_section_heads(tile, problem);
  const int64_t unfinished = order.section_heads * (problem.is_causal() && tile.turns_in_bulk() ? kSm90CausalTurnFinishSections : kSm90FinishSections);
  order.finished_heads = tile.finishes_earlier_heads && problem.len_q > 0 && key_tiles > 0 ? std::max<int64_t>(key_heads - unfinished, 0) : 0;
  return order;
}

}  // namespace fa
