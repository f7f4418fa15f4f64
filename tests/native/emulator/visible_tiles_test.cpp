// The kernels that turn boolean masks and block masks into lists of visible tiles: every tile is in the list that the masks and the range ask for, with the
// states of its units, the bits of a unit are its pairs in the order of accumulators, and the order of lists is by length. Guards around the masks and the
// workspace must stay as they were, and no byte outside of a mask may count.
#include "attention/visible_tiles.cuh"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <set>
#include <vector>

#include "emulator.h"

namespace fa_test {
namespace {

using fa::VisibleEntry;

struct MaskCase {
  const char* name;
  int len_q, len_kv;
  int tile_q = 128;
  bool of_q = true;
  fa::Mask mask = fa::Mask::kNone;
  int window_left = -1, window_right = -1;
  bool visible = true;
  int batches = 1, heads = 1;  ///< of `visible`
  bool one_row = false;
  double density = 0.0;           ///< of single visible pairs; 0: documents, 2: everything, -1: nothing
  bool one_odd = false;           ///< of everything or nothing, but for a pair of each unit
  int block_q = 0, block_kv = 0;  ///< 0: no block mask, else one for each of two heads
  int row_padding = 0;            ///< bytes behind a row of `visible`
  int planes_per_group = 1;
};

std::ostream& operator<<(std::ostream& out, const MaskCase& c) {
  return out << c.name;
}

class Lists {
 public:
  static constexpr int kBatch = 2, kHeads = 2;
  static constexpr uint8_t kGuard = 0xA5;

  explicit Lists(const MaskCase& c) : c_(c), random_(7) {
    problem_.batch = kBatch;
    problem_.heads_q = kHeads;
    problem_.len_q = c.len_q;
    problem_.len_kv = c.len_kv;
    problem_.mask = c.mask;
    problem_.scale = 1.0f;
    fa::Variants& v = problem_.variants;
    v.window_left = c.window_left;
    v.window_right = c.window_right;
    fa::VariantArgs args;
    if (c.visible) {
      v.visible = true;
      v.mask_batches = std::max(v.mask_batches, c.batches);
      v.mask_heads = std::max(v.mask_heads, c.heads);
      args.visible = make_visible();
    }
    if (c.block_q > 0) {
      v.block_mask = true;
      v.block_q = c.block_q;
      v.block_kv = c.block_kv;
      v.mask_heads = kHeads;
      args.block_mask = make_blocks();
    }
    layout_ = fa::visible_tiles_layout(problem_, c.of_q, c.tile_q, c.planes_per_group);
    workspace_.assign(layout_.total_bytes / 16 + 4, {kPattern, kPattern});
    job_ = fa::visible_tiles_job(fa::score_params_of(problem_, args), layout_, workspace_.data());
  }

  void run() {
    emulator::grid_blocks = static_cast<unsigned>(fa::visible_unit_blocks(job_));
    for (int block = 0; block < static_cast<int>(emulator::grid_blocks); ++block) {
      using Shared = fa::VisibleUnitsConfig::Shared;
      emulator::run_block(block, fa::VisibleUnitsConfig::kThreads, sizeof(Shared),
                          [&] { fa::VisibleUnitsBlock<fa::VisibleUnitsConfig>(job_, *reinterpret_cast<Shared*>(emulator::shared_memory())).run(); });
    }
    emulator::grid_blocks = static_cast<unsigned>(fa::visible_list_blocks(job_.tiles) * job_.tiles.num_groups);
    for (int block = 0; block < static_cast<int>(emulator::grid_blocks); ++block) {
      using Shared = fa::VisibleListsConfig::Shared;
      emulator::run_block(block, fa::VisibleListsConfig::kThreads, sizeof(Shared),
                          [&] { fa::VisibleListsBlock<fa::VisibleListsConfig>(job_, *reinterpret_cast<Shared*>(emulator::shared_memory())).run(); });
    }
  }

  void check() const {
    EXPECT_EQ(job_.tiles.counter[0], 0);
    for (size_t i = layout_.total_bytes / 16; i < workspace_.size(); ++i) {
      ASSERT_EQ(workspace_[i].first, kPattern) << "a write behind the workspace";
    }
    for (int plane = 0; plane < layout_.planes; ++plane) {
      for (int tile = 0; tile < layout_.tiles; ++tile) {
        check_list(plane, tile);
      }
    }
    for (int group = 0; group < layout_.num_groups(); ++group) {
      check_order(group);
    }
  }

 private:
  static constexpr uint64_t kPattern = 0x5A5A5A5A5A5A5A5A;

  fa::PairTensor make_visible() {
    const int rows = c_.one_row ? 1 : c_.len_q, stride = c_.len_kv + c_.row_padding;
    visible_.assign(static_cast<size_t>(c_.batches * c_.heads * rows * stride) + 64, kGuard);
    std::uniform_real_distribution<double> uniform;
    for (int plane = 0; plane < c_.batches * c_.heads; ++plane) {
      std::vector<int> document(static_cast<size_t>(std::max(c_.len_q, c_.len_kv)));
      for (size_t i = 1; i < document.size(); ++i) {
        document[i] = document[i - 1] + (uniform(random_) < 1.0 / 150 ? 1 : 0);
      }
      for (int row = 0; row < rows; ++row) {
        for (int key = 0; key < c_.len_kv; ++key) {
          const bool same_document = document[static_cast<size_t>(row)] == document[static_cast<size_t>(key)];
          const int unit = row / 64 * 7 + key / 128;  // one pair of each unit is different, in every lane of the warp that reads it
          const bool odd_one = row % 64 == 63 - unit % 64 && key % 128 == 127 - unit * 16 % 128;
          const bool seen = c_.one_odd ? odd_one != (c_.density > 0) : c_.density == 0 ? same_document : uniform(random_) < c_.density;
          visible_[offset_ + static_cast<size_t>((plane * rows + row) * stride + key)] = seen ? static_cast<uint8_t>(1 + random_() % 255) : 0;
        }
      }
    }
    offset_ = 0;
    // Aligned, so that the vector path is taken where strides allow.
    const size_t misaligned = reinterpret_cast<uintptr_t>(visible_.data()) % 16;
    EXPECT_EQ(misaligned, 0u);
    fa::PairTensor tensor{visible_.data(), c_.batches > 1 ? int64_t{c_.heads} * rows * stride : 0, c_.heads > 1 ? int64_t{rows} * stride : 0,
                          c_.one_row ? 0 : stride};
    tensor.batches = c_.batches;
    tensor.heads = c_.heads;
    tensor.rows = rows;
    return tensor;
  }

  fa::PairTensor make_blocks() {
    const int rows = (c_.len_q + c_.block_q - 1) / c_.block_q, columns = (c_.len_kv + c_.block_kv - 1) / c_.block_kv;
    blocks_.resize(static_cast<size_t>(kHeads * rows * columns));
    for (uint8_t& block : blocks_) {
      block = random_() % 2 == 0 ? 0 : 4;
    }
    fa::PairTensor tensor{blocks_.data(), 0, int64_t{rows} * columns, columns};
    tensor.heads = kHeads;
    tensor.rows = rows;
    return tensor;
  }

  /// What the masks say of a pair that exists; of others true.
  bool masks_show(int plane, int row, int key) const {
    if (row >= c_.len_q || key >= c_.len_kv) {
      return true;
    }
    const int batch = plane / static_cast<int>(layout_.heads), head = plane % static_cast<int>(layout_.heads);
    const auto at = [&](const fa::PairTensor& tensor, int i, int j) {
      return static_cast<const uint8_t*>(tensor.data)[batch * tensor.batch_stride + head * tensor.head_stride + i * tensor.row_stride + j] != 0;
    };
    return (job_.visible.data == nullptr || at(job_.visible, row, key)) &&
           (job_.block_mask.data == nullptr || at(job_.block_mask, row / c_.block_q, key / c_.block_kv));
  }

  /// Whether the pair is hidden as far as bits tell: in lists of key tiles they know the range.
  bool bits_show(int plane, int row, int key) const {
    const bool ranged = !job_.tiles.bits_know_range() || (job_.range.sees(row, key) && key < c_.len_kv);
    return ranged && masks_show(plane, row, key);
  }

  /// States of the units of a pair of tiles in an entry, and whether and how it is to be listed: 0 hidden, 1 mixed, 2 whole. halves: bit h: some pair with keys
  /// 64 h … 64 h + 63 is visible.
  int expected(int plane, int q_tile, int key_tile, uint32_t* states, bool* ranged, int* halves) const {
    const fa::PairRange& range = job_.range;
    bool seen = false, whole = true;
    *states = 0;
    *ranged = false;
    *halves = 0;
    const bool knows_range = job_.tiles.bits_know_range();
    for (int unit = 0; unit < c_.tile_q / 64; ++unit) {
      bool any = false, all = true, in_range = false, any_row = false;
      for (int row = q_tile * c_.tile_q + 64 * unit, end = row + 64; row < end; ++row) {
        any_row = any_row || row < c_.len_q;
        for (int key = 128 * key_tile; key < 128 * (key_tile + 1); ++key) {
          const bool exists = row < c_.len_q && key < c_.len_kv, shown = masks_show(plane, row, key);
          const bool sees = range.sees(row, key) && key < c_.len_kv;
          in_range = in_range || sees;
          any = any || (exists && bits_show(plane, row, key));
          all = all && bits_show(plane, row, key);
          *halves |= sees && shown ? 1 << (key % 128 / 64) : 0;
          seen = seen || (sees && shown);
          whole = whole && shown && (sees || (row >= c_.len_q && c_.of_q && key < c_.len_kv));
          *ranged = *ranged || (!sees && !(row >= c_.len_q && c_.of_q && key < c_.len_kv));
        }
      }
      const uint32_t state = !any_row            ? (knows_range ? fa::kVisibleNone : fa::kVisibleAll)
                             : !any || !in_range ? fa::kVisibleNone
                             : all               ? fa::kVisibleAll
                                                 : fa::kVisibleSome;
      *states |= state << (2 * unit);
    }
    return !seen ? 0 : whole ? 2 : 1;
  }

  void check_list(int plane, int tile) const {
    const fa::VisibleTiles& t = job_.tiles;
    const int list = plane * t.tiles + tile;
    std::map<int, std::pair<VisibleEntry, bool>> listed;
    std::map<int, int> parts;
    for (int i = 0; i < t.counts[list].mixed; ++i) {
      parts[t.mixed_entry(list, i).tile()] = t.halves == nullptr ? 3 : i < t.halves[list].first ? 1 : i < t.halves[list].second ? 2 : 3;
      EXPECT_TRUE(listed.emplace(t.mixed_entry(list, i).tile(), std::pair{t.mixed_entry(list, i), false}).second);
    }
    for (int i = 0; i < t.counts[list].whole; ++i) {
      EXPECT_TRUE(listed.emplace(t.whole_entry(list, i).tile(), std::pair{t.whole_entry(list, i), true}).second);
    }
    for (int other = 0; other < t.capacity; ++other) {
      const int q_tile = c_.of_q ? tile : other, key_tile = c_.of_q ? other : tile;
      uint32_t states = 0;
      bool ranged = false;
      int halves = 0;
      const int wanted = expected(plane, q_tile, key_tile, &states, &ranged, &halves);
      const auto found = listed.find(other);
      if (found == listed.end()) {
        ASSERT_EQ(wanted, 0) << "plane " << plane << " q tile " << q_tile << " key tile " << key_tile << " is missing";
        continue;
      }
      const VisibleEntry entry = found->second.first;
      ASSERT_FALSE(found->second.second && wanted != 2) << "plane " << plane << " q tile " << q_tile << " key tile " << key_tile << " is not whole";
      // Tiles may be listed for nothing where masks and range show different pairs of them, but not where either hides all.
      ASSERT_FALSE(wanted == 2 && !found->second.second) << "plane " << plane << " q tile " << q_tile << " key tile " << key_tile << " is whole";
      ASSERT_TRUE(entry.ranged() || !ranged);
      if (wanted == 1) {
        ASSERT_EQ(parts[other], t.halves == nullptr ? 3 : halves) << "plane " << plane << " q tile " << q_tile << " key tile " << key_tile;
      }
      for (int unit = 0; unit < t.tile_groups; ++unit) {
        ASSERT_EQ(entry.state(unit), static_cast<int>(states >> (2 * unit) & 3u)) << "q tile " << q_tile << " key tile " << key_tile << " unit " << unit;
        if (entry.state(unit) == fa::kVisibleSome) {
          check_bits(plane, q_tile * t.tile_groups + unit, key_tile);
        }
      }
      EXPECT_NE(states, 0u);
    }
  }

  void check_bits(int plane, int row_unit, int key_unit) const {
    const fa::VisibleTiles& t = job_.tiles;
    const uint32_t* words = t.unit_bits((plane * t.row_units + row_unit) * t.key_units + key_unit);
    for (int row = 0; row < 64; ++row) {
      for (int key = 0; key < 128; ++key) {
        if (!t.bits_know_range() && (64 * row_unit + row >= c_.len_q || 128 * key_unit + key >= c_.len_kv)) {
          continue;
        }
        // As a thread of the main kernels finds them: lane l of warp w holds accumulators 4 j + 2 r + e of row 16 w + l / 4 + 8 r and column 8 j + 2 (l % 4) +
        // e.
        const int accumulator_row = c_.of_q ? row : key, column = c_.of_q ? key : row;
        const int warp = accumulator_row / 16, r = accumulator_row / 8 % 2, lane = accumulator_row % 8 * 4 + column / 2 % 4, j = column / 8, e = column % 2;
        const bool bit = c_.of_q ? (words[warp * 64 + lane * 2 + r] >> (2 * j + e) & 1u) != 0 : (words[warp * 32 + lane] >> (16 * r + 2 * j + e) & 1u) != 0;
        ASSERT_EQ(bit, bits_show(plane, 64 * row_unit + row, 128 * key_unit + key)) << "row " << row << " key " << key;
      }
    }
  }

  void check_order(int group) const {
    const fa::VisibleTiles& t = job_.tiles;
    std::set<int> lists;
    const auto length = [&](int list) { return t.counts[list].mixed + t.counts[list].whole; };
    for (int i = 0; i < t.group_lists; ++i) {
      const int list = t.order[group * t.group_lists + i];
      EXPECT_EQ(list / t.group_lists, group);
      lists.insert(list);
      if (i > 0 && t.capacity < fa::VisibleListsConfig::kBuckets) {
        EXPECT_LE(length(list), length(t.order[group * t.group_lists + i - 1]));
      }
    }
    EXPECT_EQ(static_cast<int>(lists.size()), t.group_lists);
  }

  const MaskCase c_;
  std::mt19937 random_;
  fa::Problem problem_;
  std::vector<uint8_t> visible_, blocks_;
  size_t offset_ = 0;
  fa::VisibleTilesLayout layout_{};
  std::vector<std::pair<uint64_t, uint64_t>> workspace_;
  fa::VisibleTilesJob job_;
};

class VisibleTiles : public testing::TestWithParam<MaskCase> {};

TEST_P(VisibleTiles, ListsWhatMasksShow) {
  Lists lists(GetParam());
  lists.run();
  lists.check();
}

using fa::Mask;
INSTANTIATE_TEST_SUITE_P(
    Cases, VisibleTiles,
    testing::Values(
        MaskCase{.name = "documents", .len_q = 512, .len_kv = 512}, MaskCase{.name = "documents_of_keys", .len_q = 512, .len_kv = 512, .of_q = false},
        MaskCase{.name = "documents_of_keys_64", .len_q = 512, .len_kv = 512, .tile_q = 64, .of_q = false},
        MaskCase{.name = "three_units", .len_q = 500, .len_kv = 384, .tile_q = 192, .batches = 2},
        MaskCase{.name = "odd_lengths", .len_q = 301, .len_kv = 259, .batches = 2, .heads = 2, .planes_per_group = 2},
        MaskCase{.name = "odd_lengths_of_keys", .len_q = 301, .len_kv = 259, .tile_q = 64, .of_q = false, .heads = 2},
        MaskCase{.name = "padded_rows", .len_q = 130, .len_kv = 250, .density = 0.97, .row_padding = 6},
        MaskCase{.name = "random", .len_q = 200, .len_kv = 256, .density = 0.5},
        MaskCase{.name = "random_of_keys", .len_q = 200, .len_kv = 256, .of_q = false, .density = 0.5},
        MaskCase{.name = "sparse", .len_q = 700, .len_kv = 640, .density = 0.0001}, MaskCase{.name = "all", .len_q = 300, .len_kv = 300, .density = 2},
        MaskCase{.name = "nothing", .len_q = 300, .len_kv = 300, .density = -1},
        MaskCase{.name = "all_of_keys", .len_q = 300, .len_kv = 300, .tile_q = 64, .of_q = false, .density = 2},
        MaskCase{.name = "key_padding", .len_q = 300, .len_kv = 384, .batches = 2, .one_row = true},
        MaskCase{.name = "key_padding_odd", .len_q = 100, .len_kv = 333, .batches = 2, .one_row = true},
        MaskCase{.name = "causal", .len_q = 400, .len_kv = 512, .mask = Mask::kCausalBottomRight},
        MaskCase{.name = "causal_of_keys", .len_q = 512, .len_kv = 400, .tile_q = 64, .of_q = false, .mask = Mask::kCausalTopLeft},
        MaskCase{.name = "causal_all_of_keys", .len_q = 500, .len_kv = 530, .tile_q = 64, .of_q = false, .mask = Mask::kCausalBottomRight, .density = 2},
        MaskCase{
            .name = "window_of_keys", .len_q = 600, .len_kv = 600, .of_q = false, .mask = Mask::kWindowBottomRight, .window_left = 150, .window_right = 10},
        MaskCase{.name = "small_blocks_causal",
                 .len_q = 300,
                 .len_kv = 500,
                 .of_q = false,
                 .mask = Mask::kCausalTopLeft,
                 .visible = false,
                 .block_q = 16,
                 .block_kv = 48},
        MaskCase{.name = "blocks_causal_of_keys",
                 .len_q = 300,
                 .len_kv = 500,
                 .tile_q = 64,
                 .of_q = false,
                 .mask = Mask::kCausalTopLeft,
                 .visible = false,
                 .block_q = 64,
                 .block_kv = 128},
        MaskCase{.name = "causal_all", .len_q = 512, .len_kv = 512, .mask = Mask::kCausalTopLeft, .density = 2},
        MaskCase{.name = "window", .len_q = 600, .len_kv = 600, .mask = Mask::kWindowBottomRight, .window_left = 150, .window_right = 10, .density = 2},
        MaskCase{.name = "blocks", .len_q = 512, .len_kv = 512, .visible = false, .block_q = 128, .block_kv = 128},
        MaskCase{.name = "blocks_64", .len_q = 500, .len_kv = 512, .visible = false, .block_q = 64, .block_kv = 128},
        MaskCase{.name = "small_blocks", .len_q = 300, .len_kv = 500, .visible = false, .block_q = 16, .block_kv = 48},
        MaskCase{.name = "small_blocks_of_keys", .len_q = 300, .len_kv = 500, .tile_q = 64, .of_q = false, .visible = false, .block_q = 48, .block_kv = 16},
        MaskCase{.name = "blocks_and_pairs", .len_q = 400, .len_kv = 512, .batches = 2, .block_q = 64, .block_kv = 32, .planes_per_group = 4},
        MaskCase{.name = "blocks_causal", .len_q = 512, .len_kv = 512, .mask = Mask::kCausalBottomRight, .visible = false, .block_q = 128, .block_kv = 128},
        MaskCase{.name = "holes", .len_q = 1024, .len_kv = 896, .density = 2, .one_odd = true},
        MaskCase{.name = "needles", .len_q = 1024, .len_kv = 896, .density = -1, .one_odd = true},
        MaskCase{.name = "one_pair", .len_q = 1, .len_kv = 1, .density = 2}, MaskCase{.name = "long_keys", .len_q = 70, .len_kv = 5000}),
    [](const testing::TestParamInfo<MaskCase>& p) { return p.param.name; });

/// Key padding has a byte per key, and bits of all pairs.
TEST(VisibleTilesLayout, TakesNoMoreThanFourGigabytes) {
  const auto fits = [](int64_t length, int batches, int heads, bool pairs, int block) {
    fa::Problem problem;
    problem.len_q = problem.len_kv = length;
    problem.variants.visible = pairs;
    problem.variants.block_mask = block > 0;
    problem.variants.block_q = problem.variants.block_kv = block;
    problem.variants.mask_batches = batches;
    problem.variants.mask_heads = heads;
    return fa::visible_tiles_fit(fa::visible_tiles_layout(problem, /*of_q=*/false, 64));
  };
  EXPECT_TRUE(fits(8192, 16, 16, true, 0));
  EXPECT_TRUE(fits(65536, 4, 1, true, 0));
  EXPECT_FALSE(fits(65536, 16, 1, true, 0));
  EXPECT_TRUE(fits(65536, 2, 32, false, 128)) << "whole blocks have no bits";
  EXPECT_FALSE(fits(65536, 2, 32, false, 16));
  EXPECT_FALSE(fits(int64_t{1} << 29, 64, 64, true, 0));
}

}  // namespace
}  // namespace fa_test
