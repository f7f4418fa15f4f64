// Which tile the Hopper forward kernel takes: for windows, chunks, sinks and sequences, and without variants.
#include <gtest/gtest.h>

#include "plan/sm90_forward_tiles.h"

namespace fa {
namespace {

Problem window(int64_t left, int64_t head_dim = 128) {
  Problem problem;
  problem.mask = Mask::kWindowBottomRight;
  problem.batch = 1;
  problem.heads_q = problem.heads_kv = 16;
  problem.len_q = problem.len_kv = 65536;
  problem.head_dim = problem.head_dim_v = head_dim;
  problem.variants.window_left = left;
  problem.variants.window_right = 0;
  return problem;
}

TEST(RangeTile, IsTakenForAllRanges) {
  EXPECT_EQ(sm90_modified_forward_tile_of(window(1023)), kSm90RangeForwardTile);
  Problem chunks = window(1023);
  chunks.variants.chunk = 1024;
  EXPECT_EQ(sm90_modified_forward_tile_of(chunks), kSm90RangeForwardTile);
  Problem sequences = window(1023);
  sequences.variants.sequences.given = true;
  sequences.variants.sequences.count = 1;
  EXPECT_EQ(sm90_modified_forward_tile_of(sequences), kSm90RangeForwardTile);
  Problem sinks = window(1023);
  sinks.mask = Mask::kCausalBottomRight;
  sinks.variants.sinks = true;
  EXPECT_EQ(sm90_modified_forward_tile_of(sinks), kSm90RangeForwardTile);
}

TEST(RangeTile, IsForItsHeadDimOnly) {
  EXPECT_EQ(sm90_modified_forward_tile_of(window(1023, 96)), kSm90RangeForwardTile);
  EXPECT_EQ(sm90_modified_forward_tile_of(window(1023, 72)), kSm90RangeForwardTile);
  EXPECT_EQ(sm90_modified_forward_tile_of(window(1023, 64)), kSm90NarrowRangeForwardTile);
  EXPECT_EQ(sm90_modified_forward_tile_of(window(1023, 136)), 2);
  Problem problem = window(1023, 64);
  problem.head_dim_v = 128;
  EXPECT_EQ(sm90_modified_forward_tile_of(problem), kSm90RangeForwardTile);
}

TEST(RangeTile, LeavesWhatItIsNotCompiledWith) {
  Problem softcap = window(1023);
  softcap.variants.softcap = 30.0f;
  EXPECT_EQ(sm90_modified_forward_tile_of(softcap), 1);
  Problem alibi = window(1023);
  alibi.variants.alibi = true;
  EXPECT_EQ(sm90_modified_forward_tile_of(alibi), 1);
  Problem visible = window(1023);
  visible.variants.visible = true;
  EXPECT_EQ(sm90_modified_forward_tile_of(visible), 1);
  Problem bias = window(1023);
  bias.variants.bias = true;
  EXPECT_EQ(sm90_modified_forward_tile_of(bias), kSm90BiasForwardTile);
}

TEST(RangeTile, FitsAMultiprocessor) {
  for (const Sm90ForwardTile& tile : kSm90ModifiedForwardTiles) {
    EXPECT_LE(tile.shared_memory_bytes(), 232448);
    EXPECT_LE(128 * (tile.teams * tile.warpgroups * tile.consumer_registers() + tile.producer_registers()), 65536);
  }
}

/// 16 heads of head_dim 128 without variants.
Problem plain(int64_t batch, int64_t length, Mask mask = Mask::kNone) {
  Problem problem;
  problem.mask = mask;
  problem.batch = batch;
  problem.heads_q = problem.heads_kv = 16;
  problem.len_q = problem.len_kv = length;
  problem.head_dim = problem.head_dim_v = 128;
  return problem;
}
constexpr int kMultiprocessors = 132, kLargeTile = kSm90MediumForwardTile + 1;

TEST(PlainTile, IsLargeForLongProblems) {
  for (const int64_t length : {2048, 4096, 8192, 16384}) {
    EXPECT_EQ(sm90_forward_tile_of(plain(16384 / length, length), kMultiprocessors), kLargeTile) << length;
    EXPECT_EQ(sm90_forward_tile_of(plain(16384 / length, length, Mask::kCausalBottomRight), kMultiprocessors), kLargeTile) << length;
  }
  EXPECT_EQ(sm90_forward_tile_of(plain(16, 1024, Mask::kCausalTopLeft), kMultiprocessors), kLargeTile);
  Problem padded = plain(8, 2048);
  padded.head_dim = 72;
  padded.head_dim_v = 96;
  EXPECT_EQ(sm90_forward_tile_of(padded, kMultiprocessors), kLargeTile);
}

/// Without a mask, by time over that of tiles of 128 rows (H100).
TEST(PlainTile, IsLargeForShortProblemsWhoseRoundsAreNotMuchLonger) {
  EXPECT_EQ(sm90_forward_tile_of(plain(32, 512), kMultiprocessors), kLargeTile) << "0.98";
  EXPECT_EQ(sm90_forward_tile_of(plain(8, 512), kMultiprocessors), kLargeTile) << "0.90";
  EXPECT_EQ(sm90_forward_tile_of(plain(29, 576), kMultiprocessors), kLargeTile) << "0.86";
  EXPECT_EQ(sm90_forward_tile_of(plain(21, 768), kMultiprocessors), kLargeTile) << "0.95";
  EXPECT_EQ(sm90_forward_tile_of(plain(18, 896), kMultiprocessors), kLargeTile) << "0.93";
  EXPECT_EQ(sm90_forward_tile_of(plain(25, 640), kMultiprocessors), kSm90MediumForwardTile) << "1.06";
  EXPECT_EQ(sm90_forward_tile_of(plain(4, 512), kMultiprocessors), kSm90MediumForwardTile) << "1.13";
  EXPECT_EQ(sm90_forward_tile_of(plain(64, 256), kMultiprocessors), kSm90MediumForwardTile) << "0.99";
}

TEST(PlainTile, IsNotForShortOrSmallProblems) {
  EXPECT_EQ(sm90_forward_tile_of(plain(16, 1024), kMultiprocessors), kSm90MediumForwardTile) << "slower";
  EXPECT_EQ(sm90_forward_tile_of(plain(32, 512, Mask::kCausalBottomRight), kMultiprocessors), kSm90MediumForwardTile - 1);
  EXPECT_EQ(sm90_forward_tile_of(plain(1, 1024), kMultiprocessors), kSm90MediumForwardTile) << "one round of 128 rows or of 192";
  EXPECT_EQ(sm90_forward_tile_of(plain(1, 2048, Mask::kCausalBottomRight), kMultiprocessors), kSm90MediumForwardTile) << "two rounds of 128 rows or of 192";
  EXPECT_EQ(sm90_forward_tile_of(plain(2, 2048, Mask::kCausalBottomRight), kMultiprocessors), kSm90MediumForwardTile) << "2.7 rounds: 18 % slower";
  EXPECT_EQ(sm90_forward_tile_of(plain(4, 1024, Mask::kCausalBottomRight), kMultiprocessors), kSm90MediumForwardTile) << "2.9 rounds: 8 % slower";
  EXPECT_EQ(sm90_forward_tile_of(plain(1, 8192, Mask::kCausalBottomRight), kMultiprocessors), kLargeTile) << "5.2 rounds: 6 % faster";
  EXPECT_EQ(sm90_forward_tile_of(plain(1, 8192), kMultiprocessors), kLargeTile) << "8 rounds of 128 rows, or 6 of 192 of which the last is shared: 7 % faster";
  Problem decoding = plain(64, 8192);
  decoding.len_q = 1;
  EXPECT_EQ(sm90_forward_tile_of(decoding, kMultiprocessors), kSm90MediumForwardTile);
}

TEST(PlainTile, LeavesOtherHeadDims) {
  for (const int64_t head_dim : {64, 192, 256}) {
    Problem problem = plain(2, 8192);
    problem.head_dim = head_dim;
    problem.head_dim_v = 64;
    const Sm90ForwardTile& tile = kSm90ForwardTiles[sm90_forward_tile_of(problem, kMultiprocessors)];
    EXPECT_EQ(tile.head_dim, head_dim);
  }
}

TEST(PlainTile, FitsAMultiprocessor) {
  for (const Sm90ForwardTile& tile : kSm90ForwardTiles) {
    EXPECT_LE(tile.shared_memory_bytes(), 232448);
    EXPECT_LE(128 * (tile.teams * tile.warpgroups * tile.consumer_registers() + tile.producer_registers()), 65536);
  }
}

}  // namespace
}  // namespace fa
