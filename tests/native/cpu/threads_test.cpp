// Results do not depend on threads or timing, and calls may overlap.
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "attention_case.h"

namespace fa_test {
namespace {

/// Restores the number of threads.
class ThreadCount {
 public:
  ThreadCount() { fa_cpu_get_num_threads(&saved_); }
  ~ThreadCount() { fa_cpu_set_num_threads(saved_); }
  ThreadCount(const ThreadCount&) = delete;
  ThreadCount& operator=(const ThreadCount&) = delete;

 private:
  int32_t saved_ = 0;
};

/// Enough work for several threads and several query tiles even with few heads.
CaseOptions sizable(uint64_t seed, fa_mask mask, int64_t heads_q, int64_t heads_kv) {
  CaseOptions options;
  options.dtype = seed % 2 != 0 ? FA_DTYPE_FLOAT16 : FA_DTYPE_FLOAT32;
  options.mask = mask;
  options.heads_q = heads_q;
  options.heads_kv = heads_kv;
  options.len_q = 330;
  options.len_kv = 290;
  options.head_dim = 40;
  options.head_dim_v = 24;
  options.grad_lse = true;
  options.seed = seed;
  return options;
}

TEST(Threads, ResultsAreBitwiseIndependentOfTheirNumber) {
  const ThreadCount restore;
  uint64_t seed = 7000;
  for (const fa_mask mask : {FA_MASK_NONE, FA_MASK_CAUSAL_TOP_LEFT, FA_MASK_CAUSAL_BOTTOM_RIGHT}) {
    for (const auto& [heads_q, heads_kv] : {std::pair<int64_t, int64_t>{1, 1}, {4, 2}}) {
      const CaseOptions options = sizable(++seed, mask, heads_q, heads_kv);
      ASSERT_EQ(FA_STATUS_OK, fa_cpu_set_num_threads(1));
      AttentionCase alone(options);
      alone.run();
      for (const int threads : {2, 3, 7}) {
        ASSERT_EQ(FA_STATUS_OK, fa_cpu_set_num_threads(threads));
        AttentionCase together(options);
        together.run();
        EXPECT_TRUE(alone.output_bytes() == together.output_bytes()) << options.name() << " with " << threads << " threads";
      }
    }
  }
}

TEST(Threads, RunsAreBitwiseEqual) {
  const ThreadCount restore;
  ASSERT_EQ(FA_STATUS_OK, fa_cpu_set_num_threads(5));
  const CaseOptions options = sizable(7101, FA_MASK_CAUSAL_BOTTOM_RIGHT, 2, 1);
  AttentionCase first(options);
  first.run();
  for (int i = 0; i < 5; ++i) {
    AttentionCase again(options);
    again.run();
    ASSERT_TRUE(first.output_bytes() == again.output_bytes()) << "run " << i;
  }
}

TEST(Threads, ConcurrentCallsDoNotDisturbEachOther) {
  const ThreadCount restore;
  ASSERT_EQ(FA_STATUS_OK, fa_cpu_set_num_threads(4));
  constexpr int kCallers = 5, kRounds = 3;
  std::vector<std::vector<unsigned char>> expected;
  std::vector<CaseOptions> options;
  for (int i = 0; i < kCallers; ++i) {
    options.push_back(sizable(7200 + static_cast<uint64_t>(i), i % 2 != 0 ? FA_MASK_CAUSAL_TOP_LEFT : FA_MASK_NONE, 2, i % 3 != 0 ? 2 : 1));
    AttentionCase attention(options.back());
    attention.run();
    expected.push_back(attention.output_bytes());
  }
  std::atomic<int> wrong{0};
  std::vector<std::thread> callers;
  for (size_t i = 0; i < kCallers; ++i) {
    callers.emplace_back([&, i] {
      for (int round = 0; round < kRounds; ++round) {
        AttentionCase attention(options[i]);
        attention.run();
        if (attention.output_bytes() != expected[i]) ++wrong;
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(0, wrong.load());
}

TEST(Threads, TheirNumberIsValidatedAndReported) {
  const ThreadCount restore;
  int32_t count = 0;
  ASSERT_EQ(FA_STATUS_OK, fa_cpu_set_num_threads(7));
  ASSERT_EQ(FA_STATUS_OK, fa_cpu_get_num_threads(&count));
  EXPECT_EQ(7, count);
  EXPECT_EQ(FA_STATUS_INVALID_ARGUMENT, fa_cpu_set_num_threads(-1));
  EXPECT_EQ(FA_STATUS_INVALID_ARGUMENT, fa_cpu_set_num_threads(1025));
  ASSERT_EQ(FA_STATUS_OK, fa_cpu_get_num_threads(&count));
  EXPECT_EQ(7, count);
  ASSERT_EQ(FA_STATUS_OK, fa_cpu_set_num_threads(0));
  ASSERT_EQ(FA_STATUS_OK, fa_cpu_get_num_threads(&count));
  EXPECT_GE(count, 1);
}

}  // namespace
}  // namespace fa_test
