// Arguments of ModifiedScores (score_policy.cuh), as they travel in a kernel's parameter space.
#pragma once

#include <algorithm>
#include <cstdint>

#include "attention/pair_range.cuh"
#include "plan/problem.h"

namespace fa {

inline constexpr float kScoreLog2E = 1.4426950408889634f;

struct ScoreParams {
  PairRange range;
  int heads_q = 1;
  float scale_log2 = 1.0f;                  ///< scale * log2(e)
  float softcap_log2 = 0.0f;                ///< softcap * log2(e); 0: none
  float twice_inverse_softcap_log2 = 0.0f;  ///< 2 scale / softcap * log2(e)
  const float* alibi_slopes = nullptr;
  int64_t alibi_batch_stride = 0;
  const float* sinks = nullptr;
  PairTensor bias, visible, block_mask;
  bool bias_is_float = false;  ///< otherwise of the kernel's element type
  /// Whether neighbouring keys 2 j and 2 j + 1 lie in one word of twice the element's width (a bias of 16 bits, visible), and none is left over.
  bool bias_in_pairs = false, visible_in_pairs = false;
  bool bias_staged = false;             ///< tiles of the bias travel through shared memory (bias_tile.cuh); set at launch
  int pair_rows = 0, pair_columns = 0;  ///< extents of bias and visible where they are not broadcast
  FastDivisor by_block_q, by_block_kv;
  uint32_t drop_below = 0;  ///< a pair is dropped iff its random bits are below; 0: no dropout
  float keep_scale = 1.0f;
  uint64_t dropout_seed = 0;
  uint32_t dropout_offset = 0;

#if defined(__CUDACC__) || defined(FA_EMULATOR)
  /// Whether a pair within the range may be hidden all the same.
  __device__ __forceinline__ bool hides_pairs() const {
    return bias.data != nullptr || visible.data != nullptr || block_mask.data != nullptr;
  }
#endif
};

inline PairRange pair_range_of(const Problem& problem) {
  const Variants& v = problem.variants;
  PairRange range;
  range.len_q = static_cast<int>(problem.len_q);
  range.len_kv = static_cast<int>(problem.len_kv);
  range.bottom_right = problem.bottom_right();
  range.offset = range.bottom_right ? range.len_kv - range.len_q : 0;
  const auto reach = [](int64_t keys) { return keys < 0 ? PairRange::kUnlimited : static_cast<int>(std::min<int64_t>(keys, PairRange::kUnlimited)); };
  if (problem.is_causal()) {
    range.right = 0;
  } else if (problem.mask != Mask::kNone) {
    range.left = reach(v.window_left);
    range.right = reach(v.window_right);
  }
  if (v.chunk > 0) {
    range.chunk = static_cast<int>(std::min<int64_t>(v.chunk, int64_t{1} << 30));
    range.by_chunk = FastDivisor(range.chunk);
  }
  return range;
}

/// Whether every row of the tensor starts at a multiple of two elements, and has an even number of them.
inline bool lies_in_pairs(const PairTensor& tensor, int element_bytes, int64_t columns) {
  const bool even = (tensor.batch_stride | tensor.head_stride | tensor.row_stride | columns) % 2 == 0;
  return even && reinterpret_cast<uintptr_t>(tensor.data) % static_cast<uintptr_t>(2 * element_bytes) == 0;
}

/// Whether tiles of the bias can be copied in pieces of 16 bytes. One row for all queries is better loaded again and again.
inline bool can_stage_bias(const ScoreParams& params) {
  const PairTensor& bias = params.bias;
  if (bias.data == nullptr || params.bias_is_float || bias.row_stride == 0) return false;
  return (bias.batch_stride | bias.head_stride | bias.row_stride | params.pair_columns) % 8 == 0 && reinterpret_cast<uintptr_t>(bias.data) % 16 == 0;
}

inline ScoreParams score_params_of(const Problem& problem, const VariantArgs& args) {
  const Variants& v = problem.variants;
  ScoreParams params;
  params.range = pair_range_of(problem);
  params.heads_q = static_cast<int>(problem.heads_q);
  params.scale_log2 = problem.scale * kScoreLog2E;
  if (v.softcap > 0.0f) {
    params.softcap_log2 = v.softcap * kScoreLog2E;
    params.twice_inverse_softcap_log2 = 2.0f * problem.scale / v.softcap * kScoreLog2E;
  }
  params.alibi_slopes = v.alibi ? args.alibi_slopes : nullptr;
  params.alibi_batch_stride = args.alibi_batch_stride;
  params.sinks = v.sinks ? args.sinks : nullptr;
  params.pair_rows = static_cast<int>(problem.max_len_q());
  params.pair_columns = static_cast<int>(problem.max_len_kv());
  if (v.bias) {
    params.bias = args.bias;
    params.bias_in_pairs = v.bias_dtype != DType::kFloat32 && lies_in_pairs(args.bias, 2, problem.max_len_kv());
  }
  if (v.visible) {
    params.visible = args.visible;
    params.visible_in_pairs = lies_in_pairs(args.visible, 1, problem.max_len_kv());
  }
  if (v.block_mask) {
    params.block_mask = args.block_mask;
    params.by_block_q = FastDivisor(v.block_q);
    params.by_block_kv = FastDivisor(v.block_kv);
  }
  params.bias_is_float = v.bias_dtype == DType::kFloat32;
  if (v.dropout.probability > 0.0f) {
    params.drop_below = v.dropout.threshold();
    params.keep_scale = v.dropout.keep_scale();
    params.dropout_seed = v.dropout.seed;
    params.dropout_offset = v.dropout.offset;
  }
  return params;
}

}  // namespace fa
