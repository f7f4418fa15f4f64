// Modifications of scores in the two forms of a case: tensors and parameters for the kernels, functions of a pair for the reference.
#include <cuda_fp16.h>

#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <random>

#include "attention_case.h"

namespace fa_test {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr uint64_t kSeed = 0x123456789abcdef0u;
constexpr uint32_t kOffset = 7;

std::mt19937 g_random(2);

int floor_div(int dividend, int divisor) {
  return dividend / divisor - (dividend % divisor < 0);
}

/// Philox4x32-10: the words of one counter.
std::array<uint32_t, 4> philox(std::array<uint32_t, 4> counter, uint64_t seed) {
  std::array<uint32_t, 2> key{static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)};
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53u} * counter[0], b = uint64_t{0xCD9E8D57u} * counter[2];
    counter = {static_cast<uint32_t>(b >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(b), static_cast<uint32_t>(a >> 32) ^ counter[3] ^ key[1],
               static_cast<uint32_t>(a)};
    key = {key[0] + 0x9E3779B9u, key[1] + 0xBB67AE85u};
  }
  return counter;
}

std::vector<float> random_values(int count) {
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = normal(g_random);
  return values;
}

std::vector<uint8_t> random_flags(int count) {
  std::vector<uint8_t> flags(static_cast<size_t>(count));
  for (uint8_t& flag : flags) flag = g_random() % 4 != 0;
  return flags;
}

/// (batches, heads, rows, columns), contiguous; an extent of 1 broadcasts.
fa::PairTensor pair_tensor(void* data, int batches, int heads, int rows, int columns) {
  fa::PairTensor tensor;
  tensor.data = data;
  tensor.batches = batches;
  tensor.heads = heads;
  tensor.rows = rows;
  tensor.row_stride = rows > 1 ? columns : 0;
  tensor.head_stride = heads > 1 ? static_cast<int64_t>(rows) * columns : 0;
  tensor.batch_stride = batches > 1 ? static_cast<int64_t>(heads) * rows * columns : 0;
  return tensor;
}

fa::PairTensor bias_tensor(void* data, const CaseOptions& o) {
  const bool all = o.bias == 1 || o.bias == 5;
  const bool per_batch = all || o.bias == 2, per_head = all || o.bias == 4, per_row = all || o.bias == 3;
  return pair_tensor(data, per_batch ? o.batch : 1, per_head ? o.heads_q : 1, per_row ? o.len_q : 1, o.len_kv);
}

bool is_float(int bias) {
  return bias == 1 || bias == 4;
}

size_t place(const fa::PairTensor& tensor, int b, int h, int row, int column) {
  return static_cast<size_t>(b * tensor.batch_stride + h * tensor.head_stride + row * tensor.row_stride + column);
}

}  // namespace

void AttentionCase::make_modifications() {
  const CaseOptions& o = options_;
  fa::Variants& v = problem_.variants;
  const int heads = o.batch * o.heads_q;
  v.window_left = o.window_left;
  v.window_right = o.window_right;
  v.chunk = o.chunk;
  v.softcap = o.softcap;
  v.alibi = o.alibi > 0;
  v.sinks = o.sinks;
  v.bias = o.bias > 0;
  v.bias_dtype = is_float(o.bias) ? fa::DType::kFloat32 : fa::DType::kFloat16;
  v.visible = o.visible > 0;
  v.block_mask = o.block_mask > 0;
  v.block_q = v.block_kv = o.block_mask;
  v.dropout = {o.dropout, kSeed, kOffset};
  slopes_ = random_values(heads);
  for (float& slope : slopes_) slope = std::fabs(slope) / 4;
  variant_args_.alibi_slopes = slopes_.data();
  variant_args_.alibi_batch_stride = o.alibi == 2 ? o.heads_q : 0;
  sinks_ = random_values(o.heads_q);
  variant_args_.sinks = sinks_.data();
  if (v.bias) {
    bias_ = random_values(heads * o.len_q * o.len_kv);
    for (float& bias : bias_) {
      if (g_random() % 8 == 0) bias = -kInfinity;
    }
    for (float& bias : bias_) bias16_.push_back(__float2half_rn(bias).bits);
    void* data = is_float(o.bias) ? static_cast<void*>(bias_.data()) : static_cast<void*>(bias16_.data());
    variant_args_.bias = bias_tensor(data, o);
  }
  if (v.visible) {
    visible_ = random_flags(heads * o.len_q * o.len_kv);
    variant_args_.visible = pair_tensor(visible_.data(), o.batch, o.visible == 2 ? 1 : o.heads_q, o.visible == 2 ? 1 : o.len_q, o.len_kv);
  }
  if (v.block_mask) {
    const int rows = (o.len_q + o.block_mask - 1) / o.block_mask, columns = (o.len_kv + o.block_mask - 1) / o.block_mask;
    block_mask_ = random_flags(heads * rows * columns);
    if (o.block_density > 0) {
      for (uint8_t& flag : block_mask_) flag = g_random() % static_cast<unsigned>(o.block_density) == 0;
    }
    variant_args_.block_mask = pair_tensor(block_mask_.data(), o.batch, o.heads_q, rows, columns);
  }
}

fa::ScoreParams AttentionCase::score_params() const {
  fa::ScoreParams params = fa::score_params_of(problem_, variant_args_);
  params.bias_staged = options_.stage_bias && fa::can_stage_bias(params);
  return params;
}

Modifications AttentionCase::reference_modifications() const {
  Modifications mods;
  const fa::Variants& v = problem_.variants;
  const auto offset_of = [this](int b) { return problem_.bottom_right() ? len_of(b, false) - len_of(b, true) : 0; };
  const bool window = options_.mask == fa::Mask::kWindowTopLeft || options_.mask == fa::Mask::kWindowBottomRight;
  const auto bias_at = [this](int b, int h, int i, int j) {
    const size_t at = place(variant_args_.bias, b, h, i, j);
    return is_float(options_.bias) ? bias_[at] : __half2float({bias16_[at]});
  };
  mods.sees = [=, this](int b, int h, int i, int j) {
    if (i >= len_of(b, true) || j >= len_of(b, false)) return false;
    const int position = i + offset_of(b);
    if (has_sequences() && problem_.is_causal() && j > position) return false;
    if (window && v.window_left >= 0 && j < position - v.window_left) return false;
    if (window && v.window_right >= 0 && j > position + v.window_right) return false;
    if (v.chunk > 0 && floor_div(position, static_cast<int>(v.chunk)) != j / v.chunk) return false;
    if (v.visible && visible_[place(variant_args_.visible, b, h, i, j)] == 0) return false;
    if (v.block_mask && block_mask_[place(variant_args_.block_mask, b, h, i / v.block_q, j / v.block_kv)] == 0) return false;
    return !v.bias || bias_at(b, h, i, j) != -kInfinity;
  };
  mods.addend = [=, this](int b, int h, int i, int j) {
    double sum = 0;
    if (v.bias) sum += static_cast<double>(bias_at(b, h, i, j));
    if (v.alibi) sum -= static_cast<double>(slopes_[static_cast<size_t>(b * variant_args_.alibi_batch_stride + h)]) * std::abs(i + offset_of(b) - j);
    return sum;
  };
  mods.softcap = static_cast<double>(v.softcap);
  if (v.sinks) mods.sinks.assign(sinks_.begin(), sinks_.end());
  if (v.dropout.probability > 0) {
    mods.keep = [=, this](int b, int h, int i, int j) {
      const auto words = philox({static_cast<uint32_t>(j / 4), static_cast<uint32_t>(i), static_cast<uint32_t>(b * options_.heads_q + h), kOffset}, kSeed);
      const double bound = std::floor(static_cast<double>(options_.dropout) * 4294967296.0);
      return words[static_cast<size_t>(j % 4)] < bound ? 0.0 : 1 / (1 - static_cast<double>(options_.dropout));
    };
  }
  return mods;
}

fa::sm80::GradBiasParams AttentionCase::grad_bias_params(const fa::sm80::ModifiedBackwardParams& main, const fa::sm80::GradBiasVariant& variant,
                                                         std::vector<uint32_t>* memory) const {
  fa::sm80::GradBiasParams params{main, variant_args_.bias, is_float(options_.bias), 0, 0, options_.len_q, options_.len_kv, nullptr};
  const int64_t rows = params.grad_bias.batches * params.grad_bias.heads * params.grad_bias.rows;
  memory->assign(static_cast<size_t>(rows * options_.len_kv), 0x7fffffff);
  params.grad_bias.data = memory->data();
  params.key_tiles = (options_.len_kv + variant.tile_kv - 1) / variant.tile_kv;
  params.row_tiles = static_cast<int>((params.grad_bias.rows + variant.tile_q - 1) / variant.tile_q);
  params.order.num_tiles = params.key_tiles * params.row_tiles;
  params.order.num_heads = static_cast<int>(params.grad_bias.batches * params.grad_bias.heads);
  return params;
}

std::vector<double> AttentionCase::expected_grad_bias() const {
  const fa::PairTensor& bias = variant_args_.bias;
  std::vector<double> sums(static_cast<size_t>(bias.batches * bias.heads * bias.rows * options_.len_kv));
  size_t pair = 0;
  for (int b = 0; b < options_.batch; ++b) {
    for (int h = 0; h < options_.heads_q; ++h) {
      for (int i = 0; i < options_.len_q; ++i) {
        for (int j = 0; j < options_.len_kv; ++j) sums[place(bias, b, h, i, j)] += expected_.grad_addend[pair++];
      }
    }
  }
  return sums;
}

std::vector<double> AttentionCase::grad_bias_values(const std::vector<uint32_t>& memory) const {
  std::vector<double> values;
  for (size_t i = 0; i < memory.size(); ++i) {
    const uint16_t half = static_cast<uint16_t>(memory[i / 2] >> (16 * (i % 2)));
    values.push_back(static_cast<double>(is_float(options_.bias) ? std::bit_cast<float>(memory[i]) : __half2float({half})));
  }
  return values;
}

}  // namespace fa_test
