// What the parts of the backward pass with variants share: gradients of q, k, v (variant_backward.cpp) and those of bias and sinks (variant_gradients.cpp).
#pragma once

#include "cpu/tile_setup.h"
#include "cpu/turn.h"
#include "cpu/variant_call.h"

namespace fa::cpu {

struct VariantBackwardCall {
  const BackwardArgs& args;
  CpuTiles tiles;
  CpuVariantLayout layout;
  char* workspace;
  Sequences sequences;
};

struct VariantBackwardScratch {
  BackwardScratch tile;
  VariantScratch variant;
  float* bias_sums;  ///< (tile_kv, ld_q), if the gradient of the bias is wanted
};

VariantBackwardScratch scratch_of(const VariantBackwardCall& call, int slot);

/// The tile of queries [first_query, first_query + num_queries) of a sequence and query head.
BackwardTile make_backward_tile(const VariantBackwardCall& call, int64_t sequence, int64_t head, int64_t first_query, const BackwardScratch& scratch);

/// Gradient of the bias, in a pass of its own: each tile of it is summed by one thread in a fixed order, whatever is broadcast.
void add_bias_gradients(const BackwardArgs& args, const Plan& plan, const VariantBackwardCall& call);
/// Gradient of the sinks: one task per head.
void add_sink_gradients(const BackwardArgs& args, const Plan& plan, const VariantBackwardCall& call);

}  // namespace fa::cpu
