// The kernels compiled with ModifiedScores against the definition: windows, chunks, softcap, ALiBi, bias, masks, sinks and dropout, alone and together, forward
// and backward, with lengths that are no multiple of a tile, grouped heads, and NaN and infinity where they are hidden.
#include <gtest/gtest.h>

#include <exception>
#include <string>
#include <utility>
#include <vector>

#include "modified_kernels.h"

namespace fa_test {
namespace {

using fa::Mask;

constexpr Mask kWindowTopLeft = Mask::kWindowTopLeft, kWindowBottomRight = Mask::kWindowBottomRight;

template <class GradBias>
void check_grad_bias(const AttentionCase& attention, const fa::sm80::ModifiedBackwardParams& params, const fa::sm80::GradBiasVariant& variant) {
  std::vector<uint32_t> memory;
  launch_blocks<GradBias, fa::sm80::GradBiasBlock>(attention.grad_bias_params(params, variant, &memory), staged_bytes<GradBias>(params.scores));
  attention.compare_grad_bias(memory);
}

template <class Kernels>
void check(const CaseOptions& options) {
  using namespace fa::sm80;
  SCOPED_TRACE(options.name());
  try {
    AttentionCase attention(options);
    const fa::ScoreParams scores = attention.score_params();
    EXPECT_EQ(options.stage_bias, scores.bias_staged);
    using Forward = typename Kernels::Forward;
    launch_blocks<Forward, ForwardBlock>(ModifiedForwardParams{attention.forward_params(Kernels::kForward), scores, {}, false}, staged_bytes<Forward>(scores));
    attention.compare_forward();
    const BackwardParams params = attention.backward_params(Kernels::kBackward);
    using Backward = typename Kernels::Backward;
    ModifiedBackwardParams with_scores{params, scores, nullptr, 0, 0, {}};
    std::vector<uint32_t> grad_bias;
    if (options.direct_grad_bias) with_scores.direct_grad_bias = attention.grad_bias_params(with_scores, Kernels::kGradBias, &grad_bias).grad_bias;
    launch_blocks<Backward, BackwardBlock>(with_scores, staged_bytes<Backward>(scores, Backward::kStages));
    attention.compare_grad_kv();
    if (options.direct_grad_bias) attention.compare_grad_bias(grad_bias);
    if (options.deterministic) {
      launch_blocks<typename Kernels::GradQ, GradQBlock>(ModifiedBackwardParams{attention.grad_q_params(params, Kernels::kGradQ), scores, nullptr, 0, 0, {}});
      attention.compare_grad_q();
    } else {
      attention.compare_accumulator(Kernels::kBackward);
    }
    if (options.bias > 0) check_grad_bias<typename Kernels::GradBias>(attention, {params, scores, nullptr, options.batch, 0, {}}, Kernels::kGradBias);
    if (options.sinks) check_grad_sinks(attention, {params, scores, nullptr, options.batch, options.len_q, {}});
  } catch (const std::exception& error) {
    ADD_FAILURE() << error.what();
  }
}

constexpr auto check_d64 = check<KernelsD64>;
constexpr auto check_d128 = check<KernelsD128>;
constexpr auto check_d256 = check<KernelsD256>;
constexpr auto check_d256_small = check<SmallKernelsD256>;

/// A small case with grouped heads, two batches and lengths that differ.
CaseOptions grouped(int len_q, int len_kv) {
  return {.batch = 2, .len_q = len_q, .len_kv = len_kv, .heads_q = 2, .heads_kv = 1, .head_dim = 40, .head_dim_v = 32};
}

TEST(Sm80Modified, NothingModified) {
  check_d64(grouped(129, 150));
  CaseOptions causal = grouped(129, 150);
  causal.mask = Mask::kCausalBottomRight;
  check_d64(causal);
}

TEST(Sm80Modified, Windows) {
  struct Window {
    int left, right;
  };
  for (const Mask mask : {kWindowTopLeft, kWindowBottomRight}) {
    for (const Window window : {Window{0, 0}, Window{40, 0}, Window{3, 70}, Window{-1, 5}, Window{100, -1}, Window{1000000000, 2000000000}}) {
      for (const bool longer : {false, true}) {
        CaseOptions options{.len_q = longer ? 301 : 140, .len_kv = longer ? 140 : 301, .head_dim = 40, .head_dim_v = 40, .mask = mask};
        options.window_left = window.left;
        options.window_right = window.right;
        options.deterministic = window.right == 0;
        check_d64(options);
      }
    }
  }
}

TEST(Sm80Modified, Chunks) {
  for (const int chunk : {1, 50, 128, 1000}) {
    for (const Mask mask : {Mask::kNone, Mask::kCausalBottomRight, kWindowTopLeft}) {
      CaseOptions options{.len_q = mask == Mask::kCausalBottomRight ? 270 : 150, .len_kv = 200, .head_dim = 40, .head_dim_v = 40, .mask = mask};
      options.chunk = chunk;
      options.deterministic = chunk == 50;
      if (mask == kWindowTopLeft) {
        options.window_left = 20;
        options.window_right = 10;
      }
      check_d64(options);
    }
  }
}

TEST(Sm80Modified, Softcap) {
  for (const float softcap : {0.5f, 3.0f, 50.0f}) {
    CaseOptions options = grouped(70, 150);
    options.softcap = softcap;
    options.deterministic = softcap == 3.0f;
    options.mask = softcap == 3.0f ? Mask::kCausalTopLeft : Mask::kNone;
    check_d64(options);
  }
}

TEST(Sm80Modified, Alibi) {
  for (const int alibi : {1, 2}) {
    CaseOptions options = grouped(150, 70);
    options.alibi = alibi;
    options.deterministic = alibi == 2;
    options.mask = alibi == 1 ? Mask::kCausalBottomRight : Mask::kNone;
    check_d64(options);
  }
}

TEST(Sm80Modified, BiasAndMasks) {
  for (const int kind : {1, 2}) {
    CaseOptions options = grouped(130, 150);
    options.visible = kind;
    options.deterministic = kind == 1;
    check_d64(options);
  }
  CaseOptions blocks = grouped(130, 150);
  for (const int extent : {16, 48}) {
    blocks.block_mask = extent;
    blocks.deterministic = extent == 16;
    check_d64(blocks);
  }
}

TEST(Sm80Modified, Bias) {
  for (const int kind : {1, 2, 3, 4}) {
    CaseOptions options = grouped(130, kind == 3 ? 151 : 150);
    options.bias = kind;
    options.deterministic = kind == 2;
    check_d64(options);
    options.softcap = 1.5f;
    options.head_dim = kind == 2 ? 200 : 128;
    options.dropout = kind == 1 ? 0.25f : 0.0f;
    options.mask = Mask::kCausalBottomRight;
    options.block_mask = kind == 3 ? 64 : 0;
    kind == 2 ? check_d256(options) : check_d128(options);
  }
}

/// Through shared memory, and its gradient from the main kernel.
TEST(Sm80Modified, StagedBias) {
  for (const int kind : {3, 5}) {
    CaseOptions options = grouped(130, 152);
    options.bias = kind;
    options.stage_bias = true;
    options.direct_grad_bias = kind == 5;
    check_d64(options);
    options.head_dim = 128;
    check_d128(options);
    options.batch = 1;
    options.head_dim = 256;
    check_d256(options);
    check_d256_small(options);
    options.direct_grad_bias = false;
    options.head_dim = 104;
    options.softcap = 1.5f;
    options.mask = Mask::kCausalBottomRight;
    options.visible = 2;
    options.deterministic = true;
    check_d128(options);
  }
}

/// Whole tiles are hidden, also all of a head's.
TEST(Sm80Modified, SparseBlocks) {
  for (const bool deterministic : {false, true}) {
    CaseOptions options{.len_q = 200, .len_kv = 2500, .heads_q = 2, .heads_kv = 1, .head_dim = 8, .head_dim_v = 8, .deterministic = deterministic};
    options.block_mask = 256;
    options.block_density = 6;
    check_d64(options);
    std::swap(options.len_q, options.len_kv);
    check_d64(options);
  }
}

TEST(Sm80Modified, Sinks) {
  for (const bool causal : {false, true}) {
    CaseOptions options = grouped(130, 90);
    options.sinks = true;
    options.mask = causal ? Mask::kCausalBottomRight : Mask::kNone;
    options.deterministic = causal;
    check_d64(options);
  }
}

TEST(Sm80Modified, Dropout) {
  CaseOptions options = grouped(70, 90);
  options.dropout = 0.25f;
  check_d64(options);
  options.deterministic = true;
  check_d64(options);
}

/// Everything at once, for every configuration.
TEST(Sm80Modified, Together) {
  CaseOptions options = with_everything({.batch = 2, .len_q = 150, .len_kv = 170, .heads_q = 2, .heads_kv = 1});
  options.chunk = 90;
  for (const bool deterministic : {false, true}) {
    options.deterministic = deterministic;
    options.head_dim = options.head_dim_v = 64;
    check_d64(options);
    options.head_dim = 128;
    options.head_dim_v = 104;
    check_d128(options);
    options.head_dim = 200;
    options.head_dim_v = 256;
    deterministic ? check_d256_small(options) : check_d256(options);
    options.batch = 1;
  }
}

TEST(Sm80Modified, ZeroLengths) {
  CaseOptions options{.len_q = 40, .len_kv = 0, .deterministic = true};
  options.softcap = 2.0f;
  check_d64(options);
  options.sinks = true;
  check_d64(options);
}

class HiddenNonFinite : public ::testing::TestWithParam<Poisoned> {};

TEST_P(HiddenNonFinite, ReachesOnlyWhatSeesIt) {
  CaseOptions window{.len_q = 150, .len_kv = 170, .mask = kWindowTopLeft, .poisoned = GetParam(), .poisoned_row = 60};
  window.window_left = 20;
  window.window_right = 3;
  check_d64(window);
  window.deterministic = true;
  window.head_dim = window.head_dim_v = 128;
  check_d128(window);
  CaseOptions masked{.len_q = 70, .len_kv = 90, .poisoned = GetParam(), .poisoned_row = 33};
  masked.visible = 1;
  masked.softcap = 3.0f;
  check_d64(masked);
  masked.visible = 0;
  masked.bias = 1;
  masked.deterministic = true;
  check_d64(masked);
  masked.bias = 0;
  masked.chunk = 40;
  masked.alibi = 1;
  masked.head_dim = masked.head_dim_v = 256;
  masked.deterministic = false;
  check_d256(masked);
}

std::string poisoned_name(const ::testing::TestParamInfo<Poisoned>& tested) {
  constexpr const char* kNames[] = {"none", "q", "k", "v", "grad_o"};
  return kNames[static_cast<int>(tested.param)];
}

INSTANTIATE_TEST_SUITE_P(Sm80Modified, HiddenNonFinite, ::testing::Values(Poisoned::kQ, Poisoned::kK, Poisoned::kV, Poisoned::kGradO), poisoned_name);

}  // namespace
}  // namespace fa_test
