// The definition of attention with variants, pair by pair in double precision, and the comparison with it.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "variant_case.h"

namespace fa_test {
namespace {

constexpr double kFloatRoundoff = 5.9604644775390625e-8;  // 2^-24
/// Rounding errors, in fp32 units of the sum of absolute terms, that a result may collect; see attention_case.cpp. Capped scores add the hyperbolic tangent's.
constexpr double kErrorUnits = 40.0;
constexpr double kInfinity = std::numeric_limits<double>::infinity();

/// Philox4x32-10 straight from the paper.
bool keeps(float dropout, int64_t batch_head, int64_t i, int64_t j) {
  uint32_t c[4] = {static_cast<uint32_t>(j / 4), static_cast<uint32_t>(i), static_cast<uint32_t>(batch_head), kDropoutOffset};
  uint32_t k0 = static_cast<uint32_t>(kDropoutSeed), k1 = static_cast<uint32_t>(kDropoutSeed >> 32);
  for (int round = 0; round < 10; ++round, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
    const uint64_t p0 = 0xD2511F53ull * c[0], p1 = 0xCD9E8D57ull * c[2];
    const uint32_t next[4] = {static_cast<uint32_t>(p1 >> 32) ^ c[1] ^ k0, static_cast<uint32_t>(p1), static_cast<uint32_t>(p0 >> 32) ^ c[3] ^ k1,
                              static_cast<uint32_t>(p0)};
    std::copy(next, next + 4, c);
  }
  return c[j % 4] >= static_cast<uint32_t>(std::floor(static_cast<double>(dropout) * 4294967296.0));
}

size_t flat(const Sizes& sizes, int64_t a, int64_t b, int64_t c, int64_t d) {
  return static_cast<size_t>(((a * sizes[1] + b) * sizes[2] + c) * sizes[3] + d);
}

size_t count(const Sizes& sizes) {
  return static_cast<size_t>(sizes[0] * sizes[1] * sizes[2] * sizes[3]);
}

/// A value and what bounds its error.
struct Tracked {
  std::vector<double> value, error;
  explicit Tracked(size_t n, double fill = 0.0) : value(n, fill), error(n, 0.0) {}
  void add(size_t at, double term, double term_error) {
    value[at] += term;
    error[at] += term_error;
  }
};

void expect_equal(const char* what, const std::vector<double>& actual, const Tracked& expected, fa_dtype dtype) {
  ASSERT_EQ(actual.size(), expected.value.size()) << what;
  for (size_t i = 0; i < actual.size(); ++i) {
    const double value = expected.value[i], bound = expected.error[i] + unit_roundoff(dtype) * std::fabs(value) * 1.01 + underflow_error(dtype) + 1e-37;
    const bool same_special = (std::isnan(value) && std::isnan(actual[i])) || value == actual[i];
    const bool is_special = std::isnan(value) || std::isinf(value);
    // A sum with an infinite term may overflow to infinity or to NaN depending on its order; what must not happen is a finite result.
    const bool special_ok = is_special && !std::isfinite(actual[i]);
    ASSERT_TRUE(same_special || special_ok || std::fabs(actual[i] - value) <= bound)
        << what << "[" << i << "]: expected " << value << " +- " << bound << ", got " << actual[i];
  }
}

}  // namespace

struct VariantCase::Expected {
  explicit Expected(const VariantCase& c)
      : q(c.q_.values()),
        k(c.k_.values()),
        v(c.v_.values()),
        grad_out(c.grad_o_.values()),
        out(c.o_.values()),
        o(count(c.o_.sizes())),
        grad_q(count(c.q_.sizes())),
        grad_k(count(c.k_.sizes())),
        grad_v(count(c.v_.sizes())),
        grad_bias(count(c.bias_.sizes())),
        lse(c.lse_.size(), -kInfinity),
        grad_sinks(c.sinks_.size()) {}
  std::vector<double> q, k, v, grad_out, out;
  Tracked o, grad_q, grad_k, grad_v, grad_bias, lse, grad_sinks;
};

int64_t VariantCase::pair_index(const Sizes& sizes, size_t sequence, int64_t head, int64_t i, int64_t j) const {
  const auto at = [&](int dimension, int64_t index) { return sizes[static_cast<size_t>(dimension)] == 1 ? 0 : index; };
  return static_cast<int64_t>(flat(sizes, at(0, static_cast<int64_t>(sequence)), at(1, head), at(2, i), j));
}

bool VariantCase::sees(size_t sequence, int64_t head, int64_t i, int64_t j) const {
  const VariantOptions& p = options_;
  const Sequence& m = members_[sequence];
  const bool bottom_right = p.mask == FA_MASK_CAUSAL_BOTTOM_RIGHT || p.mask == FA_MASK_WINDOW_BOTTOM_RIGHT;
  const int64_t position = bottom_right ? i + m.len_kv - m.len_q : i;
  bool visible = true;
  if (p.mask == FA_MASK_CAUSAL_TOP_LEFT || p.mask == FA_MASK_CAUSAL_BOTTOM_RIGHT) visible = j <= position;
  if (p.mask == FA_MASK_WINDOW_TOP_LEFT || p.mask == FA_MASK_WINDOW_BOTTOM_RIGHT) {
    visible = (p.window_left < 0 || position - p.window_left <= j) && (p.window_right < 0 || j <= position + p.window_right);
  }
  if (p.chunk > 0) {
    const double chunk = static_cast<double>(p.chunk);
    visible = visible && std::floor(static_cast<double>(position) / chunk) == std::floor(static_cast<double>(j) / chunk);
  }
  if (!visible_.empty()) visible = visible && visible_[static_cast<size_t>(pair_index(visible_sizes_, sequence, head, i, j))] != 0;
  if (!blocks_.empty()) visible = visible && blocks_[static_cast<size_t>(pair_index(block_sizes_, sequence, head, i / p.block_q, j / p.block_kv))] != 0;
  return visible && bias_at(sequence, head, i, j) != -kInfinity;
}

double VariantCase::bias_at(size_t sequence, int64_t head, int64_t i, int64_t j) const {
  if (options_.bias.empty()) return 0.0;
  const Sizes& sizes = bias_.sizes();
  return bias_.get(sizes[0] == 1 ? 0 : static_cast<int64_t>(sequence), sizes[1] == 1 ? 0 : head, sizes[2] == 1 ? 0 : i, j);
}

void VariantCase::reference_row(Expected* e, size_t sequence, int64_t head, int64_t i) const {
  const VariantOptions& p = options_;
  const Sequence& m = members_[sequence];
  const int64_t hk = head / (shape_.heads_q / shape_.heads_kv), batch_head = static_cast<int64_t>(sequence) * shape_.heads_q + head;
  const size_t row = static_cast<size_t>((m.batch * shape_.heads_q + head) * shape_.len_q + m.q_begin + i);
  const double scale = 1.0 / std::sqrt(static_cast<double>(shape_.head_dim));
  const bool bottom_right = p.mask == FA_MASK_CAUSAL_BOTTOM_RIGHT || p.mask == FA_MASK_WINDOW_BOTTOM_RIGHT;
  const int64_t position = bottom_right ? i + m.len_kv - m.len_q : i;
  const double slope =
      p.alibi == 0 ? 0.0 : static_cast<double>(slopes_[static_cast<size_t>((p.alibi == 2 ? static_cast<int64_t>(sequence) * (shape_.heads_q + 1) : 0) + head)]);
  const auto q_at = [&](int64_t c) { return e->q[flat(q_.sizes(), m.batch, m.q_begin + i, head, c)]; };
  struct Pair {
    int64_t j;
    double score, derivative, keep;
  };
  std::vector<Pair> pairs;
  double largest = -kInfinity, score_error = 1.0;
  for (int64_t j = 0; j < m.len_kv; ++j) {
    if (!sees(sequence, head, i, j)) continue;
    double dot = 0, magnitude = 0;
    for (int64_t c = 0; c < shape_.head_dim; ++c) {
      const double term = q_at(c) * e->k[flat(k_.sizes(), m.batch, m.kv_begin + j, hk, c)] * scale;
      dot += term;
      magnitude += std::fabs(term);
    }
    double derivative = 1.0;
    if (p.softcap > 0.0f) {
      const double capped = std::tanh(dot / static_cast<double>(p.softcap));
      dot = static_cast<double>(p.softcap) * capped;
      derivative = 1.0 - capped * capped;
    }
    const double added = bias_at(sequence, head, i, j), distance = slope * std::fabs(static_cast<double>(position - j));
    score_error = std::max(score_error, 1.0 + magnitude + std::fabs(added) + distance);
    dot += added - distance;
    pairs.push_back({j, dot, derivative, p.dropout == 0.0f ? 1.0 : keeps(p.dropout, batch_head, i, j) ? 1.0 / (1.0 - static_cast<double>(p.dropout)) : 0.0});
    largest = std::isnan(dot) ? dot : std::max(largest, dot);
  }
  const double sink = p.sinks ? static_cast<double>(sinks_[static_cast<size_t>(head)]) : -kInfinity;
  largest = std::max(sink, largest);
  double sum = sink == -kInfinity ? 0.0 : std::exp(sink - largest);
  for (const Pair& pair : pairs) sum += std::exp(pair.score - largest);
  const double lse = sum == 0.0 ? -kInfinity : largest + std::log(sum), error = kErrorUnits * kFloatRoundoff * score_error;
  e->lse.value[row] = lse;
  e->lse.error[row] = std::isinf(lse) ? 0.0 : error + kFloatRoundoff * std::fabs(lse);

  // delta is taken from the o that the backward pass was given.
  double delta = 0, delta_magnitude = 0;
  for (int64_t c = 0; c < shape_.head_dim_v && !pairs.empty(); ++c) {
    const size_t at = flat(o_.sizes(), m.batch, m.q_begin + i, head, c);
    delta += e->grad_out[at] * e->out[at];
    delta_magnitude += std::fabs(e->grad_out[at] * e->out[at]);
  }
  delta -= static_cast<double>(grad_lse_[row]);
  delta_magnitude += std::fabs(static_cast<double>(grad_lse_[row]));
  if (p.sinks) {
    const double share = std::exp(sink - lse);
    e->grad_sinks.add(static_cast<size_t>(head), -share * delta, 4 * error * share * delta_magnitude);
  }
  for (const Pair& pair : pairs) {
    const double prob = std::exp(pair.score - lse), kept = prob * pair.keep;
    double dp = 0, dp_magnitude = 0;
    for (int64_t c = 0; c < shape_.head_dim_v; ++c) {
      const size_t o_at = flat(o_.sizes(), m.batch, m.q_begin + i, head, c), v_at = flat(v_.sizes(), m.batch, m.kv_begin + pair.j, hk, c);
      e->o.add(o_at, kept * e->v[v_at], 2 * error * std::fabs(kept * e->v[v_at]));
      e->grad_v.add(v_at, kept * e->grad_out[o_at], 2 * error * std::fabs(kept * e->grad_out[o_at]));
      dp += e->grad_out[o_at] * e->v[v_at];
      dp_magnitude += std::fabs(e->grad_out[o_at] * e->v[v_at]);
    }
    const double ds = prob * (pair.keep * dp - delta), ds_error = 4 * error * prob * (pair.keep * dp_magnitude + delta_magnitude);
    if (!p.bias.empty()) e->grad_bias.add(static_cast<size_t>(pair_index(bias_.sizes(), sequence, head, i, pair.j)), ds, ds_error);
    for (int64_t c = 0; c < shape_.head_dim; ++c) {
      const size_t query = flat(q_.sizes(), m.batch, m.q_begin + i, head, c), key = flat(k_.sizes(), m.batch, m.kv_begin + pair.j, hk, c);
      const double dx = ds * pair.derivative * scale;
      // tanh's own error weighs in where its derivative is small.
      const double dx_error = ds_error * scale;
      e->grad_q.add(query, dx * e->k[key], dx_error * std::fabs(e->k[key]));
      e->grad_k.add(key, dx * e->q[query], dx_error * std::fabs(e->q[query]));
    }
  }
}

void VariantCase::compare() {
  SCOPED_TRACE(options_.name);
  Expected expected(*this);
  for (size_t sequence = 0; sequence < members_.size(); ++sequence)
    for (int64_t head = 0; head < shape_.heads_q; ++head)
      for (int64_t i = 0; i < members_[sequence].len_q; ++i) reference_row(&expected, sequence, head, i);
  compare_all(expected);
}

void VariantCase::compare_all(const Expected& expected) const {
  const auto doubles = [](const std::vector<float>& values) { return std::vector<double>(values.begin(), values.end()); };
  expect_equal("o", o_.values(), expected.o, dtype_);
  expect_equal("lse", doubles(lse_), expected.lse, FA_DTYPE_FLOAT32);
  expect_equal("grad_q", grad_q_.values(), expected.grad_q, dtype_);
  expect_equal("grad_k", grad_k_.values(), expected.grad_k, dtype_);
  expect_equal("grad_v", grad_v_.values(), expected.grad_v, dtype_);
  if (!options_.bias.empty()) expect_equal("grad_bias", grad_bias_.values(), expected.grad_bias, bias_.dtype());
  expect_equal("grad_sinks", doubles(grad_sinks_), expected.grad_sinks, FA_DTYPE_FLOAT32);
}

}  // namespace fa_test
