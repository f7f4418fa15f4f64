// What the Hopper kernel for the gradient of a shared bias is launched with.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "attention/pair_range.cuh"

namespace fa::sm90 {

struct SharedGradBiasParams {
  // Tensor maps with 128-byte swizzle: (head_dim, sequence, head, batch), boxes of 64 x 128; (key, query, head, batch), boxes of 64 x 64.
  CUtensorMap map_q;
  CUtensorMap map_k;
  CUtensorMap map_v;
  CUtensorMap map_grad_o;
  CUtensorMap map_bias;
  CUtensorMap map_grad_bias;
  /// Log-sum-exp in base 2, +inf for rows that see no key and for padding; and delta: of rows of the workspace, padded_rows per query head and batch entry, a
  /// multiple of 128.
  const float* shift;
  const float* delta;
  int64_t padded_rows;
  PairRange range;
  float scale_log2;  ///< scale * log2(e)
  int heads_q;
  int group_size;  ///< query heads per key head
  int bias_heads;  ///< extents of the bias
  int bias_batches;
  int shared_heads;  ///< query heads that one head of the bias serves: 1 or all
  int shared_batches;
  int row_tiles;  ///< of 128 queries
  int key_tiles;  ///< of 128 keys
  int num_tiles;  ///< of all heads and batches of the bias
};

}  // namespace fa::sm90
