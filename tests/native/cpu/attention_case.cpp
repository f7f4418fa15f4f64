#include "attention_case.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <sstream>

namespace fa_test {
namespace {

constexpr double kFloatRoundoff = 5.9604644775390625e-8;  // 2^-24
/// Rounding errors, in fp32 units of the sum of absolute terms, that a result may collect: the products and sums of a score (each score's error, relative to
/// the row's largest, becomes a relative error of its probability), the exponential, the sums over keys.
constexpr double kErrorUnits = 24.0;
/// A probability below the smallest normal number may come out as 0: that error in the same units.
constexpr double kUnderflowUnits = 1.1754943508222875e-38 / (kErrorUnits * kFloatRoundoff);

size_t flat(const Sizes& sizes, int64_t b, int64_t s, int64_t h, int64_t c) {
  return static_cast<size_t>(((b * sizes[1] + s) * sizes[2] + h) * sizes[3] + c);
}

size_t count(const Sizes& sizes) {
  return static_cast<size_t>(sizes[0] * sizes[1] * sizes[2] * sizes[3]);
}

/// A value and the sum of absolute terms that bounds its error.
struct Tracked {
  std::vector<double> value, magnitude;
  explicit Tracked(size_t n) : value(n, 0.0), magnitude(n, 0.0) {}
  void add(size_t at, double term, double term_magnitude) {
    value[at] += term;
    magnitude[at] += term_magnitude;
  }
};

}  // namespace

struct AttentionCase::Expected {
  explicit Expected(const AttentionCase& c)
      : q(c.q.values()),
        k(c.k.values()),
        v(c.v.values()),
        grad_out(c.grad_o.values()),
        o(count(c.o.sizes())),
        grad_q(count(c.q.sizes())),
        grad_k(count(c.k.sizes())),
        grad_v(count(c.v.sizes())),
        lse(c.lse.size()) {}
  std::vector<double> q, k, v, grad_out;
  Tracked o, grad_q, grad_k, grad_v, lse;
};

std::string CaseOptions::name() const {
  static const char* const dtypes[] = {"f32", "f16", "bf16"};
  static const char* const masks[] = {"none", "top-left", "bottom-right"};
  std::ostringstream text;
  text << dtypes[dtype] << " mask " << masks[mask] << " B" << batch << " H" << heads_q << "/" << heads_kv << " len " << len_q << "x" << len_kv << " d "
       << head_dim << "/" << head_dim_v << " layout " << static_cast<int>(layout) << " seed " << seed;
  return text.str();
}

AttentionCase::AttentionCase(const CaseOptions& p) : options_(p) {
  const Sizes q_sizes{p.batch, p.len_q, p.heads_q, p.head_dim}, k_sizes{p.batch, p.len_kv, p.heads_kv, p.head_dim};
  const Sizes v_sizes{p.batch, p.len_kv, p.heads_kv, p.head_dim_v}, o_sizes{p.batch, p.len_q, p.heads_q, p.head_dim_v};
  const Layout output_layout = p.layout == Layout::kBroadcast ? Layout::kBhsd : p.layout;
  q = HostTensor(p.dtype, q_sizes, p.layout);
  k = HostTensor(p.dtype, k_sizes, p.layout);
  v = HostTensor(p.dtype, v_sizes, p.layout);
  grad_o = HostTensor(p.dtype, o_sizes, p.layout);
  o = HostTensor(p.dtype, o_sizes, output_layout);
  grad_q = HostTensor(p.dtype, q_sizes, output_layout);
  grad_k = HostTensor(p.dtype, k_sizes, output_layout);
  grad_v = HostTensor(p.dtype, v_sizes, output_layout);
  q.fill_normal(4 * p.seed, p.magnitude);
  k.fill_normal(4 * p.seed + 1, p.magnitude);
  v.fill_normal(4 * p.seed + 2);
  grad_o.fill_normal(4 * p.seed + 3);
  lse.assign(static_cast<size_t>(p.batch * p.heads_q * p.len_q), std::numeric_limits<float>::quiet_NaN());
  if (p.grad_lse) {
    std::mt19937_64 generator(p.seed);
    std::normal_distribution<float> normal;
    for (size_t i = 0; i < lse.size(); ++i) grad_lse.push_back(normal(generator));
  }
}

double AttentionCase::scale() const {
  return options_.scale != 0.0f ? options_.scale : 1.0 / std::sqrt(static_cast<double>(options_.head_dim));
}

bool AttentionCase::sees(int64_t query, int64_t key) const {
  if (options_.mask == FA_MASK_NONE) return true;
  return key <= query + (options_.mask == FA_MASK_CAUSAL_BOTTOM_RIGHT ? options_.len_kv - options_.len_q : 0);
}

void AttentionCase::run() {
  SCOPED_TRACE(options_.name());
  fa_attention_options options{};
  options.struct_size = sizeof(options);
  options.mask = options_.mask;
  options.scale = options_.scale;
  fa_forward_params forward{};
  forward.struct_size = sizeof(forward);
  forward.q = q.view(), forward.k = k.view(), forward.v = v.view(), forward.o = o.view();
  forward.lse = lse.data();
  forward.options = &options;
  ASSERT_EQ(FA_STATUS_OK, fa_attention_forward_workspace_size(&forward, &forward.workspace_bytes)) << fa_last_error_message();
  // A workspace full of NaN, with a guard behind it.
  constexpr size_t kGuard = 256;
  std::vector<unsigned char> workspace(forward.workspace_bytes + 16 + kGuard, 0xff);
  const auto align = [](unsigned char* p) { return p + (16 - reinterpret_cast<uintptr_t>(p) % 16) % 16; };
  forward.workspace = align(workspace.data());
  ASSERT_EQ(FA_STATUS_OK, fa_attention_forward(&forward)) << fa_last_error_message();
  const auto guard_intact = [&](void* base, uint64_t bytes) {
    const unsigned char* const guard = static_cast<unsigned char*>(base) + bytes;
    return std::all_of(guard, guard + kGuard, [](unsigned char c) { return c == 0xff; });
  };
  EXPECT_TRUE(guard_intact(forward.workspace, forward.workspace_bytes));

  fa_backward_params backward{};
  backward.struct_size = sizeof(backward);
  backward.q = q.view(), backward.k = k.view(), backward.v = v.view(), backward.o = o.view(), backward.grad_o = grad_o.view();
  backward.grad_q = grad_q.view(), backward.grad_k = grad_k.view(), backward.grad_v = grad_v.view();
  backward.lse = lse.data();
  backward.grad_lse = grad_lse.empty() ? nullptr : grad_lse.data();
  backward.options = &options;
  ASSERT_EQ(FA_STATUS_OK, fa_attention_backward_workspace_size(&backward, &backward.workspace_bytes)) << fa_last_error_message();
  workspace.assign(backward.workspace_bytes + 16 + kGuard, 0xff);
  backward.workspace = align(workspace.data());
  ASSERT_EQ(FA_STATUS_OK, fa_attention_backward(&backward)) << fa_last_error_message();
  EXPECT_TRUE(guard_intact(backward.workspace, backward.workspace_bytes));
  for (const HostTensor* tensor : {&q, &k, &v, &grad_o, &o, &grad_q, &grad_k, &grad_v}) EXPECT_TRUE(tensor->surroundings_intact());
}

void AttentionCase::reference_row(Expected* e, int64_t b, int64_t h, int64_t i) const {
  const CaseOptions& p = options_;
  const int64_t hk = h / (p.heads_q / p.heads_kv);
  const size_t row = static_cast<size_t>((b * p.heads_q + h) * p.len_q + i);
  const size_t q_at = flat(q.sizes(), b, i, h, 0), o_at = flat(o.sizes(), b, i, h, 0);
  const size_t dim = static_cast<size_t>(p.head_dim), dim_v = static_cast<size_t>(p.head_dim_v);
  std::vector<int64_t> keys;
  for (int64_t j = 0; j < p.len_kv; ++j)
    if (sees(i, j)) keys.push_back(j);
  if (keys.empty()) {
    e->lse.value[row] = -std::numeric_limits<double>::infinity();
    return;
  }
  std::vector<double> probability(keys.size());
  double largest = -std::numeric_limits<double>::infinity(), sum = 0.0, largest_magnitude = 0.0;
  for (size_t n = 0; n < keys.size(); ++n) {
    const size_t k_at = flat(k.sizes(), b, keys[n], hk, 0);
    double score = 0.0, magnitude = 0.0;
    for (size_t c = 0; c < dim; ++c) {
      const double term = scale() * e->q[q_at + c] * e->k[k_at + c];
      score += term;
      magnitude += std::fabs(term);
    }
    probability[n] = score;
    largest = std::max(largest, score);
    largest_magnitude = std::max(largest_magnitude, magnitude);
  }
  for (double& x : probability) sum += x = std::exp(x - largest);
  e->lse.value[row] = largest + std::log(sum);
  e->lse.magnitude[row] = 1.0 + largest_magnitude + std::fabs(e->lse.value[row]);
  // A probability's relative error in units of fp32 rounding: its score's error and the row's.
  const double relative = 1.0 + largest_magnitude;

  double delta = p.grad_lse ? -static_cast<double>(grad_lse[row]) : 0.0, delta_magnitude = std::fabs(delta);
  for (size_t n = 0; n < keys.size(); ++n) {
    const double weight = probability[n] / sum;
    const size_t v_at = flat(v.sizes(), b, keys[n], hk, 0);
    for (size_t c = 0; c < dim_v; ++c) e->o.add(o_at + c, weight * e->v[v_at + c], (weight * relative + kUnderflowUnits) * std::fabs(e->v[v_at + c]));
  }
  for (size_t c = 0; c < dim_v; ++c) {
    const double term = e->o.value[o_at + c] * e->grad_out[o_at + c];
    delta += term;
    delta_magnitude += std::fabs(term);
  }
  // The backward pass reads o as it was rounded to the dtype: its error, in fp32 units, enters delta.
  const double o_units = 1.0 + unit_roundoff(p.dtype) / kFloatRoundoff / kErrorUnits;
  for (size_t n = 0; n < keys.size(); ++n) {
    const size_t k_at = flat(k.sizes(), b, keys[n], hk, 0), v_at = flat(v.sizes(), b, keys[n], hk, 0);
    const double weight = probability[n] / sum, weight_magnitude = weight * relative + kUnderflowUnits;
    double grad_p = 0.0, grad_p_magnitude = 0.0;
    for (size_t c = 0; c < dim_v; ++c) {
      const double grad = e->grad_out[o_at + c], term = grad * e->v[v_at + c];
      grad_p += term;
      grad_p_magnitude += std::fabs(term);
      e->grad_v.add(v_at + c, weight * grad, weight_magnitude * std::fabs(grad));
    }
    const double grad_s = scale() * weight * (grad_p - delta);
    const double grad_s_magnitude = scale() * weight_magnitude * (grad_p_magnitude + delta_magnitude * o_units);
    for (size_t c = 0; c < dim; ++c) {
      const double q_value = e->q[q_at + c], k_value = e->k[k_at + c];
      e->grad_q.add(q_at + c, grad_s * k_value, grad_s_magnitude * std::fabs(k_value));
      e->grad_k.add(k_at + c, grad_s * q_value, grad_s_magnitude * std::fabs(q_value));
    }
  }
}

void AttentionCase::compare_tensor(const char* what, const HostTensor& actual, const std::vector<double>& expected,
                                   const std::vector<double>& magnitude) const {
  const Sizes& sizes = actual.sizes();
  int64_t wrong = 0;
  for (int64_t b = 0; b < sizes[0]; ++b)
    for (int64_t s = 0; s < sizes[1]; ++s)
      for (int64_t h = 0; h < sizes[2]; ++h)
        for (int64_t c = 0; c < sizes[3]; ++c) {
          const size_t at = flat(sizes, b, s, h, c);
          const double got = actual.get(b, s, h, c), want = expected[at];
          bool good;
          if (!std::isfinite(want)) {
            good = std::isnan(want) ? std::isnan(got) : got == want;
          } else {
            const double bound =
                unit_roundoff(actual.dtype()) * std::fabs(want) + underflow_error(actual.dtype()) + kErrorUnits * kFloatRoundoff * magnitude[at];
            good = std::fabs(got - want) <= bound;
          }
          if (!good && ++wrong <= 3) {
            ADD_FAILURE() << what << "[" << b << "," << s << "," << h << "," << c << "]: expected " << want << ", got " << got << " (error magnitude "
                          << magnitude[at] << ")";
          }
        }
  EXPECT_EQ(0, wrong) << what << ": elements that are wrong";
}

void AttentionCase::compare() {
  SCOPED_TRACE(options_.name());
  Expected e(*this);
  for (int64_t b = 0; b < options_.batch; ++b)
    for (int64_t h = 0; h < options_.heads_q; ++h)
      for (int64_t i = 0; i < options_.len_q; ++i) reference_row(&e, b, h, i);
  compare_tensor("o", o, e.o.value, e.o.magnitude);
  compare_tensor("grad_q", grad_q, e.grad_q.value, e.grad_q.magnitude);
  compare_tensor("grad_k", grad_k, e.grad_k.value, e.grad_k.magnitude);
  compare_tensor("grad_v", grad_v, e.grad_v.value, e.grad_v.magnitude);
  for (size_t i = 0; i < lse.size(); ++i) {
    const double want = e.lse.value[i], got = lse[i];
    const bool good = std::isnan(want) ? std::isnan(got) : std::isinf(want) ? got == want : std::fabs(got - want) <= 4 * kFloatRoundoff * e.lse.magnitude[i];
    ASSERT_TRUE(good) << "lse[" << i << "]: expected " << want << ", got " << got;
  }
}

std::vector<unsigned char> AttentionCase::output_bytes() const {
  std::vector<unsigned char> all;
  for (const HostTensor* tensor : {&o, &grad_q, &grad_k, &grad_v}) all.insert(all.end(), tensor->bytes().begin(), tensor->bytes().end());
  const unsigned char* const first = reinterpret_cast<const unsigned char*>(lse.data());
  all.insert(all.end(), first, first + lse.size() * sizeof(float));
  return all;
}

}  // namespace fa_test
