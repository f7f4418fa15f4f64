// NaN and infinity stay in the rows that see them, and masked elements never reach a result.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "attention_case.h"

namespace fa_test {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

CaseOptions causal_options(fa_dtype dtype, fa_mask mask, int64_t len_q, int64_t len_kv) {
  CaseOptions options;
  options.dtype = dtype;
  options.mask = mask;
  options.heads_q = 2;
  options.heads_kv = 1;
  options.len_q = len_q;
  options.len_kv = len_kv;
  options.head_dim = 12;
  options.head_dim_v = 9;
  return options;
}

void set_row(HostTensor* tensor, int64_t row, double value) {
  for (int64_t c = 0; c < tensor->sizes()[3]; ++c) tensor->set(0, row, 0, c, value);
}

void run_and_compare(AttentionCase* attention) {
  attention->run();
  if (!::testing::Test::HasFatalFailure()) attention->compare();
}

class Nonfinite : public ::testing::TestWithParam<std::tuple<fa_dtype, fa_mask, double>> {};

/// A bad row of each input in turn, at several distances from the diagonal; the reference only ever touches visible pairs.
TEST_P(Nonfinite, StaysInTheRowsThatSeeIt) {
  const auto [dtype, mask, value] = GetParam();
  for (const int64_t row : {0, 20, 33, 69}) {
    for (int which = 0; which < 4; ++which) {
      SCOPED_TRACE(::testing::Message() << "row " << row << " of input " << which);
      AttentionCase attention(causal_options(dtype, mask, 70, 90));
      HostTensor* const inputs[] = {&attention.q, &attention.k, &attention.v, &attention.grad_o};
      set_row(inputs[which], row, value);
      run_and_compare(&attention);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Cpu, Nonfinite,
                         ::testing::Combine(::testing::Values(FA_DTYPE_FLOAT32, FA_DTYPE_FLOAT16, FA_DTYPE_BFLOAT16),
                                            ::testing::Values(FA_MASK_NONE, FA_MASK_CAUSAL_TOP_LEFT, FA_MASK_CAUSAL_BOTTOM_RIGHT),
                                            ::testing::Values(kNaN, kInfinity)));

/// Keys that no query sees, all NaN: nothing of them may show, and their gradients are zero.
TEST(Masked, UnseenKeysAreNotRead) {
  AttentionCase attention(causal_options(FA_DTYPE_FLOAT32, FA_MASK_CAUSAL_TOP_LEFT, 50, 400));
  for (int64_t row = 50; row < 400; ++row) {
    set_row(&attention.k, row, kNaN);
    set_row(&attention.v, row, kNaN);
  }
  run_and_compare(&attention);
}

/// Queries that see no key: zero output, lse = -infinity, and their NaN reaches no gradient.
TEST(Masked, QueriesWithoutKeysAddNothing) {
  AttentionCase attention(causal_options(FA_DTYPE_FLOAT16, FA_MASK_CAUSAL_BOTTOM_RIGHT, 120, 50));
  for (int64_t row = 0; row < 70; ++row) {
    set_row(&attention.q, row, kNaN);
    set_row(&attention.grad_o, row, kInfinity);
  }
  run_and_compare(&attention);
}

/// Scores that are all -infinity: softmax of the row is NaN as in the naive form; a row with a single finite score is not.
TEST(Scores, MinusInfinity) {
  CaseOptions options = causal_options(FA_DTYPE_FLOAT32, FA_MASK_NONE, 4, 300);
  AttentionCase attention(options);
  for (int64_t row = 0; row < 300; ++row) attention.k.set(0, row, 0, 0, row == 299 ? 1.0 : -kInfinity);
  for (int64_t row = 0; row < 4; ++row)
    for (int64_t h = 0; h < 2; ++h) attention.q.set(0, row, h, 0, 1.0);
  attention.run();
  for (int64_t row = 0; row < 4; ++row)
    for (int64_t c = 0; c < options.head_dim_v; ++c) EXPECT_EQ(attention.v.get(0, 299, 0, c), attention.o.get(0, row, 0, c));
  attention.k.set(0, 299, 0, 0, -kInfinity);
  attention.run();
  EXPECT_TRUE(std::isnan(attention.o.get(0, 0, 0, 0)));
  EXPECT_EQ(-std::numeric_limits<float>::infinity(), attention.lse[0]);
}

}  // namespace
}  // namespace fa_test
