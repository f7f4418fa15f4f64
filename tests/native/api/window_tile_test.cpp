// Which windows the Hopper forward kernel's tile for windows is meant for.
#include <gtest/gtest.h>

#include "plan/sm90_forward_tiles.h"

namespace fa {
namespace {

constexpr int64_t kMultiprocessors = 132;

Problem window(int64_t batch, int64_t heads, int64_t length, int64_t left) {
  Problem problem;
  problem.mask = Mask::kWindowBottomRight;
  problem.batch = batch;
  problem.heads_q = problem.heads_kv = heads;
  problem.len_q = problem.len_kv = length;
  problem.head_dim = problem.head_dim_v = 128;
  problem.variants.window_left = left;
  problem.variants.window_right = 0;
  return problem;
}
bool takes(const Problem& problem) {
  return sm90_takes_window_tile(problem, kMultiprocessors);
}

TEST(WindowTile, TakesLongWindowsOfAnyWidth) {
  for (const int64_t left : {127, 511, 1023, 4095}) {
    EXPECT_TRUE(takes(window(1, 16, 65536, left)));
    EXPECT_TRUE(takes(window(2, 16, 8192, left)));
  }
  Problem problem = window(1, 16, 65536, 1023);
  problem.variants.sinks = true;
  EXPECT_TRUE(takes(problem));
}

TEST(WindowTile, LeavesWhatItsLargerQueryTilesWouldSlowDown) {
  EXPECT_FALSE(takes(window(1, 2, 1024, 255))) << "one query tile per block";
  EXPECT_FALSE(takes(window(2, 16, 2048, 1023))) << "4 rounds of 128 rows instead of 3 of 192";
  EXPECT_FALSE(takes(window(2, 16, 4096, 1023))) << "8 rounds of 128 rows instead of 6 of 192";
}

TEST(WindowTile, LeavesOtherVariants) {
  Problem chunks = window(1, 16, 65536, 1023);
  chunks.variants.chunk = 1024;
  EXPECT_FALSE(takes(chunks));
  Problem sequences = window(1, 16, 65536, 1023);
  sequences.variants.sequences.given = true;
  sequences.variants.sequences.count = 1;
  EXPECT_FALSE(takes(sequences));
  Problem sinks = window(1, 16, 65536, 1023);
  sinks.mask = Mask::kCausalBottomRight;
  sinks.variants.sinks = true;
  EXPECT_FALSE(takes(sinks));
  Problem softcap = window(1, 16, 65536, 1023);
  softcap.variants.softcap = 30.0f;
  EXPECT_FALSE(takes(softcap));
}

TEST(WindowTile, IsPlannedAtItsHeadDimOnly) {
  Problem problem = window(1, 16, 65536, 1023);
  EXPECT_EQ(sm90_modified_forward_tile_of(problem, kMultiprocessors), kSm90PlansWindowTile ? kSm90WindowForwardTile : 1);
  problem.head_dim = 96;
  EXPECT_EQ(sm90_modified_forward_tile_of(problem, kMultiprocessors), kSm90PlansWindowTile ? kSm90WindowForwardTile : 1);
  problem.head_dim = problem.head_dim_v = 64;
  EXPECT_EQ(sm90_modified_forward_tile_of(problem, kMultiprocessors), 0);
  problem.head_dim_v = 192;
  EXPECT_EQ(sm90_modified_forward_tile_of(problem, kMultiprocessors), 2);
  problem = window(1, 16, 2048, 1023);
  EXPECT_EQ(sm90_modified_forward_tile_of(problem, kMultiprocessors), 1);
}

TEST(WindowTile, FitsAMultiprocessor) {
  for (const int row : {kSm90WindowForwardTile, kSm90DeepWindowForwardTile}) {
    const Sm90ForwardTile& tile = kSm90ModifiedForwardTiles[row];
    EXPECT_LE(tile.shared_memory_bytes(), 232448);
    EXPECT_LE(128 * (tile.warpgroups * tile.consumer_registers() + tile.producer_registers()), 65536);
  }
}

}  // namespace
}  // namespace fa
