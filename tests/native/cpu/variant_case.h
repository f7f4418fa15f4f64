// One attention problem with mask and score variants, run through the C ABI and compared with its definition, pair by pair in double precision.
#pragma once

#include <ostream>
#include <string>
#include <vector>

#include "host_tensor.h"

namespace fa_test {

inline constexpr uint64_t kDropoutSeed = 0x123456789abcdef0;
inline constexpr uint32_t kDropoutOffset = 77;

enum class Lengths { kNone, kPacked, kPackedUsed, kPackedLeft, kPadded, kPaddedLeft };

/// What is set; defaults set nothing.
struct VariantOptions {
  std::string name;
  fa_mask mask = FA_MASK_NONE;
  int64_t window_left = 0, window_right = 0, chunk = 0;
  float softcap = 0.0f, dropout = 0.0f;
  int alibi = 0;  ///< 1: per head, 2: per batch and head
  bool sinks = false;
  std::string bias;      ///< extents, "bhq" for all, "1" where it broadcasts, such as "1h1"; empty for none
  bool bias_f32 = true;  ///< else q's dtype
  bool bias_hides = false;
  std::string visible;  ///< as bias
  int block_q = 0, block_kv = 0;
  Lengths lengths = Lengths::kNone;
};

/// For test reports.
inline void PrintTo(const VariantOptions& options, std::ostream* out) {
  *out << options.name;
}

struct VariantShape {
  int64_t batch = 2, heads_q = 4, heads_kv = 2, len_q = 0, len_kv = 0, head_dim = 12, head_dim_v = 9;
};

class VariantCase {
 public:
  VariantCase(const VariantOptions& options, const VariantShape& shape, fa_dtype dtype, uint64_t seed);
  /// NaN and infinity in a few rows of every input.
  void poison();
  void run();
  void compare();
  /// Bytes of all outputs, for bitwise comparisons.
  std::vector<unsigned char> output_bytes() const;

 private:
  struct Sequence {
    int64_t batch, q_begin, len_q, kv_begin, len_kv;
  };
  struct Expected;
  void make_sequences();
  void make_tensors(uint64_t seed);
  bool sees(size_t sequence, int64_t head, int64_t i, int64_t j) const;
  double bias_at(size_t sequence, int64_t head, int64_t i, int64_t j) const;
  int64_t pair_index(const Sizes& sizes, size_t sequence, int64_t head, int64_t i, int64_t j) const;
  void reference_row(Expected* expected, size_t sequence, int64_t head, int64_t i) const;
  void compare_all(const Expected& expected) const;

  VariantOptions options_;
  VariantShape shape_;
  fa_dtype dtype_;
  fa_sequences sequences_{};
  std::vector<Sequence> members_;
  std::vector<int32_t> cu_q_, cu_kv_, used_q_, used_kv_;
  int64_t max_len_q_ = 0, max_len_kv_ = 0;
  HostTensor q_, k_, v_, o_, grad_o_, grad_q_, grad_k_, grad_v_, bias_, grad_bias_;
  std::vector<unsigned char> visible_, blocks_;
  Sizes visible_sizes_{}, block_sizes_{};
  std::vector<float> slopes_, sinks_, grad_sinks_, lse_, grad_lse_;
};

}  // namespace fa_test
