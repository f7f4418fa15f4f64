// One attention problem run through the C ABI and compared with attention computed in double precision straight from its definition.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "host_tensor.h"

namespace fa_test {

struct CaseOptions {
  fa_dtype dtype = FA_DTYPE_FLOAT32;
  fa_mask mask = FA_MASK_NONE;
  int64_t batch = 1, heads_q = 1, heads_kv = 1, len_q = 1, len_kv = 1, head_dim = 8, head_dim_v = 8;
  Layout layout = Layout::kBshd;
  bool grad_lse = false;
  float scale = 0.0f;      ///< 0: the default
  double magnitude = 1.0;  ///< standard deviation of q and k
  uint64_t seed = 1;
  std::string name() const;
};

class AttentionCase {
 public:
  explicit AttentionCase(const CaseOptions& options);

  /// Runs both passes into poisoned outputs; false with a test failure if a call fails or writes outside its outputs.
  void run();
  /// Compares everything with the reference; reports the worst element of each tensor that is off.
  void compare();
  /// All output bytes, for bitwise comparisons.
  std::vector<unsigned char> output_bytes() const;

  HostTensor q, k, v, o, grad_o, grad_q, grad_k, grad_v;
  std::vector<float> lse, grad_lse;

 private:
  struct Expected;
  bool sees(int64_t query, int64_t key) const;
  double scale() const;
  void reference_row(Expected* expected, int64_t b, int64_t h, int64_t i) const;
  void compare_tensor(const char* what, const HostTensor& actual, const std::vector<double>& expected, const std::vector<double>& bound) const;

  CaseOptions options_;
};

}  // namespace fa_test
