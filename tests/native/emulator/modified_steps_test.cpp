// Which key tile of the Hopper backward kernel with modified scores begins the sums of grad_q of a query tile (kernels/sm90/backward_modified/steps.cuh): of
// all that visit it the first, and one alone; rows of query tiles that nobody visits are the ones whose accumulator is cleared.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

#include "kernels/sm90/backward_modified/steps.cuh"

namespace fa_test {
namespace {

using fa::PairRange;
using fa::sm90::StepRange;

PairRange random_range(std::mt19937& random) {
  const auto pick = [&](int low, int high) { return std::uniform_int_distribution<int>(low, high)(random); };
  const auto length = [&] { return pick(0, 9) == 0 ? pick(0, 3) : pick(1, pick(0, 1) == 0 ? 300 : 3000); };
  const auto reach = [&] { return pick(0, 2) == 0 ? PairRange::kUnlimited : pick(0, pick(0, 1) == 0 ? 200 : 1500); };
  PairRange range;
  range.len_q = length();
  range.len_kv = length();
  range.bottom_right = pick(0, 1) == 0;
  range.offset = range.bottom_right ? range.len_kv - range.len_q : 0;
  range.left = reach();
  range.right = pick(0, 1) == 0 ? 0 : reach();
  if (pick(0, 2) == 0) {
    range.chunk = pick(1, 700);
    range.by_chunk = fa::FastDivisor(range.chunk);
  }
  return range;
}

TEST(ModifiedBackwardSteps, EveryVisitedQueryTileIsStoredByItsFirstVisitorAlone) {
  std::mt19937 random(20261123);
  int64_t stored_behind_first_tile = 0, unvisited = 0;
  for (int i = 0; i < 4000; ++i) {
    const PairRange range = random_range(random);
    const int tile_q = i % 2 == 0 ? 64 : 128, tile_kv = 128;
    const int query_tiles = (range.len_q + 127) / 128 * 128 / tile_q;
    std::vector<int> visits(query_tiles), stores(query_tiles);
    for (int first_key = 0; first_key < range.len_kv; first_key += tile_kv) {
      const StepRange visited = fa::sm90::visited_steps(range, first_key, tile_q, tile_kv);
      const int first_stored = fa::sm90::first_stored_step(range, visited, first_key, tile_q, tile_kv);
      ASSERT_GE(first_stored, visited.first);
      for (int step = visited.first; step < visited.end; ++step) {
        ASSERT_LT(step, query_tiles);
        ASSERT_EQ(step >= first_stored, visits[step] == 0) << "query tile " << step << ", key " << first_key;
        ++visits[step];
        stores[step] += step >= first_stored ? 1 : 0;
        stored_behind_first_tile += step >= first_stored && first_key > 0 ? 1 : 0;
      }
    }
    for (int row = 0; row < query_tiles * tile_q; ++row) {
      const int step = row / tile_q;
      ASSERT_EQ(stores[step], visits[step] > 0 ? 1 : 0);
      bool sees = false;
      for (int key = 0; key < range.len_kv && !sees; key += 1 + range.len_kv / 40) {
        sees = range.sees(row, key);
      }
      ASSERT_TRUE(!sees || visits[step] > 0);
      ASSERT_TRUE(visits[step] > 0 || fa::sm90::may_stay_unvisited(range, row)) << "row " << row;
      ASSERT_TRUE(!sees || !fa::sm90::may_stay_unvisited(range, row)) << "row " << row;
      unvisited += visits[step] == 0 ? 1 : 0;
    }
  }
  EXPECT_GT(stored_behind_first_tile, 1000);
  EXPECT_GT(unvisited, 1000);
}

TEST(ModifiedBackwardSteps, WhoVisitsAQueryTileIsAmongItsKeyTiles) {
  std::mt19937 random(20261127);
  int64_t visits = 0, most = 0;
  for (int i = 0; i < 4000; ++i) {
    const PairRange range = random_range(random);
    const int tile_q = i % 2 == 0 ? 64 : 128, tile_kv = 128;
    const int query_tiles = (range.len_q + 127) / 128 * 128 / tile_q, key_tiles = (range.len_kv + tile_kv - 1) / tile_kv;
    std::vector<StepRange> visited(key_tiles);
    for (int key_tile = 0; key_tile < key_tiles; ++key_tile) {
      visited[key_tile] = fa::sm90::visited_steps(range, key_tile * tile_kv, tile_q, tile_kv);
    }
    for (int step = 0; step < query_tiles; ++step) {
      const StepRange visiting = fa::sm90::visiting_key_tiles(range, step, tile_q, tile_kv);
      ASSERT_TRUE(visiting.first >= 0 && visiting.end <= key_tiles) << "query tile " << step;
      for (int key_tile = 0; key_tile < key_tiles; ++key_tile) {
        if (step >= visited[key_tile].first && step < visited[key_tile].end) {
          ASSERT_TRUE(key_tile >= visiting.first && key_tile < visiting.end) << "query tile " << step << ", key tile " << key_tile;
          ++visits;
        }
      }
      most += std::max(visiting.end - visiting.first, 0);
    }
  }
  EXPECT_GT(visits, 10000);
  EXPECT_LT(most, visits + visits / 10);  // and few others, those of rows behind the last
}

TEST(ModifiedBackwardSteps, StoresComeFirstAndWhatNeighboursStoreComesLast) {
  std::mt19937 random(20261124);
  int64_t late_steps = 0;
  for (int i = 0; i < 4000; ++i) {
    const PairRange range = random_range(random);
    const int tile_q = i % 2 == 0 ? 64 : 128, tile_kv = 128;
    for (int first_key = 0; first_key < range.len_kv; first_key += tile_kv) {
      const StepRange visited = fa::sm90::visited_steps(range, first_key, tile_q, tile_kv);
      if (visited.end <= visited.first) {
        continue;
      }
      const int first_stored = fa::sm90::first_stored_step(range, visited, first_key, tile_q, tile_kv);
      const int first_late = fa::sm90::first_late_step(visited, first_key, first_stored);
      const int stored = visited.end - first_stored, late = first_stored - first_late, steps = visited.end - visited.first;
      ASSERT_TRUE(late >= 0 && late <= 2 * stored && late + stored <= steps);
      std::vector<int> order(steps);
      for (int place = 0; place < steps; ++place) {
        order[place] = fa::sm90::step_in_order(visited, first_stored, first_late, place);
        // Three parts, each going down.
        ASSERT_TRUE(place == 0 || place == stored || place == steps - late || order[place] == order[place - 1] - 1);
        ASSERT_EQ(order[place] >= first_stored, place < stored);
        ASSERT_EQ(order[place] >= first_late && order[place] < first_stored, place >= steps - late);
      }
      std::sort(order.begin(), order.end());
      ASSERT_TRUE(order.front() == visited.first && order.back() == visited.end - 1);
      ASSERT_EQ(std::unique(order.begin(), order.end()), order.end());
      late_steps += late;
    }
  }
  EXPECT_GT(late_steps, 1000);
}

TEST(ModifiedBackwardSteps, AWarpgroupIsLeftOutOnlyWhereItSeesNothing) {
  std::mt19937 random(20261126);
  int64_t left_out = 0, both = 0;
  for (int i = 0; i < 3000; ++i) {
    const PairRange range = random_range(random);
    const int tile_q = i % 2 == 0 ? 64 : 128, tile_kv = 128;
    const int own_tiles = i % 3 == 0 ? range.len_q / tile_q : (range.len_q + tile_q - 1) / tile_q;
    for (int first_key = 0; first_key < range.len_kv; first_key += tile_kv) {
      const StepRange visited = fa::sm90::visited_steps(range, first_key, tile_q, tile_kv);
      if (visited.end <= visited.first) {
        continue;
      }
      const int last_key = first_key + tile_kv - 1;
      StepRange whole{last_key < range.len_kv ? (range.begin_row(last_key) + tile_q - 1) / tile_q : visited.end, range.end_row(first_key) / tile_q};
      whole.first = std::max(std::min(whole.first, visited.end), visited.first);
      whole.end = std::max(std::min(whole.end, visited.end), whole.first);
      const fa::sm90::HalfSteps halves = fa::sm90::half_steps(range, visited, whole, own_tiles, first_key, tile_q, tile_kv);
      ASSERT_TRUE(halves.both.first <= whole.first && (halves.both.end >= whole.end || whole.first == whole.end));
      for (int step = visited.first; step < visited.end; ++step) {
        const bool in_both = step >= halves.both.first && step < halves.both.end && (step < whole.first || step >= whole.end);
        for (int w = 0; w < 2; ++w) {
          const bool taken = step >= halves.seen[w].first && step < halves.seen[w].end;
          bool sees = false;
          for (int row = step * tile_q; row < std::min((step + 1) * tile_q, range.len_q) && !sees; ++row) {
            const int first = first_key + 64 * w, end = std::min(first + 64, range.len_kv);
            sees = std::max(range.begin_key(row), first) < std::min(range.end_key(row), end);
          }
          ASSERT_TRUE(taken || !sees) << "query tile " << step << ", key " << first_key << ", half " << w;
          ASSERT_TRUE(taken || !in_both) << "query tile " << step << ", key " << first_key << ", half " << w;
          left_out += taken ? 0 : 1;
        }
        ASSERT_TRUE(!in_both || step < own_tiles);
        both += in_both ? 1 : 0;
      }
    }
  }
  EXPECT_GT(left_out, 1000);
  EXPECT_GT(both, 1000);
}

}  // namespace
}  // namespace fa_test
