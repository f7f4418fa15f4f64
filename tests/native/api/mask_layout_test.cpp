// What the Hopper kernels plan for boolean and block masks: lists and bits per plane of masks, in an order that covers every head once.
#include <gtest/gtest.h>

#include "plan/sm90_forward_tiles.h"

namespace fa {
namespace {

Problem masked(int64_t batch, int64_t heads, int64_t length, int mask_batches, int mask_heads) {
  Problem problem;
  problem.batch = batch;
  problem.heads_q = problem.heads_kv = heads;
  problem.len_q = problem.len_kv = length;
  problem.head_dim = problem.head_dim_v = 128;
  problem.variants.visible = true;
  problem.variants.mask_batches = mask_batches;
  problem.variants.mask_heads = mask_heads;
  return problem;
}

TEST(MaskLayout, SharedMasksShareTheirLists) {
  const Sm90ForwardTile& tile = kSm90ModifiedForwardTiles[1];
  const uint64_t one = sm90_mask_layout(masked(2, 16, 8192, 1, 1), tile).total_bytes;
  EXPECT_LT(one, uint64_t{9} << 20) << "an eighth of the mask's 64 MiB, and the lists";
  EXPECT_EQ(sm90_mask_layout(masked(64, 16, 8192, 1, 1), tile).total_bytes, one) << "a mask for all is looked at once";
  EXPECT_NEAR(static_cast<double>(sm90_mask_layout(masked(2, 16, 8192, 2, 1), tile).total_bytes), 2.0 * static_cast<double>(one), 1024);
  EXPECT_NEAR(static_cast<double>(sm90_mask_layout(masked(2, 16, 8192, 2, 16), tile).total_bytes), 32.0 * static_cast<double>(one), 4096);
}

TEST(MaskLayout, WholeBlocksNeedNoBits) {
  Problem problem = masked(2, 16, 8192, 1, 1);
  problem.variants.visible = false;
  problem.variants.block_mask = true;
  const auto bytes = [&](int block_q, int block_kv) {
    problem.variants.block_q = block_q;
    problem.variants.block_kv = block_kv;
    return sm90_mask_layout(problem, kSm90ModifiedForwardTiles[1]).total_bytes;
  };
  EXPECT_LT(bytes(128, 128), uint64_t{64} << 10);
  EXPECT_EQ(bytes(64, 256), bytes(128, 128));
  EXPECT_GT(bytes(32, 128), uint64_t{8} << 20);
  EXPECT_GT(bytes(128, 64), uint64_t{8} << 20);
}

TEST(MaskLayout, PartsDoNotOverlap) {
  for (const int64_t length : {1, 63, 64, 65, 129, 500, 1000}) {
    for (const bool of_q : {true, false}) {
      const VisibleTilesLayout l = visible_tiles_layout(masked(3, 5, length, 3, 5), of_q, 128, 5);
      EXPECT_EQ(l.row_units, (length + 63) / 64);
      EXPECT_EQ(l.key_units, (length + 127) / 128);
      EXPECT_EQ(l.tiles, (length + 127) / 128);
      EXPECT_EQ(l.num_groups(), 3);
      const auto lists = static_cast<uint64_t>(l.planes * l.tiles), units = static_cast<uint64_t>(l.num_units());
      EXPECT_GE(l.tickets_offset, kVisibleHeaderBytes);
      EXPECT_GE(l.states_offset, l.tickets_offset + 4 * static_cast<uint64_t>(l.num_groups()));
      EXPECT_GE(l.counts_offset, l.states_offset + units);
      EXPECT_GE(l.order_offset, l.counts_offset + 8 * lists);
      EXPECT_GE(l.entries_offset, l.order_offset + 4 * lists);
      EXPECT_GE(l.bits_offset, l.entries_offset + 4 * lists * static_cast<uint64_t>(l.capacity));
      EXPECT_EQ(l.total_bytes, l.bits_offset + units * kVisibleUnitBytes);
      EXPECT_EQ((l.tickets_offset | l.states_offset | l.counts_offset | l.order_offset | l.entries_offset | l.bits_offset) % 16, 0u);
    }
  }
}

TEST(MaskLayout, SectionsDivideTheHeads) {
  for (const int64_t batch : {1, 2, 3, 7}) {
    for (const int64_t heads : {1, 4, 12, 16, 40}) {
      for (const int64_t length : {128, 1024, 8192, 100000}) {
        for (const bool of_batch : {false, true}) {
          for (const bool of_head : {false, true}) {
            const Problem problem = masked(batch, heads, length, of_batch ? static_cast<int>(batch) : 1, of_head ? static_cast<int>(heads) : 1);
            const Sm90MaskOrder order = sm90_mask_order(problem);
            const int64_t planes = visible_planes(problem);
            EXPECT_EQ(order.sharers * planes, batch * heads);
            EXPECT_EQ(order.sharers % order.section_sharers, 0);
            EXPECT_EQ(planes % order.planes_per_group, 0);
            EXPECT_TRUE(order.planes_per_group == 1 || order.section_sharers == order.sharers);
            const int64_t section_heads = order.planes_per_group * order.section_sharers;
            EXPECT_TRUE(section_heads == 1 || section_heads * sm90_kv_bytes(problem) <= kSm90SectionBytes);
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace fa
