// The producer of the Hopper forward kernels without variants (kernels/sm90/forward/producer.cuh) against a model of its consumers, which takes part in the
// rings as consumer.cuh does: every query tile once, each warpgroup's key tiles in the order of the configuration, those that only others see skipped, and
// nobody waits for ever.
#include <gtest/gtest.h>

#include <utility>

#include "emulator.h"
#include "kernels/sm90/forward/config.h"
#include "kernels/sm90/forward/producer.cuh"
#include "rings_model.h"

namespace fa_test {
namespace {

using fa::sm90::ForwardParams;
using fa::sm90::KeyTiles;

template <int kVariant, bool kAscends>
struct OrderedTile {
  static constexpr fa::Sm90ForwardTile kTile = [] {
    fa::Sm90ForwardTile tile = fa::kSm90ForwardTiles[kVariant];
    tile.ascending_keys = kAscends;
    return tile;
  }();
  static constexpr bool kSharesTiles = false;
};
template <int kVariant, bool kAscends>
using Ordered = fa::sm90::ForwardConfig<__half, OrderedTile<kVariant, kAscends>>;

template <typename Config>
class PlainConsumer : public RingsModel<Config, ForwardParams> {
  using Rings = RingsModel<Config, ForwardParams>;
  using Rings::params_, Rings::smem_, Rings::warpgroup_, Rings::items_, Rings::batch_, Rings::kv_head_, Rings::staged_, Rings::q_;
  using Rings::take_k, Rings::take_v, Rings::release_q, Rings::release_staged_q, Rings::expect_box;

 public:
  using Rings::Rings;

  void run() {
    for (;;) {
      fa::ptx::mbarrier_wait(&smem_.q_full[q_.stage()], q_.phase());
      const int4 work = smem_.work[q_.stage()];
      if (work.w == fa::sm90::kNoMoreWork) return;
      EXPECT_TRUE(items_.emplace(work.z, work.x, work.y).second) << "row " << work.x << " of head " << work.y << " twice";
      const int first_row = work.x + 64 * warpgroup_;
      const KeyTiles keys = first_row < 0 ? KeyTiles{0, 0} : fa::sm90::key_tiles<Config::kTileKv>(params_, first_row, 64);
      EXPECT_LE(keys.end, work.w);
      kv_head_ = params_.group_size.quotient(work.y);
      batch_ = work.z;
      if (work.w > 0) expect_box(smem_.q(q_.stage()), params_.map_q, work.x, work.y);
      go_through(keys, work.w);
    }
  }

 private:
  /// Key tiles of the block from 0 or from block_end - 1 on.
  void go_through(const KeyTiles& keys, int block_end) {
    if (!Config::kAscending || keys.end == 0) skip(keys.end, block_end);
    if (keys.end == 0) {
      release_staged_q();
      release_q();
      return;
    }
    const auto nth = [&](int i) { return Config::kAscending ? i : keys.end - 1 - i; };
    take_k(nth(0));
    release_staged_q();
    for (int i = 1; i < keys.end; ++i) {
      take_k(nth(i));
      take_v(nth(i - 1));
    }
    if (!Config::kStagesInQ) release_q();
    take_v(nth(keys.end - 1));
    if (Config::kStagesInQ) {
      q_.advance();
      staged_ = true;
    }
    if (Config::kAscending) skip(keys.end, block_end);
  }
  /// Key tiles that only others see come in the block's order.
  void skip(int begin, int end) {
    for (int i = 0; i < end - begin; ++i) {
      const int n = Config::kAscending ? begin + i : end - 1 - i;
      take_k(n);
      take_v(n);
    }
  }
};

/// offset: row i sees keys up to i + offset; without a mask all.
template <typename Config>
void check_problem(int len_q, int len_kv, bool causal, int offset) {
  SCOPED_TRACE(::testing::Message() << "head_dim " << Config::kHeadDim << ", " << len_q << " x " << len_kv << (causal ? " causal " : " ") << offset);
  constexpr int kHeads = 4, kBatch = 2, kBlocks = 3;
  ForwardParams params{};
  set_box(params.map_q, Config::kTileQ);
  set_box(params.map_k, Config::kTileKv);
  set_box(params.map_v, Config::kTileKv);
  params.len_q = len_q;
  params.len_kv = len_kv;
  params.heads_q = kHeads;
  params.group_size = fa::FastDivisor(2);
  params.causal = causal;
  params.causal_limit = causal ? offset + 1 : len_kv;
  params.q_tiles = (len_q + Config::kTileQ - 1) / Config::kTileQ;
  params.first_row = causal ? (len_q + 63) / 64 * 64 - params.q_tiles * Config::kTileQ : 0;
  params.num_units = params.q_tiles * kHeads * kBatch;
  params.units_of_head = fa::FastDivisor(params.q_tiles);
  params.heads = fa::FastDivisor(kHeads);
  params.last_head = kHeads * kBatch - 1;
  Items all, expected;
  for (int tile = 0; tile < params.q_tiles; ++tile) {
    for (int head = 0; head < kHeads * kBatch; ++head) expected.emplace(head / kHeads, params.first_row + tile * Config::kTileQ, head % kHeads);
  }
  emulator::grid_blocks = kBlocks;
  for (int block = 0; block < kBlocks; ++block) {
    emulator::run_block(block, 32, 0, [&] {
      if (threadIdx.x != 0) return;
      const auto produce = [](const ForwardParams& p, typename Config::SharedStorage& smem) { fa::sm90::produce<Config>(p, smem, 0); };
      for (const auto& item : run_roles<Config, PlainConsumer<Config>>(params, produce)) EXPECT_TRUE(all.insert(item).second) << "taken twice";
    });
  }
  EXPECT_EQ(all, expected);
}

template <typename Config>
void check_config() {
  for (const auto& [len_q, len_kv] : {std::pair(512, 512), std::pair(1, 1), std::pair(300, 301), std::pair(129, 600), std::pair(600, 129), std::pair(65, 64)}) {
    check_problem<Config>(len_q, len_kv, false, 0);
    check_problem<Config>(len_q, len_kv, true, 0);
    check_problem<Config>(len_q, len_kv, true, len_kv - len_q);
  }
}

TEST(PlainProducer, FromTheLastKeyTileToTheFirst) {
  check_config<Ordered<2, false>>();
  check_config<Ordered<5, false>>();
  check_config<Ordered<6, false>>();
}

TEST(PlainProducer, FromTheFirstKeyTileToTheLast) {
  check_config<Ordered<2, true>>();
  check_config<Ordered<5, true>>();
  check_config<Ordered<6, true>>();
}

}  // namespace
}  // namespace fa_test
