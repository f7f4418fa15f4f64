// Forward and backward against the definition: dtypes, head dimensions, masks, lengths around every tile edge, grouped heads, strides, empty problems.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <sstream>

#include "attention_case.h"

namespace fa_test {
namespace {

void check(const CaseOptions& options) {
  AttentionCase attention(options);
  attention.run();
  if (!::testing::Test::HasFatalFailure()) attention.compare();
}

constexpr fa_dtype kDtypes[] = {FA_DTYPE_FLOAT32, FA_DTYPE_FLOAT16, FA_DTYPE_BFLOAT16};
constexpr fa_mask kMasks[] = {FA_MASK_NONE, FA_MASK_CAUSAL_TOP_LEFT, FA_MASK_CAUSAL_BOTTOM_RIGHT};

class HeadDims : public ::testing::TestWithParam<std::pair<int, int>> {};

TEST_P(HeadDims, AllDtypesAndMasks) {
  const int widest = std::max(GetParam().first, GetParam().second);
  uint64_t seed = 100;
  for (const fa_dtype dtype : kDtypes) {
    for (const fa_mask mask : kMasks) {
      CaseOptions options;
      options.dtype = dtype;
      options.mask = mask;
      options.heads_q = options.heads_kv = widest > 200 ? 1 : 2;
      options.len_q = 37;
      options.len_kv = widest > 200 ? 35 : 71;
      options.head_dim = GetParam().first;
      options.head_dim_v = GetParam().second;
      options.seed = ++seed;
      check(options);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Cpu, HeadDims,
                         ::testing::Values(std::pair(1, 1), std::pair(3, 3), std::pair(8, 8), std::pair(17, 17), std::pair(64, 64), std::pair(80, 80),
                                           std::pair(128, 128), std::pair(192, 128), std::pair(256, 256), std::pair(512, 512), std::pair(5, 33),
                                           std::pair(130, 9), std::pair(1, 512), std::pair(512, 1)),
                         [](const auto& tested) {
                           std::ostringstream name;
                           name << "d" << tested.param.first << "_" << tested.param.second;
                           return name.str();
                         });

/// Sizes on both sides of every tile and panel edge: 8, 16, 32 queries per panel; 32 … 192 per tile; 32, 64, 128 keys per tile; blocks of 6 and 12 rows.
TEST(Lengths, AroundTileEdges) {
  const int64_t lengths[] = {1, 5, 6, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 95, 96, 97, 127, 128, 129, 191, 192, 193, 257};
  constexpr size_t kCount = sizeof(lengths) / sizeof(lengths[0]);
  uint64_t seed = 1000;
  for (size_t i = 0; i < kCount; ++i) {
    for (const fa_mask mask : kMasks) {
      for (const size_t step : {0, 7, 18}) {
        CaseOptions options;
        options.mask = mask;
        options.len_q = lengths[i];
        options.len_kv = lengths[(i + step) % kCount];
        options.head_dim = 3;
        options.head_dim_v = 5;
        options.seed = ++seed;
        check(options);
      }
    }
  }
}

/// Head dimensions in which tile_q and tile_kv differ from the small ones', with several tiles in both directions.
TEST(Lengths, SeveralTilesOfWideHeads) {
  uint64_t seed = 2000;
  for (const int64_t head_dim : {64, 128, 320}) {
    for (const fa_mask mask : kMasks) {
      CaseOptions options;
      options.mask = mask;
      options.len_q = 230;
      options.len_kv = 150;
      options.head_dim = head_dim;
      options.head_dim_v = head_dim / 2;
      options.seed = ++seed;
      check(options);
    }
  }
}

TEST(Lengths, ZeroLengthsAndBatches) {
  uint64_t seed = 3000;
  for (const fa_mask mask : kMasks) {
    for (const auto& [batch, len_q, len_kv] : {std::array<int64_t, 3>{0, 4, 4}, {2, 0, 70}, {2, 70, 0}, {2, 0, 0}, {1, 70, 1}, {1, 1, 70}}) {
      CaseOptions options;
      options.mask = mask;
      options.batch = batch;
      options.len_q = len_q;
      options.len_kv = len_kv;
      options.heads_q = 4;
      options.heads_kv = 2;
      options.grad_lse = true;
      options.seed = ++seed;
      check(options);
    }
  }
}

TEST(Heads, GroupedHeadsShareKeysAndSumTheirGradients) {
  uint64_t seed = 4000;
  for (const auto& [heads_q, heads_kv] : {std::pair<int64_t, int64_t>{6, 2}, {4, 1}, {3, 3}, {5, 1}}) {
    for (const fa_mask mask : kMasks) {
      for (const fa_dtype dtype : kDtypes) {
        CaseOptions options;
        options.dtype = dtype;
        options.mask = mask;
        options.batch = 2;
        options.heads_q = heads_q;
        options.heads_kv = heads_kv;
        options.len_q = 67;
        options.len_kv = 80;
        options.head_dim = 20;
        options.head_dim_v = 12;
        options.grad_lse = true;
        options.seed = ++seed;
        check(options);
      }
    }
  }
}

TEST(Strides, AnyOrderGapsAndBroadcast) {
  uint64_t seed = 5000;
  for (const Layout layout : {Layout::kBshd, Layout::kBhsd, Layout::kGapped, Layout::kBroadcast}) {
    for (const fa_dtype dtype : kDtypes) {
      CaseOptions options;
      options.dtype = dtype;
      options.mask = FA_MASK_CAUSAL_BOTTOM_RIGHT;
      options.batch = 3;
      options.heads_q = 4;
      options.heads_kv = 2;
      options.len_q = 40;
      options.len_kv = 35;
      options.head_dim = 19;
      options.head_dim_v = 24;
      options.layout = layout;
      options.seed = ++seed;
      check(options);
    }
  }
}

TEST(Scores, LargeMagnitudesAndExplicitScale) {
  uint64_t seed = 6000;
  for (const fa_dtype dtype : kDtypes) {
    for (const double magnitude : {0.01, 10.0, 60.0}) {
      CaseOptions options;
      options.dtype = dtype;
      options.len_q = 50;
      options.len_kv = 140;
      options.head_dim = options.head_dim_v = 64;
      options.magnitude = magnitude;
      options.scale = 0.21f;
      options.grad_lse = true;
      options.seed = ++seed;
      check(options);
    }
  }
}

/// lse is optional in the forward pass.
TEST(Lse, MayBeNull) {
  HostTensor q(FA_DTYPE_FLOAT32, {1, 3, 1, 4}, Layout::kBshd), k = q, v = q, o = q;
  q.fill_normal(1);
  k.fill_normal(2);
  v.fill_normal(3);
  fa_forward_params params{};
  params.struct_size = sizeof(params);
  params.q = q.view(), params.k = k.view(), params.v = v.view(), params.o = o.view();
  ASSERT_EQ(FA_STATUS_OK, fa_attention_forward_workspace_size(&params, &params.workspace_bytes));
  std::vector<double> workspace(params.workspace_bytes / 8 + 4);
  params.workspace = reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(workspace.data()) + 15) / 16 * 16);
  ASSERT_EQ(FA_STATUS_OK, fa_attention_forward(&params)) << fa_last_error_message();
  EXPECT_TRUE(o.surroundings_intact());
  for (int c = 0; c < 4; ++c) EXPECT_FALSE(std::isnan(o.get(0, 2, 0, c)));
}

}  // namespace
}  // namespace fa_test
