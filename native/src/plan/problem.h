// A validated attention problem and the arguments of a call, as the planner and the kernels see them. src/api is the only place that builds them from C
// structs.
#pragma once

#include <cstdint>

#include "flash_attention/attention.h"
#include "plan/variants.h"

namespace fa {

enum class Pass { kForward, kBackward };
enum class Mask { kNone, kCausalTopLeft, kCausalBottomRight, kWindowTopLeft, kWindowBottomRight };

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
  /// Everything beyond scale and the causal masks.
  Variants variants;

  int64_t group_size() const { return heads_q / heads_kv; }
  /// Query i sees key j iff j <= i + causal_offset(); only meaningful if is_causal().
  bool is_causal() const { return mask == Mask::kCausalTopLeft || mask == Mask::kCausalBottomRight; }
  int64_t causal_offset() const { return mask == Mask::kCausalBottomRight ? len_kv - len_q : 0; }
  bool bottom_right() const { return mask == Mask::kCausalBottomRight || mask == Mask::kWindowBottomRight; }
  /// Lengths of the longest sequence: those of the tensors unless sequences are packed.
  int64_t max_len_q() const { return variants.sequences.packed ? variants.sequences.max_len_q : len_q; }
  int64_t max_len_kv() const { return variants.sequences.packed ? variants.sequences.max_len_kv : len_kv; }
  /// What the semantics call batch: the sequences.
  int64_t num_sequences() const { return variants.sequences.given ? variants.sequences.count : batch; }
  /// (Query, key) pairs of one query head of one sequence of the longest length that mask and chunk leave visible, as a double: it may exceed 2^63.
  double visible_pairs_per_head() const;
  /// Sequences of the longest length that the tensors hold: what costs are stated for, since the lengths themselves are not read.
  double full_sequences() const;
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
  VariantArgs variants;
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
  VariantArgs variants;
  PairTensor grad_bias;         ///< of variants.bias, with its extents and dtype; data null if not wanted
  float* grad_sinks = nullptr;  ///< (heads_q), may be null
};

/// fa_attention_dropout_mask.
struct DropoutMaskArgs {
  fa_device device;
  Dropout dropout;
  int64_t sizes[4] = {0, 0, 0, 0};  ///< (batch, heads_q, len_q, len_kv)
  PairTensor out;
  fa_stream stream = nullptr;
};

/// fa_attention_merge and its backward pass.
struct MergeArgs {
  fa_device device;
  int parts = 0;
  DType part_dtype = DType::kFloat32;
  DType dtype = DType::kFloat32;  ///< of o and grad_o
  int64_t batch = 0, len_q = 0, heads_q = 0, head_dim_v = 0;
  Tensor part_o[FA_MERGE_MAX_PARTS];
  const float* part_lse[FA_MERGE_MAX_PARTS] = {};  ///< (batch, heads_q, len_q) each
  Tensor o;
  float* lse = nullptr;
  // Of the backward pass.
  Tensor grad_o;
  const float* grad_lse = nullptr;  ///< may be null
  Tensor grad_part_o[FA_MERGE_MAX_PARTS];
  float* grad_part_lse[FA_MERGE_MAX_PARTS] = {};
  fa_stream stream = nullptr;
};

}  // namespace fa
