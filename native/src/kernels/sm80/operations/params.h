// Arguments of the kernels beside attention: the dropout mask, and the merge of partial results.
#pragma once

#include <cstdint>

#include "plan/problem.h"

namespace fa::sm80 {

inline constexpr int kOperationThreads = 256;

struct DropoutMaskParams {
  uint8_t* out;  ///< (batch, heads, len_q, len_kv), strides in bytes, keys contiguous
  int64_t batch_stride, head_stride, row_stride;
  int64_t heads, len_q, len_kv;
  int64_t num_quads;   ///< of four keys: batch * heads * len_q * ceil(len_kv / 4)
  int64_t num_blocks;  ///< that share them
  uint64_t seed;
  uint32_t offset;
  uint32_t drop_below;  ///< a pair is dropped iff its random bits are below
  bool aligned;         ///< rows begin at multiples of 4 bytes
};

/// A (batch, sequence, heads, columns) tensor of any dtype, strides in elements.
struct MergeTensor {
  void* data;
  Strides strides;
};

struct MergeParams {
  MergeTensor part_o[FA_MERGE_MAX_PARTS];
  const float* part_lse[FA_MERGE_MAX_PARTS];  ///< (batch, heads, len_q)
  MergeTensor o;
  float* lse;
  // Backward.
  MergeTensor grad_o;
  const float* grad_lse;  ///< may be null
  MergeTensor grad_part_o[FA_MERGE_MAX_PARTS];
  float* grad_part_lse[FA_MERGE_MAX_PARTS];

  int parts;
  DType part_dtype, dtype;
  int64_t heads, len_q;
  int64_t columns;
  int64_t num_rows;  ///< batch * heads * len_q
  int64_t num_blocks;
  int lanes_per_row;  ///< a power of two up to 32
  bool aligned;       ///< rows of all tensors consist of whole pieces of 8 elements at multiples of 16 bytes
};

}  // namespace fa::sm80
