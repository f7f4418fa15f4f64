// The order in which blocks take up tiles: every tile of every head exactly once, sections of equal size.
#include "attention/tile_order.h"

#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <utility>

#include "kernels/sm80/block_order.h"

namespace fa_test {
namespace {

using fa::TileOrder;

TEST(TileOrder, TakesUpEveryTileOnce) {
  for (const int heads : {1, 7, 16, 33}) {
    for (const int section : {1, 3, 8, heads}) {
      for (const bool last_first : {false, true}) {
        const TileOrder order{.num_tiles = 5, .num_heads = heads, .section_heads = std::min(section, heads), .last_first = last_first};
        std::set<std::pair<int, int>> taken;
        for (int block = 0; block < heads * order.num_tiles; ++block) {
          const TileOrder::Work work = order.work(block);
          ASSERT_TRUE(work.tile >= 0 && work.tile < order.num_tiles && work.head >= 0 && work.head < heads) << "block " << block;
          taken.emplace(work.tile, work.head);
        }
        EXPECT_EQ(taken.size(), static_cast<size_t>(heads) * order.num_tiles) << heads << " heads in sections of " << section;
        EXPECT_EQ(order.work(0).tile, last_first ? order.num_tiles - 1 : 0);
      }
    }
  }
}

/// The portable kernels' form of it, with prepared divisions.
TEST(TileOrder, BlockOrderIsTheSame) {
  for (const int batch : {1, 3}) {
    for (const int heads : {1, 2, 7, 16}) {
      for (const int section : {1, 2, 3, 8, 50}) {
        for (const bool last_first : {false, true}) {
          const int tiles = 5, all_heads = batch * heads;
          const TileOrder expected{.num_tiles = tiles, .num_heads = all_heads, .section_heads = std::min(section, all_heads), .last_first = last_first};
          const fa::sm80::BlockOrder order(tiles, batch, heads, section, last_first);
          ASSERT_TRUE(order.num_tiles == tiles && order.num_heads == all_heads);
          for (int block = 0; block < all_heads * tiles; ++block) {
            const TileOrder::Work one = expected.work(block);
            const fa::sm80::BlockOrder::Work other = order.work(block);
            ASSERT_TRUE(other.tile == one.tile && other.all_heads == one.head && other.batch == one.head / heads && other.head == one.head % heads)
                << "block " << block << " of " << batch << " x " << heads << " heads in sections of " << section;
          }
        }
      }
    }
  }
  EXPECT_EQ(fa::sm80::BlockOrder(5, 0, 4, 0).num_heads, 0);
}

TEST(TileOrder, SectionsAreEven) {
  for (int64_t heads = 1; heads <= 300; ++heads) {
    for (int64_t wanted = 1; wanted <= 60; ++wanted) {
      const int64_t section = TileOrder::even_section(heads, wanted);
      ASSERT_TRUE(section >= 1 && section <= heads && 2 * section <= 3 * wanted + 1) << heads << " heads, " << wanted << " wanted, " << section << " chosen";
      const int64_t sections = (heads + section - 1) / section;
      // Equal but for what the division leaves: the last section lacks less than one head per section.
      EXPECT_LT(sections * section - heads, sections) << heads << " heads, " << wanted << " wanted, " << section << " chosen";
    }
  }
  EXPECT_EQ(TileOrder::even_section(0, 8), 0);
}

}  // namespace
}  // namespace fa_test
