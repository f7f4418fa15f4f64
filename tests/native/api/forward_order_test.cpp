// The order of work that the planner and the launch of the Hopper forward kernel agree on.
#include <gtest/gtest.h>

#include "plan/sm90_forward_tiles.h"

namespace {

constexpr int64_t kWorkers = 132;
constexpr fa::Sm90ForwardTile kTile = fa::kSm90ForwardTiles[3];  // 128 rows

fa::Problem causal_problem(int64_t length) {
  fa::Problem problem;
  problem.mask = fa::Mask::kCausalBottomRight;
  problem.batch = 2;
  problem.heads_q = problem.heads_kv = 16;
  problem.len_q = problem.len_kv = length;
  problem.head_dim = problem.head_dim_v = 128;
  return problem;
}

fa::Sm90ForwardOrder order_of(const fa::Problem& problem) {
  return fa::sm90_forward_order(problem, kTile, problem.len_q / kTile.tile_q(), kWorkers);
}
bool persistent(const fa::Problem& problem) {
  return fa::sm90_persistent(problem, kTile, problem.len_q / kTile.tile_q(), kWorkers);
}

TEST(ForwardOrder, LongCausalProblemsLaunchABlockPerTile) {
  EXPECT_FALSE(persistent(causal_problem(8192)));
  EXPECT_EQ(order_of(causal_problem(8192)), fa::Sm90ForwardOrder::kSections);
}

TEST(ForwardOrder, LongCausalProblemsOfFewHeadsArePersistentAndOneSection) {
  fa::Problem problem = causal_problem(16384);
  EXPECT_TRUE(persistent(problem));
  EXPECT_EQ(order_of(problem), fa::Sm90ForwardOrder::kSections);
  EXPECT_EQ(fa::sm90_section_heads(problem, fa::Sm90ForwardOrder::kSections, 128, kWorkers), 32);
  problem.batch = 3;
  EXPECT_FALSE(persistent(problem));
}

TEST(ForwardOrder, SectionsOfSequencesHoldAllHeads) {
  for (const int64_t heads_kv : {1, 2, 5, 8, 16}) {
    for (const int64_t group : {1, 2, 8}) {
      for (const int64_t longest : {0, 1, 500, 8192, 100000}) {
        fa::Problem problem = causal_problem(longest);
        problem.heads_kv = heads_kv;
        problem.heads_q = heads_kv * group;
        problem.variants.sequences = {true, true, false, 3, longest, longest};
        const fa::Sm90SequenceSections sections = fa::sm90_sequence_sections(problem);
        EXPECT_EQ(sections.last * sections.heads + sections.last_heads, problem.heads_q);
        EXPECT_EQ(sections.heads % group, 0) << "heads that share keys stay together";
        EXPECT_TRUE(sections.last == 0 || (sections.last_heads >= 2 * sections.heads && sections.last_heads < 3 * sections.heads));
      }
    }
  }
}

TEST(ForwardOrder, WithoutAMaskTilesGoInSequence) {
  fa::Problem problem = causal_problem(8192);
  problem.mask = fa::Mask::kNone;
  EXPECT_TRUE(persistent(problem));
  EXPECT_EQ(order_of(problem), fa::Sm90ForwardOrder::kSequence);
}

fa::Problem window_problem(int64_t length, int64_t left) {
  fa::Problem problem = causal_problem(length);
  problem.mask = fa::Mask::kWindowBottomRight;
  problem.variants.window_left = left;
  problem.variants.window_right = 0;
  return problem;
}

TEST(ForwardOrder, WindowsTakeTheirFirstTilesLast) {
  EXPECT_TRUE(persistent(window_problem(8192, 1023)));
  EXPECT_EQ(order_of(window_problem(8192, 1023)), fa::Sm90ForwardOrder::kShortTilesLast);
  EXPECT_EQ(fa::sm90_short_tiles(window_problem(8192, 1023), kTile, 64, kWorkers), 8);
  EXPECT_EQ(fa::sm90_short_tiles(window_problem(8192, 1024), kTile, 64, kWorkers), 8) << "row 1023 sees 1024 of 1025 keys, row 1024 all";
  EXPECT_EQ(fa::sm90_short_tiles(window_problem(8192, 1025), kTile, 64, kWorkers), 9);
  EXPECT_EQ(fa::sm90_short_tiles(window_problem(8192, 100000), kTile, 64, kWorkers), 64);
  EXPECT_EQ(fa::sm90_short_tiles(window_problem(8192, -1), kTile, 64, kWorkers), 64);
  fa::Problem prefix = window_problem(8192, 1023);
  prefix.len_kv += 900;
  EXPECT_EQ(fa::sm90_short_tiles(prefix, kTile, 64, kWorkers), 1) << "123 rows";
  prefix.len_kv += 900;
  EXPECT_EQ(order_of(prefix), fa::Sm90ForwardOrder::kSequence);
}

TEST(ForwardOrder, OtherWindowsAreLikeNoMask) {
  fa::Problem problem = window_problem(8192, 1023);
  problem.variants.window_right = 100;
  EXPECT_TRUE(persistent(problem));
  EXPECT_EQ(order_of(problem), fa::Sm90ForwardOrder::kSequence);
  problem = window_problem(8192, 1023);
  problem.variants.alibi = true;
  EXPECT_EQ(order_of(problem), fa::Sm90ForwardOrder::kSequence);
  problem = window_problem(8192, 8191);
  problem.batch = 4;
  EXPECT_EQ(order_of(problem), fa::Sm90ForwardOrder::kSequence) << "256 MiB of keys and values read by two blocks each";
}

TEST(ForwardOrder, ShortCausalProblemsKeepTheTilesOfAHeadTogether) {
  EXPECT_TRUE(persistent(causal_problem(512)));
  EXPECT_EQ(order_of(causal_problem(512)), fa::Sm90ForwardOrder::kSections);  // 128 tiles: none follows another
  fa::Problem problem = causal_problem(512);
  problem.batch = 32;
  EXPECT_EQ(order_of(problem), fa::Sm90ForwardOrder::kAdjacentTiles);
}

TEST(ForwardOrder, TwoTeamsOfABlockGetTheSameWork) {
  constexpr fa::Sm90ForwardTile kTwoTeams = fa::kSm90ModifiedForwardTiles[fa::kSm90NarrowRangeForwardTile];
  for (const int64_t length : {512, 1024, 1600, 1664, 5000, 5100, 8192, 32768}) {
    fa::Problem problem = causal_problem(length);
    problem.head_dim = problem.head_dim_v = 64;
    problem.variants.sinks = true;
    const int64_t q_tiles = fa::sm90_query_tiles(problem, kTwoTeams);
    EXPECT_GE(q_tiles * kTwoTeams.tile_q(), length);
    EXPECT_LT(q_tiles * kTwoTeams.tile_q(), length + 2 * kTwoTeams.tile_q());
    EXPECT_TRUE(q_tiles % 2 == 0 || q_tiles <= kTwoTeams.max_adjacent_tiles);
    const fa::Sm90ForwardOrder order = fa::sm90_forward_order(problem, kTwoTeams, q_tiles, kWorkers);
    EXPECT_TRUE(order == fa::Sm90ForwardOrder::kPairs || fa::sm90_persistent(problem, kTwoTeams, q_tiles, kWorkers * kTwoTeams.teams)) << length;
  }
}

TEST(ForwardOrder, TwoTeamsTakePairsWhereSectionsWouldReadTooManyHeads) {
  constexpr fa::Sm90ForwardTile kTwoTeams = fa::kSm90ModifiedForwardTiles[fa::kSm90NarrowRangeForwardTile];
  const auto order_for = [&](int64_t length, int64_t batch) {
    fa::Problem problem = causal_problem(length);
    problem.batch = batch;
    problem.variants.sinks = true;
    return fa::sm90_forward_order(problem, kTwoTeams, fa::sm90_query_tiles(problem, kTwoTeams), kWorkers);
  };
  EXPECT_EQ(order_for(1024, 32), fa::Sm90ForwardOrder::kAdjacentTiles);
  EXPECT_EQ(order_for(2048, 16), fa::Sm90ForwardOrder::kSections) << "16 tiles: sections of 33 heads are whole rounds of 264 teams";
  EXPECT_EQ(order_for(8192, 4), fa::Sm90ForwardOrder::kSections);
  EXPECT_EQ(order_for(1664, 18), fa::Sm90ForwardOrder::kPairs) << "14 tiles: sections of 132 heads";
}

TEST(ForwardOrder, AdjacentTilesTakeAnEvenNumberOfFullRounds) {
  // 2048 tiles: 16 rounds of 128 blocks; 1920: 15 of 128 would leave every second block the longer half of a pair, 16 of 120 too many multiprocessors idle.
  EXPECT_EQ(fa::sm90_even_blocks(kTile, 4, 512, kWorkers), 128);
  EXPECT_EQ(fa::sm90_even_blocks(kTile, 4, 512, 128), 128);
  EXPECT_EQ(fa::sm90_even_blocks(kTile, 4, 480, kWorkers), 0);
  EXPECT_EQ(fa::sm90_even_blocks(kTile, 3, 88, kWorkers), 132);  // 264 tiles
  EXPECT_EQ(fa::sm90_even_blocks(kTile, 5, 104, kWorkers), 130);
  EXPECT_EQ(fa::sm90_even_blocks(kTile, 4, 66, kWorkers), 132);
  EXPECT_EQ(fa::sm90_even_blocks(kTile, 8, 33, kWorkers), 0);                       // 132 blocks are no whole number of heads
  EXPECT_EQ(fa::sm90_even_blocks(fa::kSm90ForwardTiles[0], 4, 1024, kWorkers), 0);  // two teams
  constexpr fa::Sm90ForwardTile kD256 = fa::kSm90ForwardTiles[6];
  fa::Problem problem = causal_problem(1024);
  problem.batch = 16;
  problem.heads_q = problem.heads_kv = 8;
  problem.head_dim = problem.head_dim_v = 256;
  EXPECT_EQ(fa::sm90_forward_order(problem, kD256, 8, kWorkers), fa::Sm90ForwardOrder::kAdjacentTiles);
  EXPECT_EQ(fa::sm90_forward_order(problem, kD256, 8, 128), fa::Sm90ForwardOrder::kAdjacentTiles);  // as the launch asks
  problem.batch = 15;
  EXPECT_EQ(fa::sm90_forward_order(problem, kD256, 8, kWorkers), fa::Sm90ForwardOrder::kSections);
}

}  // namespace
