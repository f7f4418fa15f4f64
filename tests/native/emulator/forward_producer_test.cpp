// The producer of the Hopper forward kernels with modified scores (kernels/sm90/forward/modified_producer.cuh) against a model of its consumers, which takes
// part in the rings as consumer.cuh does: every work tile once, with its messages and with its tiles of q, k and v in their order; messages stay until the tile
// is done; nobody waits for ever, however short work tiles are.
#include <gtest/gtest.h>

#include <algorithm>
#include <climits>
#include <cstring>
#include <vector>

#include "emulator.h"
#include "kernels/sm90/forward/config.h"
#include "kernels/sm90/forward/modified_producer.cuh"
#include "rings_model.h"

namespace fa_test {
namespace {

using fa::sm90::ModifiedForwardParams;

bool same(const int4& a, const int4& b) {
  return a.x == b.x && a.y == b.y && a.z == b.z && a.w == b.w;
}

template <typename Config>
class ConsumerModel : public RingsModel<Config, ModifiedForwardParams> {
  using Rings = RingsModel<Config, ModifiedForwardParams>;
  using Rings::params_, Rings::smem_, Rings::warpgroup_, Rings::items_, Rings::batch_, Rings::first_key_, Rings::kv_head_, Rings::staged_, Rings::q_;
  using Rings::take_k, Rings::take_v, Rings::release_q, Rings::release_staged_q, Rings::expect_box;

 public:
  using Rings::Rings;

  void run() {
    while (work_tile()) {
    }
  }

 private:
  static constexpr int kMessages = fa::sm90::SequenceWorkTile::num_messages(Config::kWarpgroups);

  /// False after the last one.
  bool work_tile() {
    fa::ptx::mbarrier_wait(&smem_.q_full[q_.stage()], q_.phase());
    const int4* const s_messages = smem_.sequence_work[q_.template slot<Config::kWorkSlots>()];
    const int4 work = s_messages[0];
    if (work.w == fa::sm90::kNoMoreWork) return false;
    said_.assign(s_messages, s_messages + kMessages);
    EXPECT_TRUE(items_.emplace(work.z, work.x, work.y).second) << "row " << work.x << " of head " << work.y << ", sequence " << work.z;
    check_messages();
    const fa::sm90::SequenceExtents extents{said_[1].x, said_[1].y, said_[1].z, said_[1].w};
    batch_ = params_.packed ? 0 : work.z;
    first_key_ = extents.kv_begin;
    kv_head_ = params_.group_size.quotient(work.y);
    if (work.w > 0) expect_box(smem_.q(q_.stage()), params_.map_q, extents.q_begin + work.x, work.y);
    const int end = said_[static_cast<size_t>(2 + 2 * warpgroup_)].y, begin = said_[static_cast<size_t>(2 + 2 * warpgroup_)].w;
    const int4 edges = said_[static_cast<size_t>(3 + 2 * warpgroup_)];
    for (int n = work.w - 1; n >= std::max(end, edges.x); --n) {
      take_k(n);
      take_v(n);
    }
    if (end == 0) {
      release_staged_q();
      release_q();
      return true;
    }
    take_k(end - 1);
    release_staged_q();
    for (int n = end - 2; n >= begin; --n) {
      take_k(n);
      take_v(n + 1);
    }
    if (!Config::kStagesInQ) release_q();
    take_v(begin);
    for (int n = begin - 1; n >= begin - edges.z; --n) {
      take_k(n);
      take_v(n);
    }
    for (int i = 0; i < kMessages; ++i) EXPECT_TRUE(same(s_messages[i], said_[static_cast<size_t>(i)])) << "written again before the tile is done";
    if (Config::kStagesInQ) {
      q_.advance();
      staged_ = true;
    }
    return true;
  }

  void check_messages() const {
    const fa::sm90::WorkTile tile{said_[0].x, said_[0].y, said_[0].z};
    const fa::sm90::SequenceExtents extents{said_[1].x, said_[1].y, said_[1].z, said_[1].w};
    const fa::sm90::KeyTiles keys = fa::sm90::key_tiles<Config::kTileKv>(range_of(params_, extents), tile.first_row, Config::kTileQ);
    int4 expected[kMessages];
    fa::sm90::write_messages<Config>(params_, expected, tile, extents, keys.end, keys.begin);
    for (int i = 0; i < kMessages; ++i) EXPECT_TRUE(same(expected[i], said_[static_cast<size_t>(i)])) << "message " << i;
  }

  std::vector<int4> said_;
};

template <typename Config>
ModifiedForwardParams params_of(int heads, int section_heads) {
  ModifiedForwardParams params{};
  set_box(params.map_q, Config::kTileQ);
  set_box(params.map_k, Config::kTileKv);
  set_box(params.map_v, Config::kTileKv);
  set_box(params.map_bias, Config::kTileQ);
  params.heads_q = heads;
  params.group_size = fa::FastDivisor(2);
  params.section_heads = fa::FastDivisor(section_heads);
  params.last_section = std::max(heads / section_heads - 2, 0);
  params.last_section_heads = fa::FastDivisor(heads - params.last_section * section_heads);
  return params;
}

/// The teams of all blocks, one after the other: the first ones take what the counter has.
template <typename Config>
Items run_blocks(const ModifiedForwardParams& params, int blocks) {
  Items all;
  emulator::grid_blocks = static_cast<unsigned>(blocks);
  for (int worker = 0; worker < blocks * Config::kTeams; ++worker) {
    emulator::run_block(worker % blocks, 32, 0, [&] {
      if (threadIdx.x != 0) return;
      const auto produce = [&](const ModifiedForwardParams& p, typename Config::SharedStorage& smem) {
        fa::sm90::produce_modified<Config>(p, smem, worker / blocks);
      };
      for (const auto& item : run_roles<Config, ConsumerModel<Config>>(params, produce)) EXPECT_TRUE(all.insert(item).second) << "taken twice";
    });
  }
  return all;
}

/// Lengths of queries and of keys, packed.
template <typename Config>
void check_sequences(const std::vector<std::pair<int, int>>& lengths, bool causal) {
  constexpr int kHeads = 6, kBlocks = 3;
  std::vector<fa::SequenceTile> memory(1);  // half of it is the header
  int q_begin = 0, kv_begin = 0, num_tiles = 0;
  Items expected;
  std::vector<fa::SequenceTile> tiles;
  for (size_t i = 0; i < lengths.size(); ++i) {
    const auto [len_q, len_kv] = lengths[i];
    for (int tile = 0; tile * Config::kTileQ < len_q; ++tile, ++num_tiles) {
      tiles.push_back({static_cast<int32_t>(i), tile, q_begin, len_q, kv_begin, len_kv, 0, 0});
      for (int head = 0; head < kHeads; ++head) expected.emplace(static_cast<int>(i), tile * Config::kTileQ, head);
    }
    q_begin += len_q;
    kv_begin += len_kv;
  }
  memory.resize(tiles.size() + 1);
  int32_t* const data = reinterpret_cast<int32_t*>(memory.data());
  data[0] = num_tiles;
  data[1] = 0;
  std::memcpy(data + 4, tiles.data(), tiles.size() * sizeof(fa::SequenceTile));
  ModifiedForwardParams params = params_of<Config>(kHeads, 2);
  params.sequences = {data, num_tiles};
  params.packed = true;
  params.causal = causal;
  params.scores.range.bottom_right = true;
  params.scores.range.right = causal ? 0 : fa::PairRange::kUnlimited;
  params.scores.range.left = fa::PairRange::kUnlimited;
  EXPECT_EQ(run_blocks<Config>(params, kBlocks), expected);
  EXPECT_EQ(data[1], num_tiles * kHeads) << "one is asked for with each that is taken";
}

template <typename Config>
void check_config() {
  for (const bool causal : {false, true}) {
    // Work tiles of every small number of key tiles, each behind each.
    std::vector<std::pair<int, int>> lengths;
    for (const int before : {0, 1, 2, 3, 4, 5, 9}) {
      for (const int tiles : {0, 1, 2, 3, 4, 5, 9}) {
        lengths.emplace_back(before % 3 == 0 ? 1 : Config::kTileQ, std::max(before * Config::kTileKv - 1, 0));
        lengths.emplace_back(tiles % 2 == 0 ? Config::kTileQ + 1 : 60, tiles * Config::kTileKv);
      }
    }
    check_sequences<Config>(lengths, causal);
    check_sequences<Config>({{700, 700}, {1, 5}, {0, 70}, {300, 0}}, causal);
    check_sequences<Config>({}, causal);
  }
}

TEST(ForwardProducer, Sequences) {
  check_config<fa::sm90::ModifiedForward<__half, fa::kSm90RangeForwardTile, 1>>();
  check_config<fa::sm90::ModifiedForward<__half, fa::kSm90NarrowRangeForwardTile, 1>>();
  check_config<fa::sm90::ModifiedForward<__half, 2, 1>>();
  check_config<fa::sm90::ModifiedForward<__half, fa::kSm90BiasForwardTile, fa::kSm90BiasSet>>();
}

/// Without sequences: windows of batch entries of full length.
template <typename Config>
void check_windows() {
  for (const int window : {1, 100, 1000}) {
    constexpr int kHeads = 4, kBatch = 2, kLength = 1000, kTiles = (kLength + Config::kTileQ - 1) / Config::kTileQ;
    ModifiedForwardParams params = params_of<Config>(kHeads, kHeads);
    params.len_q = kLength;
    params.scores.range.len_q = params.scores.range.len_kv = kLength;
    params.scores.range.left = window - 1;
    params.scores.range.right = 0;
    params.q_tiles = kTiles;
    params.units_of_head = fa::FastDivisor(kTiles);
    params.heads = fa::FastDivisor(kHeads);
    params.num_units = kTiles * kHeads * kBatch;
    params.whole_units = params.num_units;
    Items expected;
    for (int batch = 0; batch < kBatch; ++batch) {
      for (int head = 0; head < kHeads; ++head) {
        for (int tile = 0; tile < kTiles; ++tile) expected.emplace(batch, tile * Config::kTileQ, head);
      }
    }
    EXPECT_EQ(run_blocks<Config>(params, 5), expected);
  }
}

TEST(ForwardProducer, Windows) {
  check_windows<fa::sm90::ModifiedForward<__half, fa::kSm90RangeForwardTile, 1>>();
  check_windows<fa::sm90::ModifiedForward<__half, fa::kSm90NarrowRangeForwardTile, 1>>();
}

/// Causal problems in pairs: every row in one tile, and a head's first tile may lie in front of all rows.
TEST(ForwardProducer, PairsOfTilesInFrontOfTheFirstRow) {
  using Config = fa::sm90::ModifiedForward<__half, fa::kSm90NarrowRangeForwardTile, 1>;
  for (const int length : {1600, 1664, 1665, 1792}) {
    constexpr int kHeads = 4;
    fa::Problem problem;
    problem.mask = fa::Mask::kCausalBottomRight;
    problem.len_q = problem.len_kv = length;
    const int tiles = static_cast<int>(fa::sm90_query_tiles(problem, Config::kTile));
    EXPECT_EQ(tiles, 14);
    ModifiedForwardParams params = params_of<Config>(kHeads, kHeads);
    params.len_q = length;
    params.scores.range.len_q = params.scores.range.len_kv = length;
    params.scores.range.left = fa::PairRange::kUnlimited;
    params.scores.range.right = 0;
    params.first_row = -(tiles * Config::kTileQ - length) / 64 * 64;
    params.q_tiles = tiles;
    params.unit_shift = 1;
    params.units_of_head = fa::FastDivisor(tiles / 2);
    params.heads = fa::FastDivisor(kHeads);
    params.num_units = tiles / 2 * kHeads;
    params.whole_units = INT_MAX;
    params.last_head = kHeads - 1;
    Items expected;
    for (int head = 0; head < kHeads; ++head) {
      for (int tile = 0; tile < tiles; ++tile) expected.emplace(0, tile * Config::kTileQ + params.first_row, head);
    }
    EXPECT_EQ(run_blocks<Config>(params, 3), expected);
    EXPECT_TRUE(params.first_row <= 0 && params.first_row + tiles * Config::kTileQ >= length);
  }
}

}  // namespace
}  // namespace fa_test
