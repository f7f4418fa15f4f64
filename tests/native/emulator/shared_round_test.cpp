// How blocks of the Hopper forward kernel share the last round of query tiles (plan/sm90_shared_round.h): every step of every tile is some block's, once, and
// the places that parts of a tile are left in and read from agree.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <set>
#include <vector>

#include "plan/sm90_forward_tiles.h"
#include "plan/sm90_shared_round.h"

namespace fa_test {
namespace {

using fa::Sm90SharedRound;

struct Part {
  int block, tile, begin, end;
};

int begin_of(const Sm90SharedRound& round, int block) {
  return round.begin(
      block, [&](int n) { return n / round.sharers; }, [&](int n) { return n / round.key_tiles; });
}

/// As the kernel goes through a block's range.
std::vector<Part> parts_of(const Sm90SharedRound& round) {
  std::vector<Part> parts;
  for (int block = 0; block < round.sharers; ++block) {
    const int begin = begin_of(round, block), end = begin_of(round, block + 1);
    EXPECT_LT(begin, end) << "block " << block;
    int of_block = 0;
    for (int step = begin; step < end; ++of_block) {
      const int tile = step / round.key_tiles, tile_begin = tile * round.key_tiles, part_end = std::min(end, tile_begin + round.key_tiles);
      parts.push_back({block, tile, step - tile_begin, part_end - tile_begin});
      step = part_end;
    }
    EXPECT_LE(of_block, 2) << "block " << block;
  }
  return parts;
}

void expect_consistent(const Sm90SharedRound& round) {
  SCOPED_TRACE(testing::Message() << round.tiles << " tiles of " << round.key_tiles << " steps, " << round.sharers << " sharers");
  std::vector<int> next(round.tiles), first(round.tiles, -1), last(round.tiles);
  std::set<int> slots;
  for (const Part& part : parts_of(round)) {
    ASSERT_LT(part.tile, round.tiles);
    ASSERT_EQ(part.begin, next[part.tile]) << "the parts of a tile follow each other";
    next[part.tile] = part.end;
    ASSERT_TRUE(part.end - part.begin >= std::min(round.min_steps, round.key_tiles)) << part.begin << " " << part.end;
    first[part.tile] = first[part.tile] < 0 ? part.block : first[part.tile];
    last[part.tile] = part.block;
    const int slot = Sm90SharedRound::slot(part.block, part.tile);
    ASSERT_TRUE(slot < round.slots() && slots.insert(slot).second);
  }
  for (int tile = 0; tile < round.tiles; ++tile) {
    ASSERT_EQ(next[tile], round.key_tiles);
    const int any = first[tile] + tile % (last[tile] - first[tile] + 1), tile_begin = tile * round.key_tiles;
    const Sm90SharedRound::Blocks blocks =
        Sm90SharedRound::blocks_around(any, tile_begin, tile_begin + round.key_tiles, [&](int block) { return begin_of(round, block); });
    ASSERT_EQ(blocks.begin, first[tile]) << "tile " << tile;
    ASSERT_EQ(blocks.end, last[tile] + 1) << "tile " << tile;
    ASSERT_LE(blocks.end - blocks.begin, Sm90SharedRound::kMaxSharersPerTile + 2);
  }
  for (int block = 0; block < round.sharers; ++block) {
    ASSERT_LE(begin_of(round, block + 1) - begin_of(round, block), (round.steps() + round.sharers - 1) / round.sharers + 2 * (round.min_steps - 1));
  }
}

TEST(SharedRound, EveryStepIsOneBlocks) {
  std::mt19937 random(20261123);
  const auto pick = [&](int low, int high) { return std::uniform_int_distribution<int>(low, high)(random); };
  int shared = 0;
  for (int i = 0; i < 4000; ++i) {
    const int blocks = pick(0, 1) == 0 ? 132 : pick(2, 200);
    const Sm90SharedRound round = fa::sm90_shared_round(pick(1, 20 * blocks), pick(0, 3) == 0 ? pick(1, 5000) : pick(1, 300), 64 << pick(0, 1), blocks);
    if (round.tiles > 0) {
      ++shared;
      expect_consistent(round);
    }
  }
  EXPECT_GT(shared, 500);
}

TEST(SharedRound, OfEveryNumberOfTiles) {
  for (const int key_tiles : {17, 64, 128, 129}) {
    for (int tiles = 1; tiles < 132; ++tiles) {
      const int sharers = std::min({132, tiles * Sm90SharedRound::kMaxSharersPerTile, tiles * key_tiles / 16});
      if (sharers > tiles) {
        expect_consistent({tiles, key_tiles, sharers, 8});
      }
    }
  }
}

TEST(SharedRound, OnlyWhereItPays) {
  EXPECT_EQ(fa::sm90_shared_round(132, 128, 64, 132).tiles, 0) << "one whole round";
  EXPECT_EQ(fa::sm90_shared_round(100, 128, 64, 132).tiles, 0) << "less than a round";
  EXPECT_EQ(fa::sm90_shared_round(1376, 128, 64, 132).tiles, 56);
  EXPECT_EQ(fa::sm90_shared_round(1376, 128, 64, 132).sharers, 132);
  EXPECT_EQ(fa::sm90_shared_round(133, 128, 64, 132).sharers, Sm90SharedRound::kMaxSharersPerTile);
  EXPECT_EQ(fa::sm90_shared_round(264 - 1, 128, 64, 132).tiles, 0) << "the last round is nearly full";
  EXPECT_EQ(fa::sm90_shared_round(1376, 8, 64, 132).tiles, 0) << "too few steps";
  EXPECT_EQ(fa::sm90_shared_round(1376, int64_t{1} << 20, 64, 132).tiles, 0) << "products of 32 bits";
}

TEST(SharedRound, LayoutHoldsEverySlotAndCounter) {
  const Sm90SharedRound round = fa::sm90_shared_round(1376, 128, 64, 132);
  const fa::Sm90SharedRoundLayout layout = fa::sm90_shared_round_layout(round, 3, 128);
  EXPECT_EQ(layout.slot_bytes, uint64_t{384} * 17 * 16);
  EXPECT_EQ(layout.counters_offset, layout.slot_bytes * static_cast<uint64_t>(round.slots()));
  EXPECT_EQ(layout.counters_bytes, uint64_t{56} * 12 * 4);
  EXPECT_EQ(layout.total_bytes, layout.counters_offset + layout.counters_bytes);
  EXPECT_EQ(fa::sm90_shared_round_layout({}, 3, 128).total_bytes, 0u);
}

}  // namespace
}  // namespace fa_test
