// What the drivers of both passes share for problems with mask and score variants.
#pragma once

#include "cpu/instruction_set.h"
#include "cpu/kernels/variant_tile.h"
#include "cpu/tensor_rows.h"
#include "plan/cpu_variant_layout.h"

namespace fa {

void cpu_variant_forward(const Plan& plan, const ForwardArgs& args);
void cpu_variant_backward(const Plan& plan, const BackwardArgs& args);

namespace cpu {

/// Where a call finds its sequences.
struct Sequences {
  const CpuSequence* by_batch;
  const CpuSequenceTasks* order;
  int64_t count;
  int64_t num_tasks() const { return order[count].first_task; }
};

/// Reads the lengths into the workspace. A sequence's tasks: one per query tile and one of `heads` heads; the longest sequence comes first.
Sequences read_sequences(const Problem& problem, const VariantArgs& args, const CpuTiles& tiles, int64_t heads, void* sequences, void* order);

/// A task of one sequence: `local` counts within it.
struct SequenceTask {
  int64_t sequence;
  int64_t local;
};
SequenceTask find_task(const Sequences& sequences, int64_t task);

inline int64_t tiles_of(int64_t length, int tile) {
  return length / tile + (length % tile != 0);
}

/// Query and key of the sequence that a position of the tensors is.
inline int64_t position_offset(const Problem& problem, const CpuSequence& sequence) {
  return problem.bottom_right() ? sequence.len_kv - sequence.len_q : 0;
}

VisibleRange visible_range(const Problem& problem, const CpuSequence& sequence);

/// The variants of the query tile that starts at first_query of a sequence.
VariantTile make_variant_tile(const Problem& problem, const VariantArgs& args, const Sequences& sequences, int64_t sequence, int64_t head, int64_t first_query,
                              const VariantScratch& scratch);

/// Rows [begin, end) of one batch entry of the tensors.
struct Gap {
  int64_t batch, begin, end;
};
/// Calls gap(Gap) for the positions of q (or of k and v) that belong to no sequence: unused places around sequence `index`, or for index == count what packed
/// sequences leave at the end.
template <class Visit>
void for_gaps(const Problem& problem, const Sequences& sequences, int64_t index, bool of_q, const Visit& visit) {
  if (index == sequences.count) {
    if (!problem.variants.sequences.packed) return;
    const CpuSequence* const last = sequences.count == 0 ? nullptr : &sequences.by_batch[sequences.count - 1];
    const int64_t end = last == nullptr ? 0 : of_q ? last->q_place_end : last->kv_place_end;
    visit(Gap{0, end, of_q ? problem.len_q : problem.len_kv});
    return;
  }
  const CpuSequence& s = sequences.by_batch[index];
  if (of_q) {
    visit(Gap{s.batch, s.q_place, s.q_begin});
    visit(Gap{s.batch, s.q_begin + s.len_q, s.q_place_end});
  } else {
    visit(Gap{s.batch, s.kv_place, s.kv_begin});
    visit(Gap{s.batch, s.kv_begin + s.len_kv, s.kv_place_end});
  }
}

/// Writes zeros to the rows of a gap in every head.
void clear_gap(const Tensor& tensor, DType dtype, int64_t heads, int64_t width, const Gap& gap);

}  // namespace cpu
}  // namespace fa
