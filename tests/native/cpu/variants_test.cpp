// Every mask and score variant, alone and combined, forward and backward, in every dtype, against the definition; one table makes the cases.
#include <gtest/gtest.h>

#include <algorithm>

#include "variant_case.h"

namespace fa_test {
namespace {

VariantOptions named(const char* name) {
  VariantOptions options;
  options.name = name;
  return options;
}

VariantOptions window(const char* name, fa_mask mask, int64_t left, int64_t right) {
  VariantOptions options = named(name);
  options.mask = mask;
  options.window_left = left;
  options.window_right = right;
  return options;
}

template <class Set>
VariantOptions with(VariantOptions options, const Set& set) {
  set(options);
  return options;
}

std::vector<VariantOptions> single_variants() {
  std::vector<VariantOptions> all = {
      window("window_top_left", FA_MASK_WINDOW_TOP_LEFT, 5, 3),
      window("window_bottom_right", FA_MASK_WINDOW_BOTTOM_RIGHT, 20, 0),
      window("window_self", FA_MASK_WINDOW_BOTTOM_RIGHT, 0, 0),
      window("window_all_left", FA_MASK_WINDOW_TOP_LEFT, -1, 40),
      window("window_all_right", FA_MASK_WINDOW_BOTTOM_RIGHT, 3, -1),
      window("window_is_causal", FA_MASK_WINDOW_TOP_LEFT, -1, 0),
      window("window_everything", FA_MASK_WINDOW_BOTTOM_RIGHT, -1, -1),
      with(named("chunk"), [](VariantOptions& o) { o.chunk = 24; }),
      with(named("softcap"), [](VariantOptions& o) { o.softcap = 1.5f; }),
      with(named("alibi_head"), [](VariantOptions& o) { o.alibi = 1; }),
      with(named("alibi_batch"), [](VariantOptions& o) { o.alibi = 2; }),
      with(named("sinks"), [](VariantOptions& o) { o.sinks = true; }),
      with(named("dropout"), [](VariantOptions& o) { o.dropout = 0.3f; }),
      with(named("block_mask"), [](VariantOptions& o) { o.block_q = 16, o.block_kv = 48; }),
      with(named("block_mask_wide"), [](VariantOptions& o) { o.block_q = 64, o.block_kv = 64; }),
  };
  for (const char* extents : {"bhq", "1hq", "b1q", "bh1", "11q", "111", "1h1"}) {
    all.push_back(with(named("bias_"), [&](VariantOptions& o) { o.name += extents, o.bias = extents; }));
    all.push_back(with(named("visible_"), [&](VariantOptions& o) { o.name += extents, o.visible = extents; }));
  }
  all.push_back(with(named("bias_dtype"), [](VariantOptions& o) { o.bias = "1hq", o.bias_f32 = false; }));
  all.push_back(with(named("bias_hides"), [](VariantOptions& o) { o.bias = "bhq", o.bias_hides = true; }));
  const std::pair<const char*, Lengths> lengths[] = {{"packed", Lengths::kPacked},
                                                     {"packed_used", Lengths::kPackedUsed},
                                                     {"packed_left", Lengths::kPackedLeft},
                                                     {"padded", Lengths::kPadded},
                                                     {"padded_left", Lengths::kPaddedLeft}};
  for (const auto& [name, value] : lengths) all.push_back(with(named(name), [&](VariantOptions& o) { o.lengths = value; }));
  return all;
}

std::vector<VariantOptions> all_variants() {
  std::vector<VariantOptions> all = single_variants();
  const std::vector<VariantOptions> singles = all;
  // Every single variant under a causal mask, unless it brings a window.
  for (VariantOptions options : singles) {
    if (options.mask != FA_MASK_NONE) continue;
    options.name += "_causal";
    options.mask = FA_MASK_CAUSAL_BOTTOM_RIGHT;
    all.push_back(options);
  }
  // Everything at once.
  for (const Lengths lengths : {Lengths::kNone, Lengths::kPackedUsed, Lengths::kPaddedLeft}) {
    VariantOptions options = window("all", FA_MASK_WINDOW_BOTTOM_RIGHT, 40, 30);
    options.name += std::to_string(static_cast<int>(lengths));
    options.chunk = 50;
    options.softcap = 2.0f;
    options.dropout = 0.2f;
    options.alibi = 2;
    options.sinks = true;
    options.bias = "bh1";
    options.visible = "b1q";
    options.block_q = 32;
    options.block_kv = 16;
    options.lengths = lengths;
    all.push_back(options);
  }
  return all;
}

std::string variant_name(const ::testing::TestParamInfo<std::tuple<VariantOptions, fa_dtype>>& tested) {
  static const char* const dtypes[] = {"f32", "f16", "bf16"};
  return std::get<0>(tested.param).name + "_" + dtypes[std::get<1>(tested.param)];
}

class Variants : public ::testing::TestWithParam<std::tuple<VariantOptions, fa_dtype>> {};

TEST_P(Variants, AgreeWithTheDefinition) {
  const auto& [options, dtype] = GetParam();
  uint64_t seed = 1;
  for (const auto& [len_q, len_kv] : {std::pair<int64_t, int64_t>(67, 131), {101, 45}, {1, 70}, {33, 1}}) {
    for (const bool poisoned : {false, true}) {
      SCOPED_TRACE(::testing::Message() << len_q << " x " << len_kv << (poisoned ? " with NaN and infinity" : ""));
      VariantShape shape;
      shape.len_q = len_q;
      shape.len_kv = len_kv;
      VariantCase attention(options, shape, dtype, ++seed);
      if (poisoned) attention.poison();
      attention.run();
      if (HasFatalFailure()) return;
      attention.compare();
      if (HasFatalFailure()) return;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Cpu, Variants,
                         ::testing::Combine(::testing::ValuesIn(all_variants()), ::testing::Values(FA_DTYPE_FLOAT32, FA_DTYPE_FLOAT16, FA_DTYPE_BFLOAT16)),
                         variant_name);

/// Results do not depend on the number of threads, nor on the run.
TEST(VariantProblems, AreDeterministic) {
  for (const VariantOptions& options : all_variants()) {
    if (options.name.rfind("all", 0) != 0 && options.name != "bias_111" && options.name != "packed_causal" && options.name != "window_top_left") continue;
    SCOPED_TRACE(options.name);
    std::vector<unsigned char> first;
    for (const int threads : {1, 7, 3, 7}) {
      ASSERT_EQ(FA_STATUS_OK, fa_cpu_set_num_threads(threads));
      VariantShape shape;
      shape.len_q = 410;
      shape.len_kv = 300;
      shape.head_dim = shape.head_dim_v = 40;
      VariantCase attention(options, shape, FA_DTYPE_FLOAT32, 5);
      attention.run();
      if (HasFatalFailure()) return;
      const std::vector<unsigned char> bytes = attention.output_bytes();
      if (first.empty()) first = bytes;
      EXPECT_TRUE(first == bytes) << threads << " threads";
    }
    ASSERT_EQ(FA_STATUS_OK, fa_cpu_set_num_threads(0));
  }
}

/// Head dimensions that take other tiles than the table's.
TEST(VariantProblems, WideHeads) {
  for (const VariantOptions& options : all_variants()) {
    if (options.name.rfind("all", 0) != 0 && options.name != "bias_hides") continue;
    for (const int64_t head_dim : {130, 300}) {
      VariantShape shape;
      shape.heads_q = 2;
      shape.heads_kv = 1;
      shape.len_q = 75;
      shape.len_kv = 90;
      shape.head_dim = head_dim;
      shape.head_dim_v = head_dim + 7;
      VariantCase attention(options, shape, FA_DTYPE_FLOAT32, 9);
      attention.run();
      if (HasFatalFailure()) return;
      attention.compare();
      if (HasFatalFailure()) return;
    }
  }
}

}  // namespace
}  // namespace fa_test
