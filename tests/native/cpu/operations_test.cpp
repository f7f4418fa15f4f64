// The dropout mask and the merge of partial results, forward and backward, through the C ABI.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "host_tensor.h"

namespace fa_test {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

fa_tensor bytes_view(std::vector<uint8_t>* data, const Sizes& sizes, int64_t row_gap) {
  fa_tensor tensor{};
  tensor.dtype = FA_DTYPE_UINT8;
  int64_t stride = 1;
  for (size_t i = 4; i-- > 0;) {
    tensor.sizes[i] = sizes[i];
    tensor.strides[i] = stride;
    stride = stride * sizes[i] + (i == 3 ? row_gap : 0);
  }
  data->assign(static_cast<size_t>(stride), 0xee);
  tensor.data = data->data();
  return tensor;
}

fa_status dropout_mask(float dropout, uint64_t seed, uint32_t offset, const fa_tensor& out) {
  fa_dropout_mask_params params{};
  params.struct_size = sizeof(params);
  params.dropout = dropout;
  params.seed = seed;
  params.offset = offset;
  params.out = out;
  return fa_attention_dropout_mask(&params);
}

/// The first words of the published known-answer tests of Philox4x32-10: a pair is kept for every threshold up to its word and dropped above.
TEST(DropoutMask, KnownAnswers) {
  struct Answer {
    uint64_t seed;
    uint32_t offset;
    int64_t query, key;  // with batch 0, head 0
    uint32_t word;
  };
  const Answer answers[] = {{0, 0, 0, 0, 0x6627e8d5u}, {0, 0, 0, 1, 0xe169c58du}, {0, 0, 0, 2, 0xbc57ac4cu}, {0, 0, 0, 3, 0x9b00dbd8u}};
  for (const Answer& answer : answers) {
    for (const int above : {0, 1}) {
      std::vector<uint8_t> data;
      const fa_tensor out = bytes_view(&data, {1, 1, answer.query + 1, answer.key + 1}, 0);
      // floats hold 24 bits: the neighbours of the word among them.
      const float edge = static_cast<float>(std::ldexp(static_cast<double>(answer.word), -32));
      const float below = static_cast<double>(edge) * 4294967296.0 > answer.word ? std::nextafter(edge, 0.0f) : edge, next = std::nextafter(below, 1.0f);
      ASSERT_EQ(FA_STATUS_OK, dropout_mask(above ? next : below, answer.seed, answer.offset, out)) << fa_last_error_message();
      EXPECT_EQ(above ? 0 : 1, data.back()) << answer.key;
    }
  }
}

TEST(DropoutMask, DropsTheShareThatIsAskedForAndNothingElseIsWritten) {
  const Sizes sizes{2, 3, 65, 131};
  for (const float dropout : {0.0f, 0.1f, 0.5f, 0.9f}) {
    std::vector<uint8_t> data;
    const fa_tensor out = bytes_view(&data, sizes, 5);
    ASSERT_EQ(FA_STATUS_OK, dropout_mask(dropout, 42, 7, out)) << fa_last_error_message();
    int64_t kept = 0, untouched = 0, other = 0;
    for (const uint8_t value : data) {
      kept += value == 1;
      untouched += value == 0xee;
      other += value != 0 && value != 1 && value != 0xee;
    }
    EXPECT_EQ(0, other);
    EXPECT_EQ(static_cast<int64_t>(data.size()) - 2 * 3 * 65 * 131, untouched);
    const double n = 2 * 3 * 65 * 131, share = static_cast<double>(kept) / n, expected = 1.0 - static_cast<double>(dropout);
    EXPECT_LE(std::fabs(share - expected), 5 * std::sqrt(expected * (1 - expected) / n));
  }
}

struct Merge {
  int parts;
  HostTensor part_o[FA_MERGE_MAX_PARTS], grad_part_o[FA_MERGE_MAX_PARTS], o, grad_o;
  std::vector<float> part_lse[FA_MERGE_MAX_PARTS], grad_part_lse[FA_MERGE_MAX_PARTS], lse, grad_lse;
  Sizes sizes;
  fa_dtype dtype;

  Merge(int num_parts, fa_dtype part_dtype, fa_dtype out_dtype, const Sizes& extents) : parts(num_parts), sizes(extents), dtype(out_dtype) {
    const size_t rows = static_cast<size_t>(sizes[0] * sizes[1] * sizes[2]);
    std::mt19937_64 random(17);
    std::normal_distribution<float> normal;
    for (int p = 0; p < parts; ++p) {
      part_o[p] = HostTensor(part_dtype, sizes, Layout::kGapped);
      part_o[p].fill_normal(static_cast<uint64_t>(p) + 1);
      grad_part_o[p] = HostTensor(part_dtype, sizes, Layout::kBhsd);
      for (size_t i = 0; i < rows; ++i) part_lse[p].push_back(random() % 5 == 0 || i == 3 ? -std::numeric_limits<float>::infinity() : 3 * normal(random));
      grad_part_lse[p].assign(rows, std::numeric_limits<float>::quiet_NaN());
    }
    o = HostTensor(dtype, sizes, Layout::kBhsd);
    grad_o = HostTensor(dtype, sizes, Layout::kBshd);
    grad_o.fill_normal(99);
    lse.assign(rows, std::numeric_limits<float>::quiet_NaN());
    for (size_t i = 0; i < rows; ++i) grad_lse.push_back(normal(random));
    // A part without visible keys is not looked at.
    for (int64_t c = 0; c < sizes[3]; ++c) part_o[0].set(0, 0, 0, c, std::numeric_limits<double>::quiet_NaN());
    part_lse[0][0] = -std::numeric_limits<float>::infinity();
  }

  fa_merge_params params(bool backward) {
    fa_merge_params all{};
    all.struct_size = sizeof(all);
    all.parts = parts;
    all.o = o.view();
    all.lse = lse.data();
    for (int p = 0; p < parts; ++p) {
      all.part_o[p] = part_o[p].view();
      all.part_lse[p] = part_lse[p].data();
      if (backward) {
        all.grad_part_o[p] = grad_part_o[p].view();
        all.grad_part_lse[p] = grad_part_lse[p].data();
      }
    }
    if (backward) {
      all.grad_o = grad_o.view();
      all.grad_lse = grad_lse.data();
    }
    return all;
  }

  size_t row(int64_t b, int64_t i, int64_t h) const { return static_cast<size_t>((b * sizes[2] + h) * sizes[1] + i); }
};

void expect_near(double expected, double actual, fa_dtype dtype, double magnitude) {
  const double bound = unit_roundoff(dtype) * std::fabs(expected) * 1.01 + 16 * unit_roundoff(FA_DTYPE_FLOAT32) * magnitude + underflow_error(dtype);
  EXPECT_TRUE(std::fabs(expected - actual) <= bound) << expected << " " << actual;
}

/// One row of both passes against the definition, with the gradients from the o that was given.
void check_row(Merge& m, int64_t b, int64_t i, int64_t h) {
  const size_t at = m.row(b, i, h);
  double sum = 0;
  for (int p = 0; p < m.parts; ++p) sum += std::exp(static_cast<double>(m.part_lse[p][at]));
  const double lse = sum == 0 ? -kInfinity : std::log(sum);
  if (sum == 0) {
    EXPECT_EQ(-kInfinity, static_cast<double>(m.lse[at]));
  } else {
    expect_near(lse, static_cast<double>(m.lse[at]), FA_DTYPE_FLOAT32, 1.0);
  }
  for (int64_t c = 0; c < m.sizes[3]; ++c) {
    double o = 0;
    for (int p = 0; p < m.parts; ++p) {
      const double weight = sum == 0 ? 0.0 : std::exp(static_cast<double>(m.part_lse[p][at])) / sum;
      if (weight > 0) o += weight * m.part_o[p].get(b, i, h, c);
    }
    expect_near(o, m.o.get(b, i, h, c), m.dtype, 4.0);
  }
  for (int p = 0; p < m.parts; ++p) {
    const double weight = sum == 0 ? 0.0 : std::exp(static_cast<double>(m.part_lse[p][at])) / sum;
    double dot = static_cast<double>(m.grad_lse[at]), magnitude = 1.0;
    for (int64_t c = 0; c < m.sizes[3]; ++c) {
      const double grad = m.grad_o.get(b, i, h, c);
      if (weight > 0) dot += grad * (m.part_o[p].get(b, i, h, c) - m.o.get(b, i, h, c)), magnitude += std::fabs(grad) * 8;
      expect_near(weight * grad, m.grad_part_o[p].get(b, i, h, c), m.grad_part_o[p].dtype(), 4.0);
    }
    expect_near(weight > 0 ? weight * dot : 0.0, static_cast<double>(m.grad_part_lse[p][at]), FA_DTYPE_FLOAT32, magnitude);
  }
}

class Merges : public ::testing::TestWithParam<std::tuple<int, fa_dtype, fa_dtype>> {};

TEST_P(Merges, AgreeWithTheDefinition) {
  const auto [parts, part_dtype, dtype] = GetParam();
  for (const int64_t head_dim : {3, 64, 700}) {
    Merge m(parts, part_dtype, dtype, {2, 37, 3, head_dim});
    const fa_merge_params forward = m.params(false);
    ASSERT_EQ(FA_STATUS_OK, fa_attention_merge(&forward)) << fa_last_error_message();
    const fa_merge_params backward = m.params(true);
    ASSERT_EQ(FA_STATUS_OK, fa_attention_merge_backward(&backward)) << fa_last_error_message();
    for (int64_t b = 0; b < 2; ++b)
      for (int64_t i = 0; i < 37; ++i)
        for (int64_t h = 0; h < 3; ++h) check_row(m, b, i, h);
    EXPECT_TRUE(m.o.surroundings_intact());
    for (int p = 0; p < parts; ++p) EXPECT_TRUE(m.grad_part_o[p].surroundings_intact());
  }
}

INSTANTIATE_TEST_SUITE_P(Cpu, Merges,
                         ::testing::Combine(::testing::Values(1, 2, FA_MERGE_MAX_PARTS),
                                            ::testing::Values(FA_DTYPE_FLOAT32, FA_DTYPE_FLOAT16, FA_DTYPE_BFLOAT16),
                                            ::testing::Values(FA_DTYPE_FLOAT32, FA_DTYPE_FLOAT16, FA_DTYPE_BFLOAT16)));

TEST(Merge, RefusesWhatContradictsItself) {
  const Sizes sizes{1, 4, 2, 8};
  Merge m(2, FA_DTYPE_FLOAT32, FA_DTYPE_FLOAT16, sizes);
  const auto refused = [](const fa_merge_params& params, bool backward, const char* expected) {
    EXPECT_EQ(FA_STATUS_INVALID_ARGUMENT, backward ? fa_attention_merge_backward(&params) : fa_attention_merge(&params)) << expected;
    EXPECT_NE(nullptr, std::strstr(fa_last_error_message(), expected)) << fa_last_error_message();
  };
  fa_merge_params params = m.params(false);
  params.parts = 0;
  refused(params, false, "params.parts: expected 1");
  params = m.params(false), params.parts = 1;
  refused(params, false, "part_o[1]: expected an all-zero tensor beyond params.parts");
  params = m.params(true);
  refused(params, false, "grad_part_o[0]: expected an all-zero tensor in the forward pass");
  params = m.params(false), params.part_o[1].sizes[3] = 7;
  refused(params, false, "part_o[1].sizes[3]");
  params = m.params(false), params.part_o[1].dtype = FA_DTYPE_BFLOAT16;
  refused(params, false, "part_o[1].dtype: expected the dtype of part_o[0], float32, got bfloat16");
  params = m.params(false), params.part_lse[1] = nullptr;
  refused(params, false, "part_lse[1]: expected the address of 8 values, got NULL");
  params = m.params(false), params.lse = const_cast<float*>(params.part_lse[0]);
  refused(params, false, "lse: expected memory apart from part_lse[0]");
  params = m.params(true), params.grad_o = {};
  refused(params, true, "grad_o.sizes[2]");
}

}  // namespace
}  // namespace fa_test
