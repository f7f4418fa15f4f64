// Forward pass with mask and score variants: one task per sequence, head and query tile, then one per sequence that clears positions of no sequence. Tasks are
// independent, so results depend neither on the number of threads nor on timing.
#include <algorithm>
#include <limits>

#include "cpu/thread_pool.h"
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
  int64_t num_tasks;
  std::atomic<int64_t> next_task{0};
};

struct Scratch {
  ForwardScratch tile;
  VariantScratch variant;
};

Scratch scratch_of(const VariantForwardCall& call, int slot) {
  const int64_t tile_q = call.tiles.tile_q, tile_kv = call.tiles.tile_kv;
  ScratchCursor cursor(call.workspace + static_cast<uint64_t>(slot) * call.layout.scratch_bytes);
  Scratch s;
  s.tile.q_panels = cursor.take(tile_q * call.layout.ld_k);
  s.tile.o_panels = cursor.take(tile_q * call.layout.ld_v);
  s.tile.k_tile = cursor.take(tile_kv * call.layout.ld_k);
  s.tile.v_tile = cursor.take(tile_kv * call.layout.ld_v);
  s.tile.scores = cursor.take(tile_kv * kCpuPanelQueries);
  s.variant.extra = cursor.take((tile_kv + 16) * kCpuPanelQueries);
  s.variant.lane_rows = cursor.take(int64_t{kCpuPanelQueries} * call.layout.ld_rows);
  s.variant.keep = cursor.take(tile_kv * kCpuPanelQueries);
  s.variant.ld_rows = call.layout.ld_rows;
  s.tile.row_max = cursor.take(tile_q);
  s.tile.row_sum = cursor.take(tile_q);
  s.variant.seen = cursor.take(tile_q);
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
  const int64_t head_kv = head / p.group_size(), row = s.q_begin + first_query;
  ForwardTile t{};
  t.element = element_of(p.dtype);
  t.q = rows_of(args.q, p.dtype, s.batch, head, row);
  t.k = rows_of(args.k, p.dtype, s.batch, head_kv, s.kv_begin);
  t.v = rows_of(args.v, p.dtype, s.batch, head_kv, s.kv_begin);
  t.o = output_rows_of(args.o, p.dtype, s.batch, head, row);
  t.lse = args.lse == nullptr ? nullptr : args.lse + (s.batch * p.heads_q + head) * p.len_q + row;
  t.len_kv = s.len_kv;
  t.num_queries = static_cast<int>(std::min<int64_t>(call.tiles.tile_q, s.len_q - first_query));
  t.head_dim = static_cast<int>(p.head_dim);
  t.head_dim_v = static_cast<int>(p.head_dim_v);
  t.ld_k = call.layout.ld_k;
  t.ld_v = call.layout.ld_v;
  t.tile_kv = call.tiles.tile_kv;
  t.scale = p.scale;
  t.scratch = scratch.tile;
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

void work(void* context, int slot) {
  VariantForwardCall& call = *static_cast<VariantForwardCall*>(context);
  const Scratch scratch = scratch_of(call, slot);
  while (true) {
    const int64_t task = call.next_task.fetch_add(1, std::memory_order_relaxed);
    if (task >= call.num_tasks) return;
    if (task < call.sequences.num_tasks()) {
      run_tile(call, task, scratch);
    } else {
      clear(call, task - call.sequences.num_tasks());
    }
  }
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
  VariantForwardCall call{args, tiles, layout, workspace, sequences, sequences.num_tasks() + clear_tasks};
  run_on_threads(plan.threads, work, &call);
}

}  // namespace fa
