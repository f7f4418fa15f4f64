// What the Hopper backward kernels with modified scores are launched with.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "attention/score_params.h"
#include "attention/sequence_schedule.h"
#include "attention/tile_order.h"
#include "attention/visible_tiles.h"
#include "plan/problem.h"

namespace fa::sm90 {

struct ModifiedBackwardParams {
  // Tensor maps over (head_dim, sequence, head, batch), 128-byte swizzle. Boxes: 64 x tile_q for q and grad_o, 64 x tile_kv for k and v, 64 x 64 for grad_k and
  // grad_v.
  CUtensorMap map_q;
  CUtensorMap map_k;
  CUtensorMap map_v;
  CUtensorMap map_grad_o;
  CUtensorMap map_grad_k;
  CUtensorMap map_grad_v;
  CUtensorMap map_statistics;  ///< shift and behind it delta: (padded_rows, 2 * num_heads), boxes of tile_q floats

  // Workspace: num_heads heads of padded_rows rows (plan/sm90_backward_modified.h).
  /// What a row's scores are shifted by, in base 2: p = exp2(score - shift). Its log-sum-exp plus what the policy takes out of every score of the row
  /// (shift_of in scores.cuh); +inf for rows that see no key and for padding.
  float* shift;
  float* delta;               ///< rowsum(grad_o * o) - grad_lse; 0 where shift is +inf
  float* grad_q_accumulator;  ///< fp32, without the factor scale; order: kGradQBlock of ../backward/params.h
  int* work_counter;          ///< key tiles handed out
  int* finish_counter;        ///< blocks of the accumulator handed out
  /// Per key head, counted through all batches, and group of 1 << count_shift key tiles: those whose additions are complete.
  int* tiles_added;
  int count_shift;
  int count_groups;  ///< per key head
  /// Per query head and query tile: not 0 once the first key tile that visits it has stored its part of grad_q. With lists of tiles kTileBegun, kTileStored or
  /// both.
  int* tiles_stored;
  int* repair_flags;  ///< kRepairSlices per key tile, for the repair pass
  int64_t padded_rows;
  int num_heads;

  ScoreParams scores;   ///< range: of a sequence of full length
  SequenceTable table;  ///< of key tiles; data null: every batch entry is a sequence of full length
  /// True: spare warps of the main kernel turn a head's accumulator into grad_q as soon as its key tiles are done. False: a pass of its own does.
  bool finish_inside;
  uint16_t* grad_q;  ///< (batch, len_q, heads_q, head_dim), strides in elements
  Strides grad_q_strides;

  // For tiles that end in the middle, with sequences.
  uint16_t* grad_k;  ///< (batch, len_kv, heads_kv, head_dim), strides in elements
  uint16_t* grad_v;  ///< (batch, len_kv, heads_kv, head_dim_v)
  Strides grad_k_strides, grad_v_strides;
  int head_dim;
  int head_dim_v;
  bool bottom_right;  ///< alignment of the mask, for sequences
  int zero;           ///< 0 (see the consumer's advance)
  int heads_kv;
  int group_size;  ///< query heads per key head
  float scale;
  TileOrder order;  ///< key tiles and key heads; with sequences num_tiles is read from the table

  // Of a bias: all-zero without.
  CUtensorMap map_bias;       ///< over (key, query, head, batch), 128-byte swizzle, boxes of 64 x tile_q
  CUtensorMap map_grad_bias;  ///< likewise
  bool writes_grad_bias;
  /// Batch entries that a block goes through one behind the other with each key tile, adding up the gradient of a bias that they share; `order` is then that
  /// of one entry's heads. Otherwise 1.
  int batch_inside;

  VisibleTiles visible;  ///< of key tiles, with a boolean or block mask and at least one query
  /// 1: the shift and delta of neighbouring rows change places, for policies that read them so (kSwapsRows in scores.cuh); else 0.
  int swaps_rows;
};

/// ModifiedBackwardParams::tiles_stored with lists: somebody has come to the tile first and will store its part of grad_q; it is stored, others may add theirs.
inline constexpr int kTileBegun = 1;
inline constexpr int kTileStored = 2;

/// The passes around the main kernel: shift, delta and cleared counters before, grad_q after.
struct ModifiedPassParams {
  const uint16_t* o;       ///< (batch, len_q, heads_q, head_dim_v), strides in elements
  const uint16_t* grad_o;  ///< like o
  uint16_t* grad_q;        ///< (batch, len_q, heads_q, head_dim)
  const float* lse;        ///< (batch, heads_q, len_q) contiguous
  const float* grad_lse;   ///< like lse, or null
  float* grad_sinks;       ///< (heads_q), or null
  Strides o_strides, grad_o_strides, grad_q_strides;
  int64_t num_rows;          ///< of the workspace: main.num_heads * main.padded_rows
  SequenceInputs sequences;  ///< count 0: none
  int len_q;                 ///< of the tensors
  int num_counters;          ///< from main.work_counter on; prepare clears them
  int head_dim;
  int head_dim_v;
  int tile_q;  ///< of the main kernel
  ModifiedBackwardParams main;
};

/// The pass that writes zeros into the gradient of a bias where no dS is computed.
struct GradBiasZerosParams {
  uint16_t* grad_bias;  ///< (batches, heads, len_q, len_kv), strides in elements, contiguous columns
  int64_t batch_stride, head_stride, row_stride;
  int batches;
  int heads;
  PairRange range;
  int tile_q;  ///< of the main kernel
  int tile_kv;
};

/// The pass that repairs gradients after NaN or infinity in masked pairs (repair.cu).
struct ModifiedRepairParams {
  const uint16_t* q;       ///< (batch, len_q, heads_q, head_dim), strides in elements
  const uint16_t* k;       ///< (batch, len_kv, heads_kv, head_dim)
  const uint16_t* v;       ///< (batch, len_kv, heads_kv, head_dim_v)
  const uint16_t* grad_o;  ///< (batch, len_q, heads_q, head_dim_v)
  uint16_t* grad_q;        ///< like q
  uint16_t* grad_k;        ///< like k
  uint16_t* grad_v;        ///< like v
  Strides q_strides, k_strides, v_strides, grad_o_strides, grad_q_strides, grad_k_strides, grad_v_strides;
  int head_dim;
  int head_dim_v;
  int tile_q;  ///< of the main kernel
  int tile_kv;
  ModifiedBackwardParams main;
};

}  // namespace fa::sm90
