// The kernel that reads the lengths of sequences: its tables hold every tile of every sequence once, the longest sequence first, and it fills exactly the
// output rows that belong to no sequence. Also with lengths that no caller should pass: nothing outside the tensors may be touched.
#include "attention/sequence_schedule.cuh"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <map>
#include <random>
#include <vector>

#include "emulator.h"

namespace fa_test {
namespace {

using fa::SequenceTile;

struct Lengths {
  bool packed = true, left_padded = false;
  int len_q = 0, len_kv = 0;  ///< of the tensors
  int max_len_q = 0, max_len_kv = 0;
  std::vector<int32_t> cu_q{}, cu_kv{}, used_q{}, used_kv{};  ///< empty: none
  int count = 0;
};

struct Extent {
  int place, begin, len;
};

Extent expected_extent(const Lengths& l, int sequence, bool of_q) {
  const std::vector<int32_t>&cu = of_q ? l.cu_q : l.cu_kv, &used = of_q ? l.used_q : l.used_kv;
  const size_t b = static_cast<size_t>(sequence);
  int place = 0, places = of_q ? l.len_q : l.len_kv;
  if (l.packed) {
    place = cu[b];
    places = std::min(cu[b + 1] - cu[b], of_q ? l.max_len_q : l.max_len_kv);
  }
  const int len = used.empty() ? places : used[b];
  return {place, l.left_padded ? place + places - len : place, len};
}

class Schedule {
 public:
  explicit Schedule(const Lengths& lengths) : lengths_(lengths) {
    problem_.batch = lengths.packed ? 1 : lengths.count;
    problem_.len_q = lengths.len_q;
    problem_.len_kv = lengths.len_kv;
    problem_.heads_q = 2;
    problem_.variants.sequences = {true, lengths.packed, lengths.left_padded, lengths.count, lengths.max_len_q, lengths.max_len_kv};
    fa::VariantArgs args;
    const auto data = [](const std::vector<int32_t>& values) { return values.empty() ? nullptr : values.data(); };
    args.cu_seqlens_q = data(lengths_.cu_q);
    args.cu_seqlens_kv = data(lengths_.cu_kv);
    args.seqused_q = data(lengths_.used_q);
    args.seqused_kv = data(lengths_.used_kv);
    job_ = fa::sequence_job_of(problem_, args);
    for (int i = 0; i < 2; ++i) {
      const bool of_q = i == 0;
      const int64_t tiles = fa::sequence_tiles(problem_, of_q, kTileRows);
      memory_[i].assign(fa::sequence_table_bytes(tiles) / 4 + kGuard, kUntouched);
      job_.tables[i] = fa::sequence_table_at(memory_[i].data(), problem_, of_q, kTileRows);
      const int64_t rows = problem_.batch * (of_q ? problem_.len_q : problem_.len_kv);
      outputs_[i].assign(static_cast<size_t>(rows) * kHeads * kDim + kGuard, kUntouched16);
      job_.gaps[i] = {outputs_[i].data(), {(of_q ? problem_.len_q : problem_.len_kv) * kHeads * kDim, kHeads * kDim, kDim}, kHeads, kDim, of_q};
    }
    lse_.assign(static_cast<size_t>(problem_.batch * problem_.heads_q * problem_.len_q) + kGuard, 1.0f);
    job_.lse = lse_.data();
  }

  void run(bool aligned) {
    job_.aligned = aligned;
    for (int block = 0; block < fa::sequence_schedule_blocks(job_); ++block) {
      using Config = fa::SequenceScheduleConfig;
      emulator::run_block(block, Config::kThreads, sizeof(Config::Shared),
                          [&] { fa::SequenceScheduleBlock<Config>(job_, *reinterpret_cast<Config::Shared*>(emulator::shared_memory())).run(); });
    }
  }

  void check_table(int index) const {
    const bool of_q = index == 0;
    const fa::SequenceTable& table = job_.tables[index].table;
    const SequenceTile* tiles = reinterpret_cast<const SequenceTile*>(table.data + 4);
    int expected_tiles = 0;
    for (int b = 0; b < lengths_.count; ++b) expected_tiles += (expected_extent(lengths_, b, of_q).len + kTileRows - 1) / kTileRows;
    ASSERT_EQ(table.data[0], expected_tiles);
    ASSERT_EQ(*table.counter(), 0);
    ASSERT_LE(expected_tiles, table.capacity);
    std::map<int, int> seen;  // sequence -> tiles so far
    for (int i = 0; i < expected_tiles; ++i) {
      const SequenceTile& tile = tiles[i];
      const Extent q = expected_extent(lengths_, tile.sequence, true), kv = expected_extent(lengths_, tile.sequence, false);
      ASSERT_EQ(tile.tile, seen[tile.sequence]++) << "place " << i;
      if (tile.tile > 0) {
        EXPECT_EQ(tile.sequence, tiles[i - 1].sequence);
      }
      EXPECT_EQ(tile.q_begin, q.begin);
      EXPECT_EQ(tile.len_q, q.len);
      EXPECT_EQ(tile.kv_begin, kv.begin);
      EXPECT_EQ(tile.len_kv, kv.len);
      EXPECT_EQ(tile.batch, lengths_.packed ? 0 : tile.sequence);
      const int work = of_q ? tile.len_kv : tile.len_q;
      for (int before = 0; before < i; ++before) {
        EXPECT_GE((of_q ? tiles[before].len_kv : tiles[before].len_q) * 1.07 + 1, work) << "place " << i;
      }
    }
    for (size_t i = memory_[index].size() - kGuard; i < memory_[index].size(); ++i) EXPECT_EQ(memory_[index][i], kUntouched);
  }

  /// Parts of the padded workspace lie apart and within its rows.
  void check_rows() const {
    const SequenceTile* tiles = reinterpret_cast<const SequenceTile*>(job_.tables[0].table.data + 4);
    std::vector<int> owner(static_cast<size_t>(fa::sequence_rows(problem_)), -1);
    for (int i = 0; i < job_.tables[0].table.data[0]; ++i) {
      if (tiles[i].tile > 0) continue;
      EXPECT_EQ(tiles[i].row_begin % fa::kSequenceRowPadding, 0);
      const int rows = (tiles[i].len_q + fa::kSequenceRowPadding - 1) / fa::kSequenceRowPadding * fa::kSequenceRowPadding;
      for (int row = tiles[i].row_begin; row < tiles[i].row_begin + rows; ++row) {
        ASSERT_LT(static_cast<size_t>(row), owner.size());
        EXPECT_EQ(owner[static_cast<size_t>(row)], -1);
        owner[static_cast<size_t>(row)] = tiles[i].sequence;
      }
    }
  }

  void check_gaps(int index) const {
    const bool of_q = index == 0;
    const int length = of_q ? lengths_.len_q : lengths_.len_kv;
    for (int batch = 0; batch < problem_.batch; ++batch) {
      std::vector<bool> used(static_cast<size_t>(length), false);
      for (int b = 0; b < lengths_.count; ++b) {
        if (!lengths_.packed && b != batch) continue;
        const Extent extent = expected_extent(lengths_, b, of_q);
        for (int i = extent.begin; i < extent.begin + extent.len; ++i) used[static_cast<size_t>(i)] = true;
      }
      for (int i = 0; i < length; ++i) {
        const bool is_used = used[static_cast<size_t>(i)];
        for (int e = 0; e < kHeads * kDim; ++e) {
          ASSERT_EQ(outputs_[index][static_cast<size_t>((batch * length + i) * kHeads * kDim + e)], is_used ? kUntouched16 : 0) << "position " << i;
        }
        for (int h = 0; of_q && h < problem_.heads_q; ++h) {
          const float lse = lse_[static_cast<size_t>((batch * problem_.heads_q + h) * length + i)];
          ASSERT_EQ(lse, is_used ? 1.0f : -std::numeric_limits<float>::infinity()) << "position " << i;
        }
      }
    }
    for (size_t i = outputs_[index].size() - kGuard; i < outputs_[index].size(); ++i) ASSERT_EQ(outputs_[index][i], kUntouched16);
  }

  void check_in_range() const {
    for (int i = 0; i < 2; ++i) {
      const fa::SequenceTable& table = job_.tables[i].table;
      const SequenceTile* tiles = reinterpret_cast<const SequenceTile*>(table.data + 4);
      ASSERT_LE(table.data[0], table.capacity);
      for (int t = 0; t < table.data[0]; ++t) {
        const SequenceTile& tile = tiles[t];
        EXPECT_TRUE(tile.q_begin >= 0 && tile.len_q >= 0 && tile.q_begin + tile.len_q <= lengths_.len_q);
        EXPECT_TRUE(tile.kv_begin >= 0 && tile.len_kv >= 0 && tile.kv_begin + tile.len_kv <= lengths_.len_kv);
        EXPECT_TRUE(tile.sequence >= 0 && tile.sequence < lengths_.count && tile.batch >= 0 && tile.batch < problem_.batch);
        EXPECT_TRUE(tile.row_begin >= 0 && tile.row_begin + (tile.len_q + 127) / 128 * 128 <= fa::sequence_rows(problem_));
      }
      for (size_t g = 0; g < kGuard; ++g) {
        EXPECT_EQ(memory_[i][memory_[i].size() - 1 - g], kUntouched);
        EXPECT_EQ(outputs_[i][outputs_[i].size() - 1 - g], kUntouched16);
      }
    }
  }

  void check_all() {
    for (const bool aligned : {false, true}) {
      run(aligned);
      for (int i = 0; i < 2; ++i) {
        check_table(i);
        check_gaps(i);
        *job_.tables[i].table.counter() = 77;  // as the main kernel leaves it
      }
      check_rows();
    }
  }

 private:
  static constexpr int kTileRows = 64, kHeads = 3, kDim = 8, kGuard = 64;
  static constexpr int32_t kUntouched = 0x5a5a5a5a;
  static constexpr uint16_t kUntouched16 = 0x5a5a;
  Lengths lengths_;
  fa::Problem problem_;
  fa::SequenceJob job_;
  std::vector<int32_t> memory_[2];
  std::vector<uint16_t> outputs_[2];
  std::vector<float> lse_;
};

std::mt19937 g_random(3);

std::vector<int32_t> offsets_of(const std::vector<int32_t>& lengths) {
  std::vector<int32_t> offsets{0};
  for (const int32_t length : lengths) offsets.push_back(offsets.back() + length);
  return offsets;
}

Lengths packed(const std::vector<int32_t>& q, const std::vector<int32_t>& kv, int tail = 0) {
  Lengths l;
  l.count = static_cast<int>(q.size());
  l.cu_q = offsets_of(q);
  l.cu_kv = offsets_of(kv);
  l.len_q = l.cu_q.back() + tail;
  l.len_kv = l.cu_kv.back() + 2 * tail;
  l.max_len_q = q.empty() ? 0 : *std::max_element(q.begin(), q.end());
  l.max_len_kv = kv.empty() ? 0 : *std::max_element(kv.begin(), kv.end());
  return l;
}

void use_part(Lengths* l) {
  const Lengths whole = *l;
  const auto part = [](int places) { return static_cast<int32_t>(g_random() % static_cast<unsigned>(places + 1)); };
  for (int b = 0; b < l->count; ++b) {
    l->used_q.push_back(part(expected_extent(whole, b, true).len));
    l->used_kv.push_back(part(expected_extent(whole, b, false).len));
  }
}

TEST(SequenceSchedule, Packed) {
  Schedule(packed({}, {}, 5)).check_all();
  Schedule(packed({}, {})).check_all();
  Schedule(packed({1}, {0})).check_all();
  Schedule(packed({0, 0, 0}, {70, 0, 3})).check_all();
  Schedule(packed({64, 128, 1, 63, 0, 65, 700}, {65, 0, 500, 64, 3, 128, 64}, 7)).check_all();
}

TEST(SequenceSchedule, ManySequences) {
  std::vector<int32_t> q, kv;
  for (int i = 0; i < 1300; ++i) {
    q.push_back(static_cast<int32_t>(g_random() % 5));
    kv.push_back(static_cast<int32_t>(g_random() % 4 == 0 ? g_random() % 300 : 1));
  }
  Lengths l = packed(q, kv, 3);
  Schedule(l).check_all();
}

TEST(SequenceSchedule, UsedPartsAndLeftPadding) {
  for (const bool left_padded : {false, true}) {
    Lengths l = packed({64, 128, 1, 63, 0, 65, 300}, {65, 0, 300, 64, 3, 128, 64}, 7);
    l.left_padded = left_padded;
    use_part(&l);
    Schedule(l).check_all();
    Lengths padded{.packed = false, .left_padded = left_padded, .len_q = 130, .len_kv = 200, .count = 5};
    Schedule(padded).check_all();
    use_part(&padded);
    Schedule(padded).check_all();
  }
}

TEST(SequenceSchedule, LongerThanStated) {
  Lengths l = packed({300, 20, 200}, {100, 400, 150});
  l.max_len_q = 150;
  l.max_len_kv = 130;
  Schedule(l).check_all();
}

/// Whatever the arrays hold, guards stay whole and the lookup stays within the tensors.
TEST(SequenceSchedule, LengthsOutOfRange) {
  for (int round = 0; round < 20; ++round) {
    Lengths l{.packed = round % 2 == 0, .left_padded = round % 3 == 0, .len_q = 100, .len_kv = 150, .max_len_q = 60, .max_len_kv = 1 << 30, .count = 6};
    const auto anything = [&](size_t values) {
      std::vector<int32_t> all(values);
      for (int32_t& each : all) each = static_cast<int32_t>(round < 10 ? g_random() : g_random() % 200);
      return all;
    };
    if (l.packed) {
      l.cu_q = anything(7);
      l.cu_kv = anything(7);
    }
    l.used_q = anything(6);
    l.used_kv = anything(6);
    Schedule schedule(l);
    schedule.run(true);
    schedule.check_in_range();
  }
}

}  // namespace
}  // namespace fa_test
