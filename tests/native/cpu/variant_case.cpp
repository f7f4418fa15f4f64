#include "variant_case.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace fa_test {
namespace {

size_t count(const Sizes& sizes) {
  return static_cast<size_t>(sizes[0] * sizes[1] * sizes[2] * sizes[3]);
}

Sizes pair_sizes(const std::string& extents, int64_t batch, int64_t heads, int64_t rows, int64_t columns) {
  return {extents[0] == '1' ? 1 : batch, extents[1] == '1' ? 1 : heads, extents[2] == '1' ? 1 : rows, columns};
}

}  // namespace

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
            if (random() % 3 == 0 || c % 11 == 4) bias_.set(a, b, c, d, -std::numeric_limits<double>::infinity());
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
  set(&v_, m.len_kv - 2, m.len_kv, m.kv_begin, std::numeric_limits<double>::infinity());
  set(&q_, 4, m.len_q, m.q_begin, nan);
  set(&grad_o_, m.len_q - 3, m.len_q, m.q_begin, nan);
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
  options.dropout_seed = kDropoutSeed;
  options.dropout_offset = kDropoutOffset;
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
