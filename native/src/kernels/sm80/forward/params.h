// Arguments of the forward kernel, as they travel in its parameter space.
#pragma once

#include <cstdint>

#include "attention/score_params.h"
#include "attention/sequence_schedule.h"
#include "kernels/sm80/block_order.h"
#include "kernels/sm80/shape.h"

namespace fa::sm80 {

struct ForwardParams {
  const uint16_t* q;  ///< (batch, len_q, heads_q, head_dim), strides in elements
  const uint16_t* k;  ///< (batch, len_kv, heads_kv, head_dim)
  const uint16_t* v;  ///< (batch, len_kv, heads_kv, head_dim_v)
  uint16_t* o;        ///< (batch, len_q, heads_q, head_dim_v)
  float* lse;         ///< (batch, heads_q, len_q) contiguous, or null
  Strides q_strides, k_strides, v_strides, o_strides;
  Shape shape;
  BlockOrder order;  ///< of query tiles and query heads
};

/// Of the kernels compiled with ModifiedScores.
struct ModifiedForwardParams : ForwardParams {
  ScoreParams scores;
  SequenceTable sequences;  ///< tiles of tile_q queries; order is then over its places and query heads
  bool long_tiles_last;     ///< of a sequence
};

}  // namespace fa::sm80
