// The ways in which the Hopper forward kernel keeps the references of a warp's rows (kernels/sm90/forward/softmax.cuh), on scores that vary little and much,
// grow, shrink, are negative or not finite: the same weighted mean and log-sum-exp as by definition, whatever the way, also when it changes in the middle of a
// row.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "emulator.h"
#include "kernels/sm90/forward/softmax.cuh"

namespace fa_test {
namespace {

using namespace fa::sm90;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr int kRows = 16, kTileKeys = 64, kScores = kTileKeys / 2, kTiles = 12, kKeys = kTiles * kTileKeys;

enum class Way { kExact, kLazy, kOptimistic, kFollowing, kOptimisticThenFollowing, kFollowingThenOptimistic };
constexpr Way kWays[] = {Way::kExact, Way::kLazy, Way::kOptimistic, Way::kFollowing, Way::kOptimisticThenFollowing, Way::kFollowingThenOptimistic};

/// Scores of a warp's rows.
struct Rows {
  std::vector<float> scores = std::vector<float>(kRows * kKeys);
  float& at(int row, int key) { return scores[static_cast<size_t>(row * kKeys + key)]; }
  float at(int row, int key) const { return scores[static_cast<size_t>(row * kKeys + key)]; }
};

float value(int key) {
  return std::sin(0.7f * static_cast<float>(key));
}

/// What the warp makes of its rows.
struct Outcome {
  float mean[kRows], lse[kRows], reference[kRows];
  float largest_p;  ///< of all following steps; 1 but for the rounding of scale times reference
  int raised;
};

/// The first tile always takes the exact step.
bool follows(Way way, int tile) {
  return way == Way::kFollowing || (way == Way::kOptimisticThenFollowing && tile >= kTiles / 2) || (way == Way::kFollowingThenOptimistic && tile < kTiles / 2);
}

Outcome run(const Rows& input, Way way, float scale_log2) {
  Outcome outcome{};
  emulator::run_block(0, emulator::kWarpSize, sizeof(float), [&] {
    const int lane = emulator::thread_index();
    RowState rows;
    float o[2] = {0.0f, 0.0f};
    for (int tile = 0; tile < kTiles; ++tile) {
      const auto key_of = [&](int i) { return tile * kTileKeys + (i >> 2) * 8 + lane % 4 * 2 + (i & 1); };
      const auto load = [&](float(&s)[kScores]) {
        for (int i = 0; i < kScores; ++i) {
          s[i] = input.at(lane / 4 + 8 * fragment_row(i), key_of(i));
        }
      };
      float s[kScores];
      load(s);
      Rescale rescale;
      if (tile == 0 || way == Way::kExact) {
        exact_step(s, rows, rescale, scale_log2);
      } else if (way == Way::kLazy) {
        lazy_step(s, rows, rescale, scale_log2, reinterpret_cast<float*>(emulator::shared_memory()));
      } else if (follows(way, tile)) {
        following_step(s, rows, rescale, scale_log2, load);
        for (const float p : s) {
          outcome.largest_p = std::max(outcome.largest_p, p);
        }
      } else {
        optimistic_step(s, rows, rescale, scale_log2, load);
      }
      for (int r = 0; r < 2 && rescale.needed; ++r) {
        o[r] *= rescale.factor[r];
      }
      for (int i = 0; i < kScores; ++i) {
        o[fragment_row(i)] += s[i] * value(key_of(i));
      }
    }
    for (int r = 0; r < 2; ++r) {
      for (int step = 1; step < 4; step *= 2) {
        rows.sum[r] += __shfl_xor_sync(0xFFFFFFFF, rows.sum[r], step);
        o[r] += __shfl_xor_sync(0xFFFFFFFF, o[r], step);
      }
      if (lane % 4 == 0) {
        const int row = lane / 4 + 8 * r;
        outcome.mean[row] = o[r] / rows.sum[r];
        outcome.lse[row] = rows.reference[r] * scale_log2 * static_cast<float>(M_LN2) + std::log(rows.sum[r]);
        outcome.reference[row] = rows.reference[r];
      }
    }
    if (lane == 0) {
      outcome.raised = rows.raised;
    }
  });
  return outcome;
}

/// NaN where the definition has it: no visible key, or a score that is NaN or +infinity.
void expect_right(const Rows& input, Way way, float scale_log2, const Outcome& outcome) {
  for (int row = 0; row < kRows; ++row) {
    SCOPED_TRACE(testing::Message() << "way " << static_cast<int>(way) << ", row " << row);
    double maximum = -kInfinity;
    bool finite = true;
    for (int key = 0; key < kKeys; ++key) {
      finite = finite && !(std::isnan(input.at(row, key)) || input.at(row, key) == kInfinity);
      maximum = std::max(maximum, static_cast<double>(input.at(row, key)));
    }
    if (!finite || maximum == -kInfinity) {
      EXPECT_TRUE(std::isnan(outcome.mean[row])) << outcome.mean[row];
      continue;
    }
    double sum = 0.0, weighted = 0.0;
    for (int key = 0; key < kKeys; ++key) {
      const double p = std::exp2((input.at(row, key) - maximum) * scale_log2);
      sum += p;
      weighted += p * value(key);
    }
    const double lse = maximum * scale_log2 * M_LN2 + std::log(sum);
    EXPECT_NEAR(outcome.mean[row], weighted / sum, 2e-5);
    EXPECT_NEAR(outcome.lse[row], lse, 2e-6 * (1.0 + std::abs(lse)) + 1e-5);
    if (way == Way::kFollowing || way == Way::kExact) {
      EXPECT_EQ(outcome.reference[row], static_cast<float>(maximum));
    }
  }
}

void expect_all_ways_right(const Rows& input, float scale_log2) {
  for (const Way way : kWays) {
    const Outcome outcome = run(input, way, scale_log2);
    expect_right(input, way, scale_log2, outcome);
    EXPECT_LE(outcome.largest_p, 1.001f) << "way " << static_cast<int>(way);
  }
}

Rows normal_rows(std::mt19937& random, float deviation, float mean) {
  std::normal_distribution<float> normal(mean, deviation);
  Rows rows;
  for (float& score : rows.scores) {
    score = normal(random);
  }
  return rows;
}

TEST(ForwardSoftmax, AllWaysGiveTheDefinition) {
  std::mt19937 random(20261124);
  for (const float deviation : {0.0f, 1.0f, 5.0f, 30.0f, 1000.0f}) {
    // References of both signs, and of one alone: bits of negative floats are in the other order.
    for (const float mean : {0.0f, 100.0f, -100.0f, -5000.0f}) {
      SCOPED_TRACE(testing::Message() << "deviation " << deviation << ", mean " << mean);
      expect_all_ways_right(normal_rows(random, deviation, mean), 0.18f);
    }
  }
}

TEST(ForwardSoftmax, MaximaThatGrowAndShrink) {
  std::mt19937 random(20261125);
  for (const float step : {0.5f, 2.0f, 20.0f, 200.0f, 1e4f, -2.0f, -200.0f}) {
    for (const float first : {0.0f, -3000.0f}) {
      Rows rows = normal_rows(random, 1.0f, first);
      for (int row = 0; row < kRows; ++row) {
        for (int key = 0; key < kKeys; ++key) {
          // Every other row, and rows of some lanes later than others.
          rows.at(row, key) += row % 2 == 0 ? step * static_cast<float>(std::max(key / kTileKeys - row / 4, 0)) : 0.0f;
        }
      }
      SCOPED_TRACE(testing::Message() << "step " << step << ", from " << first);
      expect_all_ways_right(rows, 0.18f);
    }
  }
}

TEST(ForwardSoftmax, ScoresThatAreNotFinite) {
  std::mt19937 random(20261126);
  for (const int key : {3, kTileKeys + 5, kKeys / 2 + 7, kKeys - 1}) {
    Rows rows = normal_rows(random, 3.0f, 0.0f);
    rows.at(1, key) = std::numeric_limits<float>::quiet_NaN();
    rows.at(6, key) = kInfinity;
    rows.at(9, key) = -kInfinity;
    for (int other = 0; other < kKeys; ++other) {
      rows.at(11, other) = -kInfinity;                                               // sees nothing
      rows.at(12, other) = other / kTileKeys < 7 ? -kInfinity : rows.at(12, other);  // sees nothing for long
      rows.at(14, other) = other / kTileKeys > 2 ? -kInfinity : rows.at(14, other);
    }
    SCOPED_TRACE(testing::Message() << "key " << key);
    expect_all_ways_right(rows, 0.5f);
  }
}

/// What a warpgroup chooses by (Consumer::plain_tiles).
TEST(ForwardSoftmax, TilesThatOutweighAreCounted) {
  std::mt19937 random(20261127);
  int narrow = 0, wide = 0;
  for (int i = 0; i < 20; ++i) {
    narrow += run(normal_rows(random, 1.0f, 0.0f), Way::kOptimistic, static_cast<float>(M_LOG2E)).raised;
    wide += run(normal_rows(random, 3.0f, 0.0f), Way::kOptimistic, static_cast<float>(M_LOG2E)).raised;
    EXPECT_EQ(run(normal_rows(random, 3.0f, 0.0f), Way::kFollowing, static_cast<float>(M_LOG2E)).raised, 0);
  }
  EXPECT_LT(narrow, 20 * (kTiles - 1) / 10);
  EXPECT_GT(wide, 20 * (kTiles - 1) / 2);
}

}  // namespace
}  // namespace fa_test
