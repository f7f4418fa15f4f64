// A model of a consumer warpgroup of the Hopper forward kernels: its part in the rings of q, k and v tiles, as kernels/sm90/forward/consumer_rings.cuh has it,
// and a producer's block with such consumers as threads.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <exception>
#include <memory>
#include <set>
#include <thread>
#include <tuple>
#include <vector>

#include "emulator.h"
#include "kernels/sm90/forward/config.h"

namespace fa_test {

/// A tensor map of boxes of so many rows of 64 columns of 2 bytes: what the emulator's loads count.
inline void set_box(CUtensorMap& map, int rows) {
  const int32_t bytes = rows * 64 * 2;
  std::memcpy(map.opaque, &bytes, sizeof(bytes));
}

/// What consumers are sent: (batch entry or sequence, first row, head).
using Items = std::set<std::tuple<int, int, int>>;

/// One warpgroup. All four warps of it arrive at once. Checks that each tile is the one that was to come.
template <typename Config, typename Params>
class RingsModel {
 public:
  RingsModel(const Params& params, typename Config::SharedStorage& smem, int warpgroup) : params_(params), smem_(smem), warpgroup_(warpgroup) {}
  const Items& items() const { return items_; }

 protected:
  template <typename Box>
  void expect_box(const Box& s_tile, const CUtensorMap& map, int row, int head) const {
    for (int panel = 0; panel < Config::kPanels; ++panel) {
      fa::ptx::LoadedBox box;
      std::memcpy(&box, &s_tile[panel], sizeof(box));
      EXPECT_TRUE(box.map == &map && box.c0 == 64 * panel && box.c1 == row && box.c2 == head && box.c3 == batch_)
          << "box at " << box.c1 << " of head " << box.c2 << ", expected " << row << " of " << head;
    }
  }
  void take_k(int n) {
    fa::ptx::mbarrier_wait(&smem_.k_full[k_.stage()], k_.phase());
    expect_box(smem_.k[k_.stage()], params_.map_k, first_key_ + n * Config::kTileKv, kv_head_);
    arrive(&smem_.k_empty[k_.stage()]);
    k_.advance();
  }
  void take_v(int n) {
    fa::ptx::mbarrier_wait(&smem_.v_full[v_.stage()], v_.phase());
    expect_box(smem_.v[v_.stage()], params_.map_v, first_key_ + n * Config::kTileKv, kv_head_);
    arrive(&smem_.v_empty[v_.stage()]);
    v_.advance();
  }
  void release_q() {
    arrive(&smem_.q_empty[q_.stage()]);
    q_.advance();
  }
  void release_staged_q() {
    if (staged_) arrive(&smem_.q_empty[q_.stage() ^ 1]);
    staged_ = false;
  }
  static void arrive(uint64_t* barrier) {
    for (int warp = 0; warp < 4; ++warp) fa::ptx::mbarrier_arrive(barrier);
  }

  const Params& params_;
  typename Config::SharedStorage& smem_;
  const int warpgroup_;
  Items items_;
  int batch_ = 0, first_key_ = 0, kv_head_ = 0;
  bool staged_ = false;
  fa::sm90::RingCursor<Config::kQStages> q_;
  fa::sm90::RingCursor<Config::kStages> k_, v_;
};

/// produce(params, shared memory) and the consumers of a team, Consumer(params, shared memory, warpgroup).run(). Returns what the consumers were sent.
template <typename Config, typename Consumer, typename Params, typename Produce>
Items run_roles(const Params& params, const Produce& produce) {
  const auto smem = std::make_unique<typename Config::SharedStorage>();
  for (int stage = 0; stage < Config::kQStages; ++stage) {
    fa::ptx::mbarrier_init(&smem->q_full[stage], 1);
    fa::ptx::mbarrier_init(&smem->q_empty[stage], Config::kConsumerWarps);
  }
  for (int stage = 0; stage < Config::kStages; ++stage) {
    for (uint64_t* full : {&smem->k_full[stage], &smem->v_full[stage]}) fa::ptx::mbarrier_init(full, 1);
    for (uint64_t* empty : {&smem->k_empty[stage], &smem->v_empty[stage]}) fa::ptx::mbarrier_init(empty, Config::kConsumerWarps);
  }
  std::vector<Consumer> consumers;
  for (int warpgroup = 0; warpgroup < Config::kWarpgroups; ++warpgroup) consumers.emplace_back(params, *smem, warpgroup);
  std::vector<std::thread> threads;
  const auto start = [&](auto role) {
    threads.emplace_back([role] {
      try {
        role();
      } catch (const std::exception& error) {
        ADD_FAILURE() << error.what();
      }
    });
  };
  start([&] { produce(params, *smem); });
  for (auto& consumer : consumers) start([&consumer] { consumer.run(); });
  for (std::thread& thread : threads) thread.join();
  for (const auto& consumer : consumers) EXPECT_EQ(consumer.items(), consumers[0].items());
  return consumers[0].items();
}

}  // namespace fa_test
