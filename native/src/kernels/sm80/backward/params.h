// Arguments of the backward kernels, as they travel in their parameter space.
#pragma once

#include <cstdint>

#include "attention/score_params.h"
#include "attention/sequence_schedule.h"
#include "kernels/sm80/block_order.h"
#include "kernels/sm80/shape.h"

namespace fa::sm80 {

struct BackwardParams {
  const uint16_t* q;       ///< (batch, len_q, heads_q, head_dim), strides in elements
  const uint16_t* k;       ///< (batch, len_kv, heads_kv, head_dim)
  const uint16_t* v;       ///< (batch, len_kv, heads_kv, head_dim_v)
  const uint16_t* o;       ///< (batch, len_q, heads_q, head_dim_v)
  const uint16_t* grad_o;  ///< like o
  uint16_t* grad_q;        ///< like q
  uint16_t* grad_k;        ///< like k
  uint16_t* grad_v;        ///< like v
  const float* lse;        ///< (batch, heads_q, len_q) contiguous
  const float* grad_lse;   ///< like lse, or null
  Strides q_strides, k_strides, v_strides, o_strides, grad_o_strides, grad_q_strides, grad_k_strides, grad_v_strides;

  // The workspace; padded_rows per (batch, query head).
  float* lse_log2;            ///< log-sum-exp in base 2; +inf for rows that see no key and for padding: exp2(s - inf) = 0
  float* delta;               ///< rowsum(grad_o * o) - grad_lse; 0 where lse_log2 is +inf
  float* grad_q_accumulator;  ///< padded_rows * padded_dim floats per head, in the order of the main kernel's fragments; null if deterministic
  int64_t padded_rows;
  int padded_dim;

  Shape shape;
  int num_q_tiles;   ///< of the main kernel
  BlockOrder order;  ///< main kernel: key tiles and key heads; grad_q kernel: query tiles and query heads
  int64_t num_rows;  ///< prepare kernel: batch * heads_q * padded_rows
  // Finish kernel: how the main kernel's warps share a tile of grad_q.
  int tile_q, warps_dq_rows, warps_dq_cols;
};

/// Of the kernels compiled with ModifiedScores.
struct ModifiedBackwardParams : BackwardParams {
  ScoreParams scores;
  float* grad_sinks;  ///< (heads_q), or null
  int64_t batch;      ///< grad_sinks kernel: parts of padded_rows rows per head, of which sink_rows count
  int64_t sink_rows;
  /// Tiles of the kernel's own kind: of keys (main kernel), of queries (grad_q kernel). order is then over its places and heads, and padded_rows are those of
  /// all sequences together.
  SequenceTable sequences;
  /// Main kernel: the gradient of a 16-bit bias that has every pair of its own, under no mask and without softcap; data null if it is not for this kernel.
  PairTensor direct_grad_bias{};
};

/// Of prepare and finish with sequences of different lengths: a row of the workspace per row of the tiles of a table of queries.
struct SequencePassParams : BackwardParams {
  SequenceTable tiles;
  int tile_rows;
};

/// Of the grad_bias kernel. Block: tile of keys, then tile of rows, head and batch of the bias.
struct GradBiasParams : ModifiedBackwardParams {
  PairTensor grad_bias;
  bool is_float;  ///< otherwise of the kernels' element type
  int key_tiles, row_tiles;
  int rows, columns;                        ///< most queries and keys of a batch entry
  const SequenceTile* sequences_by_number;  ///< (batch), tile unused; null: all have full length
};

}  // namespace fa::sm80
