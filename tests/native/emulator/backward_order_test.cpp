// What the blocks of the Hopper backward kernel do for each other (plan/sm90_backward_order.h): nobody may wait for a block that is launched later, and each
// piece of grad_q has exactly one that rounds it, and where they are cleared one that clears it.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <random>
#include <vector>

#include "attention/tile_order.h"
#include "plan/sm90_backward_modified.h"
#include "plan/sm90_backward_tiles.h"

namespace fa_test {
namespace {

using fa::Problem;
using fa::Sm90BackwardOrder;
using fa::Sm90BackwardTile;
using fa::TileOrder;

struct Case {
  Sm90BackwardTile tile{};
  Problem problem{};
  int64_t key_tiles = 0, key_heads = 0;

  int64_t blocks() const { return key_tiles * key_heads; }
};

Case random_case(std::mt19937& random) {
  const auto pick = [&](int low, int high) { return std::uniform_int_distribution<int>(low, high)(random); };
  const auto length = [&] { return pick(1, pick(0, 1) == 0 ? 400 : 9000); };
  Case c;
  c.tile.head_dim = pick(0, 1) == 0 ? 64 : 128;
  c.tile.tile_q = c.tile.head_dim == 64 ? 128 : 64;
  c.tile.first_tile_stores = true;
  c.tile.deterministic = pick(0, 2) == 0;
  c.tile.finishes_earlier_heads = pick(0, 3) > 0;
  c.tile.adds_in_bulk = c.tile.finishes_earlier_heads && pick(0, 1) == 0;
  c.problem.batch = pick(1, 20);
  c.problem.heads_kv = pick(1, 20);
  c.problem.heads_q = c.problem.heads_kv * pick(1, 4);
  c.problem.len_q = length();
  c.problem.len_kv = length();
  c.problem.head_dim = c.problem.head_dim_v = c.tile.head_dim;
  c.problem.mask = pick(0, 1) == 0 ? fa::Mask::kNone : fa::Mask::kCausalTopLeft;
  c.key_tiles = (c.problem.len_kv + c.tile.tile_kv() - 1) / c.tile.tile_kv();
  c.key_heads = c.problem.batch * c.problem.heads_kv;
  return c;
}

TEST(BackwardOrder, NobodyWaitsForALaterBlock) {
  std::mt19937 random(20261123);
  int64_t finished = 0, cleared = 0;
  for (int i = 0; i < 3000; ++i) {
    const Case c = random_case(random);
    const Sm90BackwardOrder order = fa::sm90_backward_order(c.tile, c.problem);
    ASSERT_TRUE(order.section_heads >= 1 && order.section_heads <= c.key_heads);
    const bool turns = c.tile.from_last_key_tile();
    const TileOrder launch{.num_tiles = static_cast<int>(c.key_tiles),
                           .num_heads = static_cast<int>(c.key_heads),
                           .section_heads = static_cast<int>(order.section_heads),
                           .last_first = turns};
    std::vector<int64_t> last_of_head(c.key_heads), pieces(c.key_heads), cleared_pieces(c.key_heads), tiles_seen(c.key_heads);
    const int64_t distance = c.key_heads - order.finished_heads;
    std::vector<bool> first_tile_seen(c.key_heads);
    for (int64_t block = 0; block < c.blocks(); ++block) {
      const TileOrder::Work work = launch.work(static_cast<int>(block));
      first_tile_seen[work.head] = first_tile_seen[work.head] || work.tile == 0;
      if (turns) {
        ASSERT_EQ(work.tile, c.key_tiles - 1 - tiles_seen[work.head]++) << "each key tile adds behind the next one, and is launched behind it";
      } else {
        ASSERT_TRUE(first_tile_seen[work.head]) << "the first key tile stores, and is launched before those that add";
      }
      last_of_head[work.head] = block;
      if (c.tile.clears_later_heads() && work.head >= distance) {
        ASSERT_EQ(cleared_pieces[work.head], c.key_tiles) << "blocks launched before have cleared the head";
      }
      if (const int64_t later = work.head + distance; c.tile.clears_later_heads() && later < c.key_heads) {
        ++cleared_pieces[later];
        ++cleared;
      }
      const int64_t earlier = work.head - distance;
      if (earlier >= 0) {
        ++pieces[earlier];
        ASSERT_LT(last_of_head[earlier], block) << "all key tiles of that head have been launched by then";
        ASSERT_EQ(launch.work(static_cast<int>(last_of_head[earlier])).tile, turns ? 0 : c.key_tiles - 1);
        ++finished;
      }
    }
    for (int64_t head = 0; head < c.key_heads; ++head) {
      ASSERT_EQ(pieces[head], head < order.finished_heads ? c.key_tiles : 0) << "head " << head << " of " << c.key_heads;
    }
    const fa::Sm90BackwardWorkspace workspace = fa::sm90_backward_workspace(c.tile, c.problem);
    ASSERT_EQ(workspace.num_counters, (turns ? c.blocks() * c.tile.adders() : c.problem.batch * c.problem.heads_q) + c.key_heads);
  }
  EXPECT_GT(finished, 100000);
  EXPECT_GT(cleared, 30000);
}

/// 32 heads of 64 key tiles, of which three fit half the cache: sections of three would leave two heads over.
TEST(BackwardOrder, SectionsAreLevelUnderTheCausalMask) {
  for (const auto& [heads, fitting, expected] : {std::array<int64_t, 3>{32, 3, 4}, {64, 6, 8}, {128, 12, 16}, {16, 1, 1}, {31, 6, 8}, {5, 5, 5}, {1, 1, 1}}) {
    EXPECT_EQ(fa::sm90_level_section(heads, fitting), expected) << heads << " heads, " << fitting << " fit";
  }
}

/// Key heads side by side of 16384 queries and heads of 2048 columns in all, without a mask and causal; tile without its size.
void expect_heads_side_by_side(Sm90BackwardTile tile, int64_t dim, int64_t length, int64_t full, int64_t causal) {
  tile.head_dim = static_cast<int>(dim);
  tile.tile_q = static_cast<int>(8192 / dim);
  Problem problem{};
  problem.batch = 16384 / length;
  problem.heads_q = problem.heads_kv = 2048 / dim;
  problem.len_q = problem.len_kv = length;
  problem.head_dim = problem.head_dim_v = dim;
  EXPECT_EQ(fa::sm90_backward_order(tile, problem).section_heads, full) << length;
  problem.mask = fa::Mask::kCausalTopLeft;
  EXPECT_EQ(fa::sm90_backward_order(tile, problem).section_heads, causal) << length;
}

/// In deterministic mode.
TEST(BackwardOrder, HeadsSideBySideInTurns) {
  for (const auto& [dim, length, full, causal] : {std::array<int64_t, 4>{128, 512, 32, 32},
                                                  {128, 1024, 25, 16},
                                                  {128, 2048, 12, 16},
                                                  {128, 16384, 6, 2},
                                                  {64, 512, 64, 64},
                                                  {64, 1024, 50, 32},
                                                  {64, 2048, 25, 32},
                                                  {64, 16384, 6, 4}}) {
    Sm90BackwardTile tile{};
    tile.deterministic = tile.first_tile_stores = true;
    expect_heads_side_by_side(tile, dim, length, full, causal);
  }
}

/// Adding in bulk: as share the cache, without a mask six at least.
TEST(BackwardOrder, HeadsSideBySideInTurnsInBulk) {
  Sm90BackwardTile tile{};
  tile.deterministic = tile.first_tile_stores = tile.finishes_earlier_heads = tile.adds_in_bulk = true;
  for (const auto& [dim, length, full, causal] : {std::array<int64_t, 4>{128, 2048, 12, 12},
                                                  {128, 4096, 6, 6},
                                                  {128, 8192, 6, 3},
                                                  {128, 16384, 6, 1},
                                                  {64, 2048, 25, 25},
                                                  {64, 8192, 6, 6},
                                                  {64, 16384, 6, 3}}) {
    expect_heads_side_by_side(tile, dim, length, full, causal);
  }
  tile.head_dim = 128;
  tile.tile_q = 64;
  for (const auto& [dim, heads] : {std::array<int64_t, 2>{96, 21}, {120, 17}, {120, 16}, {88, 23}}) {
    Problem problem{};
    problem.batch = 1;
    problem.heads_q = problem.heads_kv = heads;
    problem.len_q = problem.len_kv = 16384;
    problem.head_dim = problem.head_dim_v = dim;
    const Sm90BackwardOrder full = fa::sm90_backward_order(tile, problem);
    EXPECT_TRUE(full.section_heads == 6 && full.finished_heads == heads - 12) << heads << " heads of " << dim;
    problem.mask = fa::Mask::kCausalTopLeft;
    const Sm90BackwardOrder causal = fa::sm90_backward_order(tile, problem);
    EXPECT_TRUE(causal.section_heads == 1 && causal.finished_heads == heads - 3) << heads << " heads of " << dim;
  }
}

/// In any order: up to 16 key tiles as many heads as are resident with all their tiles, three quarters at head_dim 128 where they are four; beyond, as
/// share the cache, at head_dim 128 with a level last section under the causal mask.
TEST(BackwardOrder, HeadsSideBySideInAnyOrder) {
  for (const auto& [dim, length, full, causal] : {std::array<int64_t, 4>{128, 512, 24, 24},
                                                  {128, 1024, 16, 16},
                                                  {128, 2048, 8, 8},
                                                  {128, 4096, 6, 8},
                                                  {128, 16384, 1, 1},
                                                  {64, 512, 33, 33},
                                                  {64, 1024, 16, 16},
                                                  {64, 2048, 8, 8},
                                                  {64, 4096, 12, 12},
                                                  {64, 8192, 6, 6},
                                                  {64, 16384, 3, 3}}) {
    Sm90BackwardTile tile{};
    tile.first_tile_stores = tile.finishes_earlier_heads = true;
    expect_heads_side_by_side(tile, dim, length, full, causal);
  }
}

Problem modified_problem(int64_t batch, int64_t heads, int64_t length) {
  Problem problem{};
  problem.batch = batch;
  problem.heads_q = problem.heads_kv = heads;
  problem.len_q = problem.len_kv = length;
  problem.head_dim = problem.head_dim_v = 128;
  return problem;
}

/// Key heads side by side in the kernel with modified scores, and whether it finishes them itself: with four sections and more.
TEST(BackwardOrder, HeadsSideBySideWithModifiedScores) {
  const fa::Sm90ModifiedBackwardTile& tile = fa::kSm90ModifiedBackwardTiles[1];
  const auto expect = [&](const Problem& problem, int64_t section, bool finishes) {
    EXPECT_EQ(fa::sm90_modified_section_heads(tile, problem), section) << problem.len_q << ", batch " << problem.batch;
    EXPECT_EQ(fa::sm90_modified_finish_inside(tile, problem), finishes) << problem.len_q << ", batch " << problem.batch;
  };
  expect(modified_problem(2, 16, 8192), 4, true);   // three fit the cache and fill the multiprocessors, and would leave a last section of two
  expect(modified_problem(1, 9, 12288), 2, true);   // three would leave none over, but would also be too few sections to finish heads in
  expect(modified_problem(1, 8, 8192), 4, false);   // too few heads for either
  expect(modified_problem(1, 16, 65536), 1, true);  // the cache holds less than one
  expect(modified_problem(2, 16, 512), 32, false);  // all of them do not fill the multiprocessors
  expect(modified_problem(2, 16, 0), 32, false);
  Problem sequences = modified_problem(1, 16, 65536);
  sequences.variants.sequences = {.given = true, .packed = true, .count = 65, .max_len_q = 16384, .max_len_kv = 16384};
  expect(sequences, 2, false);  // the cache holds one of the longest
  sequences.variants.sequences.max_len_q = 1024;
  expect(sequences, 16, false);
}

TEST(BackwardOrder, LevelSectionsLeaveGradQToTheMainKernelWhereOthersWould) {
  std::mt19937 random(20261125);
  const auto pick = [&](int low, int high) { return std::uniform_int_distribution<int>(low, high)(random); };
  int finished = 0;
  for (int i = 0; i < 20000; ++i) {
    const fa::Sm90ModifiedBackwardTile& tile = fa::kSm90ModifiedBackwardTiles[i % 2];
    Problem problem = modified_problem(pick(1, 8), pick(1, 40), pick(1, 20000));
    problem.head_dim = problem.head_dim_v = tile.head_dim;
    const int64_t heads = problem.batch * problem.heads_kv, section = fa::sm90_modified_section_heads(tile, problem);
    ASSERT_TRUE(section >= 1 && section <= heads);
    const fa::Sm90ModifiedBackwardWorkspace workspace = fa::sm90_modified_backward_workspace(tile, problem);
    const int64_t head_bytes = problem.len_q * (4 * problem.head_dim + 4 * tile.head_dim);
    const int64_t fitting = std::max<int64_t>((int64_t{50} << 20) / 2 / head_bytes, 1), filling = (132 + workspace.key_tiles - 1) / workspace.key_tiles;
    const int64_t least = std::min({fitting, filling, heads});
    ASSERT_TRUE(section >= least && section <= 2 * least);
    ASSERT_EQ(fa::sm90_modified_finish_inside(tile, problem), heads >= fa::kSm90ModifiedSectionsToFinish * least);
    finished += heads >= fa::kSm90ModifiedSectionsToFinish * least ? 1 : 0;
  }
  EXPECT_TRUE(finished > 2000 && finished < 18000) << finished;
}

}  // namespace
}  // namespace fa_test
