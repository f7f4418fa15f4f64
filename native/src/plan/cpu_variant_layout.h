// Workspace of the CPU backend for problems with mask and score variants, and the sequences that lie in it.
#pragma once

#include "plan/cpu_layout.h"
#include "plan/plan.h"

namespace fa {

/// One sequence of the batch: positions [begin, begin + len) of its tensors' batch entry, and its place around them.
struct CpuSequence {
  int64_t batch;  ///< of the tensors
  int64_t q_place, q_place_end, q_begin, len_q;
  int64_t kv_place, kv_place_end, kv_begin, len_kv;
  int64_t first_key_tile;  ///< key tiles of the sequences before it
};

/// Sequences in the order they are worked on.
struct CpuSequenceTasks {
  int64_t sequence;
  int64_t first_task;  ///< query tasks of the sequences before it in this order
};

/// [one scratch area per thread][sequences][their order][backward: fp32 sums of the gradients of k, of v][backward: turn counters], as in CpuLayout.
struct CpuVariantLayout {
  int ld_k = 0;     ///< row stride in floats of fp32 rows of q and k
  int ld_v = 0;     ///< of o and v
  int ld_q = 0;     ///< of transposed probability tiles: (tile_kv, tile_q)
  int ld_rows = 0;  ///< of rows of bias: (panel queries, tile_kv)
  uint64_t scratch_bytes = 0;
  uint64_t sequences_offset_bytes = 0;
  uint64_t order_offset_bytes = 0;   ///< (sequences + 1) CpuSequenceTasks, the last one holding the number of tasks
  uint64_t grad_k_offset_bytes = 0;  ///< (batch, heads_kv, len_kv, ld_k) fp32
  uint64_t grad_v_offset_bytes = 0;  ///< (batch, heads_kv, len_kv, ld_v) fp32
  uint64_t turns_offset_bytes = 0;   ///< (key tiles of all sequences, heads_kv) 64-bit counters
  uint64_t turns_bytes = 0;
  uint64_t total_bytes = 0;
};

CpuVariantLayout cpu_variant_layout(const Problem& problem, const CpuTiles& tiles, int threads);

/// The part of plan_cpu for problems with variants.
void plan_cpu_variants(const Problem& problem, const DeviceCaps& caps, Plan* plan);

}  // namespace fa
