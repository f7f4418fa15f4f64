// A validated attention problem and the arguments of a call, as the planner and the kernels see them. src/api is the only place that builds them from C
// structs.
#pragma once

#include <cstdint>

#include "flash_attention/attention.h"

namespace fa {

enum class Pass { kForward, kBackward };
enum class DType { kFloat32, kFloat16, kBFloat16 };
enum class Mask { kNone, kCausalTopLeft, kCausalBottomRight };

inline constexpr int dtype_bytes(DType dtype) {
  return dtype == DType::kFloat32 ? 4 : 2;
}
const char* dtype_name(DType dtype);
const char* mask_name(Mask mask);

/// Strides in elements of a (batch, sequence, heads, head_dim) view whose head_dim is contiguous. Strides of dimensions of size <= 1 are 0.
struct Strides {
  int64_t batch = 0;
  int64_t seq = 0;
  int64_t head = 0;
};

/// A view on the call's device. data is null when only shapes matter (planning).
struct Tensor {
  void* data = nullptr;
  Strides strides;
};

/// Shapes and options, validated: all sizes >= 0, heads and head dims >= 1, heads_q % heads_kv == 0, scale finite and > 0.
struct Problem {
  Pass pass = Pass::kForward;
  DType dtype = DType::kFloat16;
  Mask mask = Mask::kNone;
  int64_t batch = 0;
  int64_t len_q = 0;
  int64_t len_kv = 0;
  int64_t heads_q = 1;
  int64_t heads_kv = 1;
  int64_t head_dim = 1;
  int64_t head_dim_v = 1;
  float scale = 1.0f;
  bool deterministic = false;
  /// FA_KERNEL_AUTO, or the family the caller insists on.
  fa_kernel required_kernel = FA_KERNEL_AUTO;
  /// True if every tensor's address (where known) and strides are multiples of 16 bytes, so that rows can be moved in 16-byte pieces.
  bool aligned_16_bytes = false;

  int64_t group_size() const { return heads_q / heads_kv; }
  /// Query i sees key j iff j <= i + causal_offset(); only meaningful if is_causal().
  bool is_causal() const { return mask != Mask::kNone; }
  int64_t causal_offset() const { return mask == Mask::kCausalBottomRight ? len_kv - len_q : 0; }
  /// Visible (query, key) pairs of one head, as a double: it may exceed 2^63.
  double visible_pairs_per_head() const;
};

/// What the planner knows of a device. Passed in, so that plans for any device can be tested on any machine.
struct DeviceCaps {
  fa_device device{FA_DEVICE_CPU, 0};
  /// 10 * major + minor; 0 for the CPU.
  int compute_capability = 0;
  /// CPU: threads of the call.
  int multiprocessors = 1;
  int64_t shared_memory_per_block_bytes = 0;
  int64_t l2_bytes = 0;
};

struct ForwardArgs {
  Problem problem;
  fa_device device;
  Tensor q, k, v, o;
  float* lse = nullptr;  ///< (batch, heads_q, len_q), may be null
  void* workspace = nullptr;
  uint64_t workspace_bytes = 0;
  fa_stream stream = nullptr;
};

struct BackwardArgs {
  Problem problem;
  fa_device device;
  Tensor q, k, v, o, grad_o, grad_q, grad_k, grad_v;
  const float* lse = nullptr;       ///< (batch, heads_q, len_q)
  const float* grad_lse = nullptr;  ///< (batch, heads_q, len_q), may be null
  void* workspace = nullptr;
  uint64_t workspace_bytes = 0;
  fa_stream stream = nullptr;
};

}  // namespace fa
