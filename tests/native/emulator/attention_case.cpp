#include "attention_case.h"

#include <cuda_fp16.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <sstream>

namespace fa_test {
namespace {

/// Relative to the largest element: operands, probabilities and results are rounded to 11 bits.
constexpr double kGradientTolerance = 4e-3;
constexpr double kOutputTolerance = 4e-3;
constexpr double kLseTolerance = 1e-4;

std::mt19937 g_random(1);

fa::Strides strides_of(const HalfTensor& tensor) {
  return {static_cast<int64_t>(tensor.index(1, 0, 0)), static_cast<int64_t>(tensor.index(0, 1, 0)), tensor.pitch};
}

double gradient_bound(const std::vector<double>& expected) {
  double largest = 1e-3;
  for (const double value : expected) {
    if (std::isfinite(value)) largest = std::max(largest, std::fabs(value));
  }
  return kGradientTolerance * largest;
}

/// Where the reference is not finite the result must not be either.
void compare(const char* what, const std::vector<double>& actual, const std::vector<double>& expected, double tolerance) {
  ASSERT_EQ(actual.size(), expected.size()) << what;
  size_t wrong = 0, first_wrong = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    const bool ok = std::isfinite(expected[i]) ? std::fabs(actual[i] - expected[i]) <= tolerance : !std::isfinite(actual[i]);
    if (!ok && wrong++ == 0) first_wrong = i;
  }
  if (wrong > 0) {
    ADD_FAILURE() << what << ": " << wrong << " of " << expected.size() << " elements are off, first element " << first_wrong << ": " << actual[first_wrong]
                  << " instead of " << expected[first_wrong];
  }
}

}  // namespace

static std::string modifications_name(const CaseOptions& options) {
  std::ostringstream text;
  const auto add = [&](const char* name, auto value) {
    if (value > 0) text << ", " << name << " " << value;
  };
  if (options.mask == fa::Mask::kWindowTopLeft || options.mask == fa::Mask::kWindowBottomRight) {
    text << ", window " << options.window_left << "/" << options.window_right;
  }
  add("chunk", options.chunk);
  add("softcap", options.softcap);
  add("alibi", options.alibi);
  add("bias", options.bias);
  add("visible", options.visible);
  add("block mask", options.block_mask);
  add("sinks", static_cast<int>(options.sinks));
  add("dropout", options.dropout);
  constexpr const char* kPlacements[] = {"", ", padded", ", left padded", ", packed", ", packed with gaps", ", packed with gaps in front"};
  text << kPlacements[static_cast<int>(options.placement)];
  return text.str();
}

std::string CaseOptions::name() const {
  constexpr const char* kMasks[] = {"no mask", "causal top left", "causal bottom right", "window top left", "window bottom right"};
  constexpr const char* kPoisoned[] = {"", ", q poisoned", ", k poisoned", ", v poisoned", ", grad_o poisoned"};
  std::ostringstream text;
  text << "batch " << batch << ", " << len_q << " queries, " << len_kv << " keys, heads " << heads_q << "/" << heads_kv << ", dims " << head_dim << "/"
       << head_dim_v << ", " << kMasks[static_cast<int>(mask)] << (deterministic ? ", deterministic" : "") << (aligned ? "" : ", unaligned")
       << kPoisoned[static_cast<int>(poisoned)] << modifications_name(*this);
  return text.str();
}

AttentionCase::AttentionCase(const CaseOptions& options) : options_(options) {
  problem_.mask = options.mask;
  problem_.batch = options.batch;
  problem_.len_q = options.len_q;
  problem_.len_kv = options.len_kv;
  problem_.heads_q = options.heads_q;
  problem_.heads_kv = options.heads_kv;
  problem_.head_dim = options.head_dim;
  problem_.head_dim_v = options.head_dim_v;
  problem_.scale = 1.0f / std::sqrt(static_cast<float>(options.head_dim));
  problem_.deterministic = options.deterministic;
  problem_.aligned_16_bytes = options.aligned;
  q_ = random_tensor(options.len_q, options.heads_q, options.head_dim);
  k_ = random_tensor(options.len_kv, options.heads_kv, options.head_dim);
  v_ = random_tensor(options.len_kv, options.heads_kv, options.head_dim_v);
  grad_o_ = random_tensor(options.len_q, options.heads_q, options.head_dim_v);
  const int padding = q_.pitch - q_.dim;
  o_ = HalfTensor(options.batch, options.len_q, options.heads_q, options.head_dim_v, padding);
  grad_q_ = HalfTensor(options.batch, options.len_q, options.heads_q, options.head_dim, padding);
  grad_k_ = HalfTensor(options.batch, options.len_kv, options.heads_kv, options.head_dim, padding);
  grad_v_ = HalfTensor(options.batch, options.len_kv, options.heads_kv, options.head_dim_v, padding);
  lse_.assign(static_cast<size_t>(options.batch * options.heads_q * options.len_q), std::numeric_limits<float>::quiet_NaN());
  poison();
  make_modifications();
  // With sequences the modifications hide what the causal mask does, whose offset is each sequence's own.
  const bool causal = problem_.is_causal() && !has_sequences();
  const int causal_offset = static_cast<int>(problem_.causal_offset());
  expected_ = attention_reference({problem_.scale, causal, causal_offset, reference_modifications()}, q_, k_, v_, grad_o_);
  if (has_sequences()) place_sequences();
}

HalfTensor AttentionCase::random_tensor(int seq, int heads, int dim) {
  HalfTensor tensor(options_.batch, seq, heads, dim, options_.aligned ? 8 : 3);
  std::normal_distribution<float> normal;
  for (int b = 0; b < options_.batch; ++b) {
    for (int s = 0; s < seq; ++s) {
      for (int h = 0; h < heads; ++h) {
        for (int d = 0; d < dim; ++d) tensor.at(b, s, h, d) = __float2half_rn(normal(g_random)).bits;
      }
    }
  }
  return tensor;
}

void AttentionCase::poison() {
  if (options_.poisoned == Poisoned::kNothing) return;
  HalfTensor* const tensors[] = {nullptr, &q_, &k_, &v_, &grad_o_};
  HalfTensor* tensor = tensors[static_cast<int>(options_.poisoned)];
  const uint16_t bits = options_.poisoned == Poisoned::kV ? 0x7c00 : 0x7e00;
  for (int b = 0; b < tensor->batch; ++b) {
    for (int h = 0; h < tensor->heads; ++h) tensor->at(b, options_.poisoned_row, h, options_.poisoned_column) = bits;
  }
}

fa::sm80::ForwardParams AttentionCase::forward_params(const fa::sm80::ForwardVariant& variant) {
  fa::sm80::ForwardParams params{};
  params.q = q_.bits.data();
  params.k = k_.bits.data();
  params.v = v_.bits.data();
  params.o = o_.bits.data();
  params.lse = lse_.data();
  params.q_strides = strides_of(q_);
  params.k_strides = strides_of(k_);
  params.v_strides = strides_of(v_);
  params.o_strides = strides_of(o_);
  params.shape = fa::sm80::shape_of(problem_);
  params.order = {fa::sm80::ceil_div(options_.len_q, variant.tile_q), options_.batch, options_.heads_q, std::min(2, options_.batch * options_.heads_q),
                  problem_.is_causal()};
  return params;
}

void AttentionCase::fill_workspace(const fa::sm80::BackwardVariant& variant) {
  const fa::sm80::BackwardWorkspace workspace = fa::sm80::backward_workspace(problem_, variant);
  padded_rows_ = workspace.padded_rows;
  const size_t rows = static_cast<size_t>(workspace.heads * padded_rows_);
  lse_log2_.assign(rows, std::numeric_limits<float>::infinity());
  delta_.assign(rows, 0.0f);
  accumulator_.assign(fa::sm80::accumulates_grad_q(variant, options_.deterministic) ? rows * static_cast<size_t>(variant.padded_dim) : 0, 0.0f);
  for (size_t i = 0; i < expected_.lse.size(); ++i) {
    if (expected_.lse[i] == -std::numeric_limits<double>::infinity()) continue;
    const int head_index = static_cast<int>(i) / options_.len_q, query = static_cast<int>(i) % options_.len_q, b = head_index / options_.heads_q;
    if (has_sequences() && query >= len_of(b, true)) continue;
    const int64_t part = has_sequences() ? head_index % options_.heads_q : head_index;
    const size_t row = static_cast<size_t>(part * padded_rows_ + (has_sequences() ? workspace_row(b, query) : query));
    lse_log2_[row] = static_cast<float>(expected_.lse[i]) * fa::sm80::kLog2E;
    delta_[row] = static_cast<float>(expected_.delta[i]);
  }
}

fa::sm80::BackwardParams AttentionCase::backward_params(const fa::sm80::BackwardVariant& variant) {
  fill_workspace(variant);
  fa::sm80::BackwardParams params{};
  params.q = q_.bits.data();
  params.k = k_.bits.data();
  params.v = v_.bits.data();
  params.o = o_.bits.data();
  params.grad_o = grad_o_.bits.data();
  params.grad_q = grad_q_.bits.data();
  params.grad_k = grad_k_.bits.data();
  params.grad_v = grad_v_.bits.data();
  params.lse = lse_.data();
  params.q_strides = params.grad_q_strides = strides_of(q_);
  params.k_strides = params.grad_k_strides = strides_of(k_);
  params.v_strides = params.grad_v_strides = strides_of(v_);
  params.o_strides = params.grad_o_strides = strides_of(o_);
  params.lse_log2 = lse_log2_.data();
  params.delta = delta_.data();
  params.grad_q_accumulator = fa::sm80::accumulates_grad_q(variant, options_.deterministic) ? accumulator_.data() : nullptr;
  params.padded_rows = padded_rows_;
  params.padded_dim = variant.padded_dim;
  params.shape = fa::sm80::shape_of(problem_);
  params.num_q_tiles = static_cast<int>(fa::sm80::ceil_div(options_.len_q, variant.tile_q));
  params.order = {fa::sm80::ceil_div(options_.len_kv, variant.tile_kv), has_sequences() ? 1 : options_.batch, options_.heads_kv, 1};
  return params;
}

fa::sm80::BackwardParams AttentionCase::grad_q_params(const fa::sm80::BackwardParams& main, const fa::sm80::GradQVariant& variant) const {
  fa::sm80::BackwardParams params = main;
  params.order = {fa::sm80::ceil_div(options_.len_q, variant.tile_q), has_sequences() ? 1 : options_.batch, options_.heads_q, 1};
  return params;
}

void AttentionCase::compare_forward() const {
  compare("o", o_.values(), expected_at_places(expected_.o, o_, true), kOutputTolerance);
  compare("lse", {lse_.begin(), lse_.end()}, expected_lse(), kLseTolerance);
}

void AttentionCase::compare_grad_kv() const {
  compare("grad_k", grad_k_.values(), expected_at_places(expected_.grad_k, grad_k_, false), gradient_bound(expected_.grad_k));
  compare("grad_v", grad_v_.values(), expected_at_places(expected_.grad_v, grad_v_, false), gradient_bound(expected_.grad_v));
}

void AttentionCase::compare_grad_sinks(const std::vector<float>& actual) const {
  compare("grad_sinks", {actual.begin(), actual.end()}, expected_.grad_sinks, gradient_bound(expected_.grad_sinks));
}

void AttentionCase::compare_grad_bias(const std::vector<uint32_t>& memory) const {
  const std::vector<double> expected = expected_grad_bias();
  compare("grad_bias", grad_bias_values(memory), expected, gradient_bound(expected));
}

void AttentionCase::compare_grad_q() const {
  compare("grad_q", grad_q_.values(), expected_at_places(expected_.grad_q, grad_q_, true), gradient_bound(expected_.grad_q));
}

void AttentionCase::compare_accumulator(const fa::sm80::BackwardVariant& variant) const {
  const int warp_rows = variant.warps_dq, warp_cols = variant.warps_kv * variant.warps_q / warp_rows;
  const int blocks = variant.tile_q / warp_rows / 16, groups = variant.padded_dim / warp_cols / 8;  // of 16 rows, of 8 columns, per warp
  std::vector<double> actual;
  for (int b = 0; b < options_.batch; ++b) {
    for (int i = 0; i < options_.len_q; ++i) {
      if (has_sequences() && i >= len_of(b, true)) {
        actual.insert(actual.end(), static_cast<size_t>(options_.heads_q * options_.head_dim), 0.0);
        continue;
      }
      for (int h = 0; h < options_.heads_q; ++h) {
        for (int d = 0; d < options_.head_dim; ++d) {
          const int tile = i / variant.tile_q, row = i % variant.tile_q, group = d / 8, col = d % 8;
          const int warp = row / 16 % warp_rows * warp_cols + group / 2 % warp_cols;
          const int block = row / 16 / warp_rows, warp_group = 2 * (group / 2 / warp_cols) + group % 2;
          const int element = (block * groups + warp_group) * 4 + row / 8 % 2 * 2 + col % 2;
          const int lane = row % 8 * 4 + col / 2;
          const int64_t part = has_sequences() ? h * padded_rows_ + workspace_row(b, 0) : (b * options_.heads_q + h) * padded_rows_;
          const int64_t tile_row = part + tile * variant.tile_q;
          const int64_t index = tile_row * variant.padded_dim + warp * 32 * blocks * groups * 4 + element * 32 + lane;
          actual.push_back(static_cast<double>(accumulator_[static_cast<size_t>(index)]) * problem_.scale);
        }
      }
    }
  }
  compare("grad_q", actual, expected_.grad_q, gradient_bound(expected_.grad_q));
}

}  // namespace fa_test
