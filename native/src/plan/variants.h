// Mask and score variants of a problem: what planning needs to know (Variants), and where their data lies (VariantArgs).
#pragma once

#include <cstdint>

namespace fa {

enum class DType { kFloat32, kFloat16, kBFloat16 };

inline constexpr int dtype_bytes(DType dtype) {
  return dtype == DType::kFloat32 ? 4 : 2;
}

/// Counter-based dropout; see fa_attention_dropout_mask.
struct Dropout {
  float probability = 0.0f;
  uint64_t seed = 0;
  uint32_t offset = 0;

  /// A pair is dropped iff its 32 random bits are below this.
  uint32_t threshold() const { return static_cast<uint32_t>(static_cast<double>(probability) * 4294967296.0); }
  /// What kept probabilities are multiplied by.
  float keep_scale() const { return 1.0f / (1.0f - probability); }
};

/// Sequences of different lengths; see fa_sequences. All zero: every batch entry is a sequence of full length.
struct SequenceShape {
  bool given = false;
  bool packed = false;
  bool left_padded = false;
  int64_t count = 0;
  int64_t max_len_q = 0;   ///< packed only
  int64_t max_len_kv = 0;  ///< packed only
};

/// What a family of kernels has to compute beyond scale, causal masks and groups of heads. Default: nothing.
struct Variants {
  int64_t window_left = -1;   ///< of a window mask: keys before the query's position, -1 for all
  int64_t window_right = -1;  ///< keys after it
  int64_t chunk = 0;          ///< 0: none
  float softcap = 0.0f;       ///< 0: none
  Dropout dropout;            ///< probability 0: none
  bool alibi = false;
  bool sinks = false;
  bool bias = false;
  DType bias_dtype = DType::kFloat32;
  bool bias_in_tiles = false;  ///< of 16 bits, a row for every query, address and strides multiples of 16 bytes: TMA can bring it
  int64_t bias_batches = 1;    ///< extents of the bias: 1 where it broadcasts
  int64_t bias_heads = 1;
  bool grad_bias = false;
  bool grad_bias_in_tiles = false;  ///< like bias_in_tiles, and rows are whole pieces of 16 bytes
  bool grad_sinks = false;
  bool visible = false;
  bool block_mask = false;
  int block_q = 0;
  int block_kv = 0;
  /// Extents of batch and heads in which the boolean mask and the block mask together differ: 1 or the problem's.
  int mask_batches = 1;
  int mask_heads = 1;
  SequenceShape sequences;
};

/// A (batch, heads_q, rows, columns) tensor over pairs with contiguous columns. Strides in elements; 0 where it broadcasts.
struct PairTensor {
  void* data = nullptr;
  int64_t batch_stride = 0;
  int64_t head_stride = 0;
  int64_t row_stride = 0;
  /// Extents of what is broadcast (1) or not.
  int64_t batches = 1;
  int64_t heads = 1;
  int64_t rows = 1;
};

/// Addresses on the call's device; null for what is not set.
struct VariantArgs {
  const float* alibi_slopes = nullptr;
  int64_t alibi_batch_stride = 0;
  const float* sinks = nullptr;
  PairTensor bias;
  PairTensor visible;
  PairTensor block_mask;  ///< rows and columns are blocks
  const int32_t* cu_seqlens_q = nullptr;
  const int32_t* cu_seqlens_kv = nullptr;
  const int32_t* seqused_q = nullptr;
  const int32_t* seqused_kv = nullptr;
};

struct Problem;

/// Variants as bits, for what a family computes.
enum VariantBit : uint32_t {
  kVariantWindow = 1u << 0,
  kVariantChunk = 1u << 1,
  kVariantSoftcap = 1u << 2,
  kVariantAlibi = 1u << 3,
  kVariantBias = 1u << 4,
  kVariantGradBias = 1u << 5,
  kVariantVisible = 1u << 6,
  kVariantBlockMask = 1u << 7,
  kVariantSinks = 1u << 8,
  kVariantDropout = 1u << 9,
  kVariantSequences = 1u << 10,
};

/// The variants that a problem sets.
uint32_t variants_of(const Problem& problem);

/// Name of the first variant of the problem that is not among `computed` (a set of VariantBit), such as "a sliding window"; null if there is none.
const char* first_variant_beyond(const Problem& problem, uint32_t computed);

}  // namespace fa
