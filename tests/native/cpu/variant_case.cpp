#include "variant_case.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace fa_test {
namespace {

constexpr double kFloatRoundoff = 5.9604644775390625e-8;  // 2^-24
/// Rounding errors, in fp32 units of the sum of absolute terms, that a result may collect; see attention_case.cpp. Capped scores add the hyperbolic tangent's.
constexpr double kErrorUnits = 40.0;
constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr uint64_t kSeed = 0x123456789abcdef0;
constexpr uint32_t kOffset = 77;

/// Philox4x32-10 straight from the paper.
bool keeps(float dropout, int64_t batch_head, int64_t i, int64_t j) {
  uint32_t c[4] = {static_cast<uint32_t>(j / 4), static_cast<uint32_t>(i), static_cast<uint32_t>(batch_head), kOffset};
  uint32_t k0 = static_cast<uint32_t>(kSeed), k1 = static_cast<uint32_t>(kSeed >> 32);
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

Sizes pair_sizes(const std::string& extents, int64_t batch, int64_t heads, int64_t rows, int64_t columns) {
  return {extents[0] == '1' ? 1 : batch, extents[1] == '1' ? 1 : heads, extents[2] == '1' ? 1 : rows, columns};
}

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

VariantCase::VariantCase(const VariantOptions& options, const VariantShape& shape, fa_dtype dtype, uint64_t seed)
    : options_(options), shape_(shape), dtype_(dtype) {
  make_sequences();
  make_tensors(seed);
}

void VariantCase::make_sequences() {
  const VariantShape& s = shape_;
  max_len_q_ = s.len_q;
  max_len_kv_ = s.len_kv;
  if (options_.lengths == Lengths::kNone) {
    for (int64_t b = 0; b < s.batch; ++b) members_.push_back({b, 0, s.len_q, 0, s.len_kv});
    return;
  }
  const bool packed = options_.lengths == Lengths::kPacked || options_.lengths == Lengths::kPackedUsed || options_.lengths == Lengths::kPackedLeft;
  const bool left = options_.lengths == Lengths::kPackedLeft || options_.lengths == Lengths::kPaddedLeft;
  if (packed) {
    // Lengths of nothing, of one, shorter and longer than a tile; some positions at the end belong to no sequence.
    const std::vector<int64_t> lens_q{0, 5, s.len_q, 1, s.len_q / 3, 7}, lens_kv{3, s.len_kv / 2, s.len_kv, 0, 9, 1};
    max_len_q_ = *std::max_element(lens_q.begin(), lens_q.end());
    max_len_kv_ = *std::max_element(lens_kv.begin(), lens_kv.end()) + 1;  // an upper bound only
    cu_q_ = {0}, cu_kv_ = {0};
    for (size_t i = 0; i < lens_q.size(); ++i) {
      cu_q_.push_back(cu_q_.back() + static_cast<int32_t>(lens_q[i]));
      cu_kv_.push_back(cu_kv_.back() + static_cast<int32_t>(lens_kv[i]));
    }
    shape_.batch = 1;
    shape_.len_q = cu_q_.back() + 4;
    shape_.len_kv = cu_kv_.back() + 3;
  }
  const int64_t sequences = packed ? static_cast<int64_t>(cu_q_.size()) - 1 : s.batch;
  for (int64_t i = 0; i < sequences; ++i) {
    const size_t at = static_cast<size_t>(i);
    const int64_t q0 = packed ? cu_q_[at] : 0, q1 = packed ? cu_q_[at + 1] : s.len_q, k0 = packed ? cu_kv_[at] : 0, k1 = packed ? cu_kv_[at + 1] : s.len_kv;
    const bool uses = options_.lengths != Lengths::kPacked;
    const int64_t nq = uses ? (q1 - q0) * (i + 2) / (i + 3) : q1 - q0, nk = uses ? (k1 - k0) * (3 * i + 1) / (3 * i + 2) : k1 - k0;
    if (uses) used_q_.push_back(static_cast<int32_t>(nq)), used_kv_.push_back(static_cast<int32_t>(nk));
    members_.push_back({packed ? 0 : i, left ? q1 - nq : q0, nq, left ? k1 - nk : k0, nk});
  }
  sequences_ = {sizeof(fa_sequences),
                left ? 1 : 0,
                sequences,
                packed ? cu_q_.data() : nullptr,
                packed ? cu_kv_.data() : nullptr,
                used_q_.empty() ? nullptr : used_q_.data(),
                used_kv_.empty() ? nullptr : used_kv_.data(),
                packed ? max_len_q_ : 0,
                packed ? max_len_kv_ : 0};
}

void VariantCase::make_tensors(uint64_t seed) {
  const VariantShape& s = shape_;
  const Sizes q_sizes{s.batch, s.len_q, s.heads_q, s.head_dim}, k_sizes{s.batch, s.len_kv, s.heads_kv, s.head_dim};
  const Sizes v_sizes{s.batch, s.len_kv, s.heads_kv, s.head_dim_v}, o_sizes{s.batch, s.len_q, s.heads_q, s.head_dim_v};
  uint64_t next = 16 * seed;
  for (auto [tensor, sizes] : {std::pair(&q_, q_sizes), std::pair(&k_, k_sizes), std::pair(&v_, v_sizes), std::pair(&grad_o_, o_sizes)}) {
    *tensor = HostTensor(dtype_, sizes, Layout::kGapped);
    tensor->fill_normal(next++);
  }
  o_ = HostTensor(dtype_, o_sizes, Layout::kBhsd);
  grad_q_ = HostTensor(dtype_, q_sizes, Layout::kGapped);
  grad_k_ = HostTensor(dtype_, k_sizes, Layout::kBshd);
  grad_v_ = HostTensor(dtype_, v_sizes, Layout::kBhsd);
  std::mt19937_64 random(next);
  std::normal_distribution<float> normal;
  const int64_t sequences = static_cast<int64_t>(members_.size());
  const auto normals = [&](size_t n) {
    std::vector<float> values(n);
    for (float& value : values) value = normal(random);
    return values;
  };
  const size_t rows = static_cast<size_t>(s.batch * s.heads_q * s.len_q);
  lse_.assign(rows, std::numeric_limits<float>::quiet_NaN());
  grad_lse_ = normals(rows);
  if (options_.alibi != 0) {
    slopes_ = normals(static_cast<size_t>((options_.alibi == 2 ? sequences * (s.heads_q + 1) : s.heads_q)));
    for (float& slope : slopes_) slope = std::fabs(slope) * 0.1f;
  }
  if (options_.sinks) sinks_ = normals(static_cast<size_t>(s.heads_q));
  grad_sinks_.assign(sinks_.size(), std::numeric_limits<float>::quiet_NaN());
  if (!options_.bias.empty()) {
    const Sizes sizes = pair_sizes(options_.bias, sequences, s.heads_q, max_len_q_, max_len_kv_);
    bias_ = HostTensor(options_.bias_f32 ? FA_DTYPE_FLOAT32 : dtype_, sizes, Layout::kBshd);
    grad_bias_ = HostTensor(bias_.dtype(), sizes, Layout::kGapped);
    bias_.fill_normal(next + 1);
    for (int64_t a = 0; options_.bias_hides && a < sizes[0]; ++a)
      for (int64_t b = 0; b < sizes[1]; ++b)
        for (int64_t c = 0; c < sizes[2]; ++c)
          for (int64_t d = 0; d < sizes[3]; ++d)
            if (random() % 3 == 0 || c % 11 == 4) bias_.set(a, b, c, d, -kInfinity);
  }
  if (!options_.visible.empty()) {
    visible_sizes_ = pair_sizes(options_.visible, sequences, s.heads_q, max_len_q_, max_len_kv_);
    visible_.resize(count(visible_sizes_));
    for (size_t i = 0; i < visible_.size(); ++i) visible_[i] = static_cast<int64_t>(i) / visible_sizes_[3] % 7 == 3 ? 0 : random() % 3;
  }
  if (options_.block_q != 0) {
    const int64_t bq = options_.block_q, bkv = options_.block_kv;
    block_sizes_ = {1, s.heads_q, (max_len_q_ + bq - 1) / bq, (max_len_kv_ + bkv - 1) / bkv};
    blocks_.resize(count(block_sizes_));
    for (unsigned char& block : blocks_) block = random() % 2 == 0 ? 0 : 3;
  }
  // What belongs to no sequence must not be read into a result.
  std::vector<bool> in_q(static_cast<size_t>(s.batch * s.len_q)), in_kv(static_cast<size_t>(s.batch * s.len_kv));
  for (const Sequence& m : members_) {
    for (int64_t i = 0; i < m.len_q; ++i) in_q[static_cast<size_t>(m.batch * s.len_q + m.q_begin + i)] = true;
    for (int64_t j = 0; j < m.len_kv; ++j) in_kv[static_cast<size_t>(m.batch * s.len_kv + m.kv_begin + j)] = true;
  }
  const auto set_row = [](HostTensor* tensor, int64_t batch, int64_t row) {
    for (int64_t h = 0; h < tensor->sizes()[2]; ++h)
      for (int64_t c = 0; c < tensor->sizes()[3]; ++c) tensor->set(batch, row, h, c, std::numeric_limits<double>::quiet_NaN());
  };
  for (size_t i = 0; i < in_q.size(); ++i)
    if (!in_q[i])
      for (HostTensor* tensor : {&q_, &grad_o_}) set_row(tensor, static_cast<int64_t>(i) / s.len_q, static_cast<int64_t>(i) % s.len_q);
  for (size_t i = 0; i < in_kv.size(); ++i)
    if (!in_kv[i])
      for (HostTensor* tensor : {&k_, &v_}) set_row(tensor, static_cast<int64_t>(i) / s.len_kv, static_cast<int64_t>(i) % s.len_kv);
}

void VariantCase::poison() {
  const Sequence& m = members_[members_.size() > 2 ? 2 : 0];
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const auto set = [&](HostTensor* tensor, int64_t row, int64_t len, int64_t begin, double value) {
    if (row >= 0 && row < len) tensor->set(m.batch, begin + row, 0, 1, value);
  };
  set(&k_, 3, m.len_kv, m.kv_begin, nan);
  set(&v_, m.len_kv - 2, m.len_kv, m.kv_begin, kInfinity);
  set(&q_, 4, m.len_q, m.q_begin, nan);
  set(&grad_o_, m.len_q - 3, m.len_q, m.q_begin, nan);
}

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

void VariantCase::run() {
  SCOPED_TRACE(options_.name);
  fa_attention_options options{};
  options.struct_size = sizeof(options);
  options.mask = options_.mask;
  options.window_left = options_.window_left;
  options.window_right = options_.window_right;
  options.chunk = options_.chunk;
  options.softcap = options_.softcap;
  options.dropout = options_.dropout;
  options.dropout_seed = kSeed;
  options.dropout_offset = kOffset;
  options.alibi_slopes = slopes_.empty() ? nullptr : slopes_.data();
  options.alibi_batch_stride = options_.alibi == 2 ? shape_.heads_q + 1 : 0;
  options.sinks = sinks_.empty() ? nullptr : sinks_.data();
  options.block_q = options_.block_q;
  options.block_kv = options_.block_kv;
  const auto bytes_view = [](std::vector<unsigned char>& data, const Sizes& sizes) {
    fa_tensor tensor{};
    tensor.data = data.data();
    tensor.dtype = FA_DTYPE_UINT8;
    int64_t stride = 1;
    for (size_t i = 4; i-- > 0;) {
      tensor.sizes[i] = sizes[i];
      tensor.strides[i] = stride;
      stride *= sizes[i];
    }
    return tensor;
  };
  const fa_tensor visible = bytes_view(visible_, visible_sizes_), blocks = bytes_view(blocks_, block_sizes_);
  fa_tensor bias{};
  if (!options_.bias.empty()) bias = bias_.view();
  options.bias = options_.bias.empty() ? nullptr : &bias;
  options.visible = visible_.empty() ? nullptr : &visible;
  options.block_mask = blocks_.empty() ? nullptr : &blocks;
  options.sequences = options_.lengths == Lengths::kNone ? nullptr : &sequences_;

  fa_forward_params forward{};
  forward.struct_size = sizeof(forward);
  forward.q = q_.view(), forward.k = k_.view(), forward.v = v_.view(), forward.o = o_.view();
  forward.lse = lse_.data();
  forward.options = &options;
  ASSERT_EQ(FA_STATUS_OK, fa_attention_forward_workspace_size(&forward, &forward.workspace_bytes)) << fa_last_error_message();
  // A workspace full of NaN, with a guard behind it.
  constexpr size_t kGuard = 256;
  std::vector<unsigned char> workspace(forward.workspace_bytes + 16 + kGuard, 0xff);
  const auto align = [](unsigned char* p) { return p + (16 - reinterpret_cast<uintptr_t>(p) % 16) % 16; };
  const auto guard_intact = [&](void* base, uint64_t bytes) {
    const unsigned char* const guard = static_cast<unsigned char*>(base) + bytes;
    return std::all_of(guard, guard + kGuard, [](unsigned char c) { return c == 0xff; });
  };
  forward.workspace = align(workspace.data());
  ASSERT_EQ(FA_STATUS_OK, fa_attention_forward(&forward)) << fa_last_error_message();
  EXPECT_TRUE(guard_intact(forward.workspace, forward.workspace_bytes));

  fa_backward_params backward{};
  backward.struct_size = sizeof(backward);
  backward.q = q_.view(), backward.k = k_.view(), backward.v = v_.view(), backward.o = o_.view(), backward.grad_o = grad_o_.view();
  backward.grad_q = grad_q_.view(), backward.grad_k = grad_k_.view(), backward.grad_v = grad_v_.view();
  if (!options_.bias.empty()) backward.grad_bias = grad_bias_.view();
  backward.grad_sinks = sinks_.empty() ? nullptr : grad_sinks_.data();
  backward.lse = lse_.data();
  backward.grad_lse = grad_lse_.data();
  backward.options = &options;
  ASSERT_EQ(FA_STATUS_OK, fa_attention_backward_workspace_size(&backward, &backward.workspace_bytes)) << fa_last_error_message();
  workspace.assign(backward.workspace_bytes + 16 + kGuard, 0xff);
  backward.workspace = align(workspace.data());
  ASSERT_EQ(FA_STATUS_OK, fa_attention_backward(&backward)) << fa_last_error_message();
  EXPECT_TRUE(guard_intact(backward.workspace, backward.workspace_bytes));
  for (const HostTensor* tensor : {&q_, &k_, &v_, &grad_o_, &o_, &grad_q_, &grad_k_, &grad_v_}) EXPECT_TRUE(tensor->surroundings_intact());
  EXPECT_TRUE(options_.bias.empty() || grad_bias_.surroundings_intact());
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

std::vector<unsigned char> VariantCase::output_bytes() const {
  std::vector<unsigned char> all;
  for (const HostTensor* tensor : {&o_, &grad_q_, &grad_k_, &grad_v_, &grad_bias_}) all.insert(all.end(), tensor->bytes().begin(), tensor->bytes().end());
  for (const std::vector<float>* values : {&lse_, &grad_sinks_}) {
    const unsigned char* const begin = reinterpret_cast<const unsigned char*>(values->data());
    all.insert(all.end(), begin, begin + values->size() * sizeof(float));
  }
  return all;
}

}  // namespace fa_test
