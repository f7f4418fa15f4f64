// Forward pass with mask and score variants: one task per sequence, head and query tile, then one per sequence that clears positions of no sequence. Tasks are
// independent, so results depend neither on the number of threads nor on timing.
#include <limits>

#include "cpu/tasks.h"
#include "cpu/tile_setup.h"
#include "cpu/variant_call.h"
#include "dispatch/dispatch.h"

namespace fa {
namespace {

using namespace cpu;

struct VariantForwardCall {
  const ForwardArgs& args;
  CpuTiles tiles;
  CpuVariantLayout layout;
  char* workspace;
  Sequences sequences;
};

struct Scratch {
  ForwardScratch tile;
  VariantScratch variant;
};

Scratch scratch_of(const VariantForwardCall& call, int slot) {
  const int64_t tile_kv = call.tiles.tile_kv;
  ScratchCursor cursor = scratch_cursor(call.workspace, call.layout, slot);
  Scratch s;
  s.tile = take_forward_scratch(&cursor, call.tiles, call.layout);
  s.variant.extra = cursor.take((tile_kv + 16) * kCpuPanelQueries);
  s.variant.lane_rows = cursor.take(int64_t{kCpuPanelQueries} * call.layout.ld_rows);
  s.variant.keep = cursor.take(tile_kv * kCpuPanelQueries);
  s.variant.ld_rows = call.layout.ld_rows;
  s.variant.seen = cursor.take(call.tiles.tile_q);
  return s;
}

void run_tile(const VariantForwardCall& call, int64_t task, const Scratch& scratch) {
  const ForwardArgs& args = call.args;
  const Problem& p = args.problem;
  const SequenceTask at = find_task(call.sequences, task);
  const CpuSequence& s = call.sequences.by_batch[at.sequence];
  const int64_t num_tiles = tiles_of(s.len_q, call.tiles.tile_q);
  // Tiles of one head follow each other, so that its keys and values stay in the shared cache; the longest causal tiles, the last ones, come first.
  const int64_t head = at.local / num_tiles, first_query = (num_tiles - 1 - at.local % num_tiles) * call.tiles.tile_q;
  const TilePlace place{s.batch, head, s.q_begin + first_query, s.kv_begin, s.len_kv, s.len_q - first_query};
  const ForwardTile t = make_forward_tile(args, call.tiles, call.layout, place, scratch.tile);
  kernels().variant_forward(t, make_variant_tile(p, args.variants, call.sequences, at.sequence, head, first_query, scratch.variant));
}

void clear(const VariantForwardCall& call, int64_t index) {
  const ForwardArgs& args = call.args;
  const Problem& p = args.problem;
  for_gaps(p, call.sequences, index, /*of_q=*/true, [&](const Gap& gap) {
    clear_gap(args.o, p.dtype, p.heads_q, p.head_dim_v, gap);
    for (int64_t head = 0; args.lse != nullptr && head < p.heads_q; ++head) {
      float* const lse = args.lse + (gap.batch * p.heads_q + head) * p.len_q;
      for (int64_t row = gap.begin; row < gap.end; ++row) lse[row] = -std::numeric_limits<float>::infinity();
    }
  });
}

}  // namespace

void cpu_variant_forward(const Plan& plan, const ForwardArgs& args) {
  const Problem& p = args.problem;
  const CpuTiles tiles{plan.tile_q, plan.tile_kv};
  const CpuVariantLayout layout = cpu_variant_layout(p, tiles, plan.threads);
  char* const workspace = aligned_workspace(args.workspace);
  const Sequences sequences =
      read_sequences(p, args.variants, tiles, p.heads_q, workspace + layout.sequences_offset_bytes, workspace + layout.order_offset_bytes);
  const int64_t clear_tasks = p.variants.sequences.given ? sequences.count + 1 : 0;
  const VariantForwardCall call{args, tiles, layout, workspace, sequences};
  run_tasks(
      plan.threads, sequences.num_tasks() + clear_tasks, [&](int slot) { return scratch_of(call, slot); },
      [&](int64_t task, const Scratch& scratch) {
        if (task < sequences.num_tasks()) {
          run_tile(call, task, scratch);
        } else {
          clear(call, task - sequences.num_tasks());
        }
      });
}

}  // namespace fa
