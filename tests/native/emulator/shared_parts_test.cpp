// Blocks of the Hopper forward kernel that share the last round of query tiles (kernels/sm90/forward/shared_round.cuh), run one after the other in any order:
// the parts that they are handed join to the whole of each tile, bit for bit the same whoever comes last.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "emulator.h"
#include "kernels/sm90/forward/shared_round.cuh"

namespace fa_test {
namespace {

using namespace fa::sm90;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

/// What the code under test takes of a configuration.
struct SharedConfig {
  struct Scores {
    static constexpr bool kModified = false;
  };
  static constexpr int kTeams = 1;
  static constexpr int kWarpgroups = 1;
  static constexpr int kTileQ = 64;
  static constexpr int kOutputs = 128;  // joined in two pieces
};
constexpr int kThreads = 128, kRows = SharedConfig::kTileQ, kOutputs = SharedConfig::kOutputs;

/// Heads of one query tile each, key tiles of one key, and the state of the kernel's launch.
struct SharedProblem {
  int heads, key_tiles;
  std::vector<float> scores;  ///< [head][row][key]
  std::vector<float> parts;
  std::vector<int> arrivals;
  SharedForwardParams params{};

  SharedProblem(int heads_, int key_tiles_, int blocks, std::mt19937& random) : heads(heads_), key_tiles(key_tiles_) {
    params.round = fa::sm90_shared_round(heads, key_tiles, 64, blocks);
    params.by_sharers = fa::FastDivisor(params.round.sharers);
    params.by_key_tiles = fa::FastDivisor(params.round.key_tiles);
    params.whole_rounds = heads / blocks;
    params.num_units = heads;
    params.q_tiles = 1;
    params.units_of_head = fa::FastDivisor(1);
    params.heads = fa::FastDivisor(heads);
    params.last_head = heads - 1;
    params.scale_log2 = 0.5f;
    const fa::Sm90SharedRoundLayout layout = fa::sm90_shared_round_layout(params.round, SharedConfig::kWarpgroups, 2 * kOutputs);
    parts.resize(layout.counters_offset / sizeof(float) + 4);
    arrivals.resize(layout.counters_bytes / sizeof(int));
    void* aligned = parts.data();
    size_t room = parts.size() * sizeof(float);
    params.parts = static_cast<float4*>(std::align(16, layout.counters_offset, aligned, room));
    params.arrivals = arrivals.data();
    std::normal_distribution<float> normal(0.0f, 8.0f);
    scores.resize(static_cast<size_t>(heads) * kRows * static_cast<size_t>(key_tiles));
    for (float& score : scores) {
      score = normal(random);
    }
    // Rows that see nothing in the first or the last keys, or at all.
    for (int head = 0; head < heads; ++head) {
      for (int key = 0; key < key_tiles; ++key) {
        (key < key_tiles / 2 ? score(head, 0, key) : score(head, 9, key)) = -kInfinity;
        score(head, 17, key) = score(head, 30, key) = -kInfinity;
      }
    }
  }

  float& score(int head, int row, int key) {
    return scores[(static_cast<size_t>(head) * kRows + static_cast<size_t>(row)) * static_cast<size_t>(key_tiles) + static_cast<size_t>(key)];
  }
  static float value(int key, int element) { return std::sin(static_cast<float>(3 * key + element)); }

  /// What a thread holds after keys [begin, end) of its two rows; sums of the keys that fall to it.
  void go_through(int head, int begin, int end, RowState& rows, float (&o)[kOutputs]) {
    const int thread = emulator::thread_index(), first = thread / 32 * 16 + thread % 32 / 4;
    for (int r = 0; r < 2; ++r) {
      const int row = first + 8 * r;
      for (int key = begin; key < end; ++key) {
        rows.reference[r] = std::max(rows.reference[r], score(head, row, key));
      }
      const float finite = rows.reference[r] == -kInfinity ? 0.0f : rows.reference[r];
      for (int key = begin; key < end; ++key) {
        const float p = std::exp2((score(head, row, key) - finite) * params.scale_log2);
        rows.sum[r] += key % 4 == thread % 4 ? p : 0.0f;
        for (int i = 0; i < kOutputs; ++i) {
          o[i] += fragment_row(i) == r ? p * value(key, i) : 0.0f;
        }
      }
    }
  }
};

/// What a thread would store of a query tile.
struct Result {
  float o[kOutputs];
  float sum[2], reference[2];
};

/// Runs the blocks in an order; results of all heads and threads. Every tile must come once.
std::vector<Result> run(SharedProblem& problem, const std::vector<int>& order) {
  std::vector<Result> results(static_cast<size_t>(problem.heads) * kThreads);
  std::vector<int> times(results.size());
  std::fill(problem.parts.begin(), problem.parts.end(), std::numeric_limits<float>::quiet_NaN());
  std::fill(problem.arrivals.begin(), problem.arrivals.end(), 0);
  emulator::grid_blocks = static_cast<unsigned>(order.size());
  for (const int block : order) {
    emulator::run_block(block, kThreads, 0, [&] {
      for (SharedWorkIterator<SharedConfig> work(problem.params, 0); !work.done(); work.advance()) {
        const WorkTile tile = work.tile();
        KeyTiles keys = {problem.key_tiles, problem.key_tiles};
        const TilePart part = work.part(keys);
        RowState rows;
        float o[kOutputs] = {};
        problem.go_through(tile.head, keys.begin, keys.end, rows, o);
        if (join_parts<SharedConfig>(problem.params, part, rows, o)) {
          const size_t place = static_cast<size_t>(tile.head) * kThreads + static_cast<size_t>(emulator::thread_index());
          std::memcpy(results[place].o, o, sizeof(o));
          std::memcpy(results[place].sum, rows.sum, sizeof(rows.sum));
          std::memcpy(results[place].reference, rows.reference, sizeof(rows.reference));
          ++times[place];
        }
      }
    });
  }
  EXPECT_EQ(std::count(times.begin(), times.end(), 1), static_cast<int64_t>(times.size()));
  return results;
}

void expect_exact(SharedProblem& problem, const std::vector<Result>& results) {
  for (int head = 0; head < problem.heads; ++head) {
    for (int thread = 0; thread < kThreads; ++thread) {
      const Result& result = results[static_cast<size_t>(head) * kThreads + static_cast<size_t>(thread)];
      for (int r = 0; r < 2; ++r) {
        const int row = thread / 32 * 16 + thread % 32 / 4 + 8 * r;
        float maximum = -kInfinity;
        for (int key = 0; key < problem.key_tiles; ++key) {
          maximum = std::max(maximum, problem.score(head, row, key));
        }
        ASSERT_EQ(result.reference[r], maximum) << "head " << head << " row " << row;
        double sum = 0, o = 0;
        const int element = 2 * r + 5 * 4;
        for (int key = 0; key < problem.key_tiles && maximum > -kInfinity; ++key) {
          const double p = std::exp2((static_cast<double>(problem.score(head, row, key)) - maximum) * problem.params.scale_log2);
          sum += key % 4 == thread % 4 ? p : 0.0;
          o += p * SharedProblem::value(key, element);
        }
        ASSERT_NEAR(result.sum[r], sum, 1e-5 * (1 + sum)) << "head " << head << " row " << row;
        ASSERT_NEAR(result.o[element], o, 1e-5 * problem.key_tiles) << "head " << head << " row " << row;
      }
    }
  }
}

TEST(SharedParts, JoinToTheWhole) {
  std::mt19937 random(20261123);
  struct Case {
    int heads, key_tiles, blocks;
  };
  for (const Case& c : {Case{8, 48, 7}, Case{13, 70, 9}, Case{11, 50, 8}, Case{5, 200, 4}}) {
    SCOPED_TRACE(testing::Message() << c.heads << " heads, " << c.key_tiles << " key tiles, " << c.blocks << " blocks");
    SharedProblem problem(c.heads, c.key_tiles, c.blocks, random);
    ASSERT_GT(problem.params.round.tiles, 0);
    std::vector<int> order(static_cast<size_t>(c.blocks));
    std::iota(order.begin(), order.end(), 0);
    const std::vector<Result> first = run(problem, order);
    expect_exact(problem, first);
    for (int i = 0; i < 3; ++i) {
      std::shuffle(order.begin(), order.end(), random);
      const std::vector<Result> again = run(problem, order);
      EXPECT_EQ(std::memcmp(first.data(), again.data(), first.size() * sizeof(Result)), 0) << "in another order";
    }
  }
}

}  // namespace
}  // namespace fa_test
