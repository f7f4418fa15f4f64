// What the producer of the Hopper forward kernel tells consumer warpgroups of a work tile under windows and chunks (kernels/sm90/forward/schedule.cuh), for
// every tile that is compiled with ranges: each pair that a row sees is in exactly one step, masks are where a row does not see a key, and every warpgroup
// takes part in the rings and turns for exactly the key tiles that the block goes through.
#include <gtest/gtest.h>

#include <algorithm>
#include <climits>
#include <numeric>
#include <random>
#include <set>
#include <tuple>
#include <utility>
#include <vector>

#include "emulator.h"
#include "kernels/sm90/forward/schedule.cuh"
#include "plan/sm90_forward_tiles.h"

namespace fa_test {
namespace {

using fa::PairRange;

/// What the functions under test take of a configuration.
template <int kRow>
struct RangeConfig {
  static constexpr fa::Sm90ForwardTile kTile = fa::kSm90ModifiedForwardTiles[kRow];
  struct Scores {
    static constexpr bool kAlibi = false;
    static constexpr bool kBias = false;
    static constexpr bool kMask = false;
    static constexpr bool kModified = true;
    static constexpr bool kChangesScores = false;
  };
  static constexpr int kTeams = kTile.teams;
  static constexpr int kWarpgroups = kTile.warpgroups;
  static constexpr int kTileQ = kTile.tile_q();
  static constexpr int kTileKv = kTile.tile_kv;
  static constexpr bool kTrimsFirst = kTileKv == 128;
  static constexpr bool kTrimsLast = kTrimsFirst;
};

PairRange random_range(std::mt19937& random) {
  const auto pick = [&](int low, int high) { return std::uniform_int_distribution<int>(low, high)(random); };
  PairRange range;
  range.len_q = pick(1, pick(0, 1) == 0 ? 300 : 1500);
  range.len_kv = pick(0, pick(0, 1) == 0 ? 300 : 1500);
  range.bottom_right = pick(0, 1) == 0;
  range.offset = range.bottom_right ? range.len_kv - range.len_q : 0;
  range.left = pick(0, 3) == 0 ? PairRange::kUnlimited : pick(0, 600);
  range.right = pick(0, 1) == 0 ? 0 : pick(0, 2) == 0 ? PairRange::kUnlimited : pick(0, 300);
  if (pick(0, 3) == 0) {
    range.chunk = pick(1, 700);
    range.by_chunk = fa::FastDivisor(range.chunk);
  }
  return range;
}

/// One warpgroup's 64 rows from first_row on, by the messages of its work tile, whose key tiles are [block_begin, block_end). Returns its steps.
template <typename Config>
int check_warpgroup(const PairRange& range, int first_row, const int4* messages, int block_begin, int block_end) {
  constexpr int kKeys = Config::kTileKv;
  const int exact_end = messages[0].x, end = messages[0].y, full_begin = messages[0].z, begin = messages[0].w;
  const bool masks_first = (messages[1].y & 1) != 0, trims_first = (messages[1].y & 2) != 0, trims_last = (messages[1].y & 4) != 0;
  const int skipped_first = block_end - std::max(end, messages[1].x), steps = end > 0 ? end - begin : 0, skipped_last = end > 0 ? messages[1].z : 0;
  EXPECT_EQ(messages[1].x, block_begin);
  EXPECT_EQ(std::max(skipped_first, 0) + steps + std::max(skipped_last, 0), block_end - block_begin) << "each key tile of the block once";
  for (int row = std::max(first_row, 0); row < std::min(first_row + 64, range.len_q); ++row) {
    const int first_key = range.begin_key(row), end_key = range.end_key(row);
    if (first_key < end_key) {
      EXPECT_TRUE(end > 0 && first_key >= begin * kKeys + (trims_last ? kKeys / 2 : 0)) << "row " << row;
      EXPECT_LE(end_key, end * kKeys - (trims_first ? kKeys / 2 : 0)) << "row " << row;
    }
    for (int n = begin; n < end; ++n) {
      const bool masked = n == end - 1 ? masks_first : n >= exact_end || n < full_begin;
      EXPECT_TRUE(masked || (first_key <= n * kKeys && end_key >= (n + 1) * kKeys)) << "row " << row << ", key tile " << n;
    }
  }
  return steps;
}

/// All work tiles of a head. Returns the keys that its warpgroups form for each row of 64, in steps of 64.
template <int kRow>
int64_t check_head(const PairRange& range) {
  using Config = RangeConfig<kRow>;
  fa::sm90::ModifiedForwardParams params{};
  params.scores.range = range;
  int64_t units = 0;
  for (int first_row = 0; first_row < range.len_q; first_row += Config::kTileQ) {
    const fa::sm90::KeyTiles keys = fa::sm90::key_tiles<Config::kTileKv>(range, first_row, Config::kTileQ);
    int4 messages[fa::sm90::SequenceWorkTile::num_messages(Config::kWarpgroups)];
    fa::sm90::write_messages<Config>(params, messages, {first_row, 3, 2}, {range.len_q, range.len_kv, 0, 0}, keys.end, keys.begin);
    EXPECT_TRUE(messages[0].x == first_row && messages[0].y == 3 && messages[0].z == 2 && messages[0].w == keys.end);
    for (int warpgroup = 0; warpgroup < Config::kWarpgroups; ++warpgroup) {
      const int4* own = messages + 2 + 2 * warpgroup;
      const int steps = check_warpgroup<Config>(range, first_row + 64 * warpgroup, own, keys.begin, keys.end);
      units += steps * (Config::kTileKv / 64) - ((own[1].y & 2) != 0 ? 1 : 0) - ((own[1].y & 4) != 0 ? 1 : 0);
    }
  }
  return units;
}

TEST(ForwardRanges, EveryVisiblePairIsInOneStep) {
  std::mt19937 random(20261123);
  for (int i = 0; i < 1500 && !testing::Test::HasFailure(); ++i) {
    const PairRange range = random_range(random);
    SCOPED_TRACE(testing::Message() << range.len_q << " x " << range.len_kv << " left " << range.left << " right " << range.right << " offset " << range.offset
                                    << " chunk " << range.chunk);
    check_head<0>(range);
    check_head<1>(range);
    check_head<2>(range);
    check_head<fa::kSm90RangeForwardTile>(range);
    check_head<fa::kSm90NarrowRangeForwardTile>(range);
  }
}

/// Windows whose first tiles come last: every tile of every head once, and those of the last section longest first.
template <int kRow>
void check_short_tiles_last(int heads, int batch, int q_tiles, int short_tiles) {
  using Config = RangeConfig<kRow>;
  fa::sm90::ModifiedForwardParams params{};
  params.q_tiles = q_tiles;
  params.heads_q = heads;
  params.heads = fa::FastDivisor(heads);
  params.num_units = q_tiles * heads * batch;
  params.first_row = short_tiles * Config::kTileQ;
  params.units_of_head = fa::FastDivisor(std::max(q_tiles - short_tiles, 1));
  params.whole_units = (q_tiles - short_tiles) * heads * batch;
  params.last_section_heads = fa::FastDivisor(heads * batch);
  std::set<std::tuple<int, int, int>> taken;
  emulator::grid_blocks = 7;
  for (int worker = 0; worker < 7 * Config::kTeams; ++worker) {
    emulator::run_block(worker % 7, 32, 0, [&] {
      if (threadIdx.x != 0) return;
      int row_before = INT_MAX;
      for (fa::sm90::ModifiedWorkIterator<Config> work(params, worker / 7); !work.done(); work.advance()) {
        fa::sm90::SequenceExtents extents{};
        const fa::sm90::WorkTile tile = work.tile(extents);
        EXPECT_TRUE(taken.emplace(tile.first_row, tile.head, tile.batch).second) << "row " << tile.first_row << " of head " << tile.head;
        EXPECT_TRUE(tile.first_row >= 0 && tile.first_row < q_tiles * Config::kTileQ && tile.head < heads && tile.batch < batch);
        const bool is_short = tile.first_row < short_tiles * Config::kTileQ;
        EXPECT_TRUE(is_short ? tile.first_row <= row_before : row_before == INT_MAX);
        row_before = is_short ? tile.first_row : INT_MAX;
      }
    });
  }
  EXPECT_EQ(taken.size(), static_cast<size_t>(params.num_units));
}

template <int kNumTeams>
struct TeamsConfig : RangeConfig<fa::kSm90RangeForwardTile> {
  static constexpr int kTeams = kNumTeams;
};

/// Sequences: every tile of every head once, whoever asks for it; section by section of heads, in the order of the table.
template <typename Config>
void check_sequences(int heads, int section_heads, const std::vector<int>& lengths, bool causal, int blocks) {
  const auto tiles_of = [](int length) { return (length + Config::kTileQ - 1) / Config::kTileQ; };
  std::vector<int32_t> memory(4, -1);
  memory[0] = memory[1] = 0;
  std::vector<std::pair<int, int>> in_order;  // sequence and tile
  for (size_t i = 0; i < lengths.size(); ++i) {
    const int sequence = static_cast<int>(i);
    for (int tile = 0; tile < tiles_of(lengths[i]); ++tile, ++memory[0]) {
      in_order.emplace_back(sequence, causal ? tiles_of(lengths[i]) - 1 - tile : tile);
      memory.insert(memory.end(), {sequence, tile, 1000 * sequence, lengths[i], 2000 * sequence, lengths[i] + 7, 0, 0});
    }
  }
  std::vector<fa::SequenceTile> aligned(memory.size() / 8 + 1);
  int32_t* const data = reinterpret_cast<int32_t*>(aligned.data());
  std::copy(memory.begin(), memory.end(), data);
  fa::sm90::ModifiedForwardParams params{};
  params.sequences = {data, memory[0]};
  params.heads_q = heads;
  params.causal = causal;
  const int last_section = std::max(heads / section_heads - 2, 0), num_items = memory[0] * heads;
  params.section_heads = fa::FastDivisor(section_heads);
  params.last_section = last_section;
  params.last_section_heads = fa::FastDivisor(heads - last_section * section_heads);
  using Work = fa::sm90::ModifiedWorkIterator<Config>;
  std::vector<Work> works;
  std::vector<int> items;
  emulator::grid_blocks = blocks;
  for (int block = 0; block < blocks; ++block) {
    emulator::run_block(block, 32, 0, [&] {
      if (threadIdx.x != 0) return;
      for (int team = 0; team < Config::kTeams; ++team) {
        works.emplace_back(params, team);
        items.push_back(team * blocks + block);
      }
    });
  }
  std::set<std::tuple<int, int, int>> taken;
  emulator::run_block(0, 32, 0, [&] {
    if (threadIdx.x != 0) return;
    std::mt19937 random(5);
    std::vector<size_t> busy(works.size());
    std::iota(busy.begin(), busy.end(), size_t{0});
    while (!busy.empty()) {
      std::swap(busy[random() % busy.size()], busy.back());
      const size_t worker = busy.back();
      Work& work = works[worker];
      const int item = items[worker];
      EXPECT_EQ(work.done(), item >= num_items);
      if (work.done()) {
        busy.pop_back();
        continue;
      }
      fa::sm90::SequenceExtents extents{};
      const fa::sm90::WorkTile tile = work.tile(extents);
      EXPECT_TRUE(taken.emplace(tile.first_row, tile.head, tile.batch).second) << "row " << tile.first_row << " of head " << tile.head;
      const int section = std::min(item / (section_heads * memory[0]), last_section), in_section = item - section * section_heads * memory[0];
      const int section_width = section == last_section ? heads - last_section * section_heads : section_heads;
      const auto& expected = in_order[static_cast<size_t>(in_section / section_width)];
      EXPECT_TRUE(tile.batch == expected.first && tile.first_row == expected.second * Config::kTileQ) << "item " << item;
      EXPECT_EQ(tile.head, section * section_heads + in_section % section_width);
      const int length = lengths[static_cast<size_t>(tile.batch)];
      EXPECT_TRUE(extents.len_q == length && extents.len_kv == length + 7 && extents.q_begin == 1000 * tile.batch && extents.kv_begin == 2000 * tile.batch);
      items[worker] = Config::kTeams * blocks + *params.sequences.counter();
      work.take();
      work.advance();
    }
  });
  EXPECT_EQ(taken.size(), static_cast<size_t>(num_items));
}

TEST(ForwardRanges, SequencesAreTakenOnce) {
  const std::vector<std::vector<int>> all_lengths = {{}, {1}, {5000, 900, 193, 192, 3, 1}, std::vector<int>(150, 20)};
  for (const auto& lengths : all_lengths) {
    for (const auto& [heads, section_heads] : {std::pair{1, 1}, std::pair{6, 2}, std::pair{16, 2}, std::pair{16, 5}, std::pair{16, 16}, std::pair{3, 2}}) {
      for (const int blocks : {1, 7, 132}) {
        SCOPED_TRACE(testing::Message() << lengths.size() << " sequences, " << heads << " heads, sections of " << section_heads << ", " << blocks << " blocks");
        check_sequences<TeamsConfig<1>>(heads, section_heads, lengths, blocks == 7, blocks);
        check_sequences<TeamsConfig<2>>(heads, section_heads, lengths, blocks == 7, blocks);
      }
    }
  }
}

TEST(ForwardRanges, ShortTilesComeLast) {
  for (const int heads : {1, 3, 16}) {
    for (const int batch : {1, 2}) {
      for (const int q_tiles : {1, 5, 43}) {
        for (int short_tiles = 1; short_tiles <= q_tiles; short_tiles += 2) {
          SCOPED_TRACE(testing::Message() << heads << " heads, batch " << batch << ", " << short_tiles << " of " << q_tiles << " tiles");
          check_short_tiles_last<fa::kSm90RangeForwardTile>(heads, batch, q_tiles, short_tiles);
          check_short_tiles_last<fa::kSm90NarrowRangeForwardTile>(heads, batch, q_tiles, short_tiles);
        }
      }
    }
  }
}

/// A causal window of 1024: with half tiles at both ends, tiles of 128 keys form as many keys as those of 64.
TEST(ForwardRanges, HalfTilesFormAsFewKeysAsSmallTiles) {
  for (const int left : {127, 511, 1023}) {
    PairRange range;
    range.len_q = range.len_kv = 192 * 64;
    range.left = left;
    range.right = 0;
    EXPECT_EQ(check_head<0>(range), check_head<fa::kSm90RangeForwardTile>(range)) << "window of " << left + 1;
    EXPECT_EQ(check_head<0>(range), check_head<fa::kSm90NarrowRangeForwardTile>(range)) << "window of " << left + 1;
  }
}

}  // namespace
}  // namespace fa_test
