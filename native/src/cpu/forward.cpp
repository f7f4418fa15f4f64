// Forward pass: one task per batch, head and query tile, taken by the threads from a shared counter. Tasks are independent and each is computed in one fixed
// order, so results depend neither on the number of threads nor on timing.
#include <algorithm>
#include <atomic>

#include "cpu/instruction_set.h"
#include "cpu/tensor_rows.h"
#include "cpu/thread_pool.h"
#include "cpu/variant_call.h"
#include "dispatch/dispatch.h"
#include "plan/cpu_layout.h"

namespace fa {
namespace {

using namespace cpu;

struct ForwardCall {
  const ForwardArgs& args;
  const KernelTable& kernels;
  CpuTiles tiles;
  CpuLayout layout;
  char* workspace;
  int64_t num_tasks;
  std::atomic<int64_t> next_task{0};
};

ForwardScratch scratch_of(const ForwardCall& call, int slot) {
  const int64_t tile_q = call.tiles.tile_q, tile_kv = call.tiles.tile_kv;
  ScratchCursor cursor(call.workspace + static_cast<uint64_t>(slot) * call.layout.scratch_bytes);
  ForwardScratch s;
  s.q_panels = cursor.take(tile_q * call.layout.ld_k);
  s.o_panels = cursor.take(tile_q * call.layout.ld_v);
  s.k_tile = cursor.take(tile_kv * call.layout.ld_k);
  s.v_tile = cursor.take(tile_kv * call.layout.ld_v);
  s.scores = cursor.take(tile_kv * kCpuPanelQueries);
  s.row_max = cursor.take(tile_q);
  s.row_sum = cursor.take(tile_q);
  return s;
}

void run_task(const ForwardCall& call, int64_t task, const ForwardScratch& scratch) {
  const ForwardArgs& args = call.args;
  const Problem& p = args.problem;
  // Tiles of one head follow each other, so that its keys and values stay in the shared cache; the longest causal tiles, the last ones, come first.
  const int64_t tile = call.layout.num_q_tiles - 1 - task % call.layout.num_q_tiles;
  const int64_t head = task / call.layout.num_q_tiles % p.heads_q, batch = task / call.layout.num_q_tiles / p.heads_q;
  const int64_t head_kv = head / p.group_size(), first_query = tile * call.tiles.tile_q;
  ForwardTile t;
  t.element = element_of(p.dtype);
  t.q = rows_of(args.q, p.dtype, batch, head, first_query);
  t.k = rows_of(args.k, p.dtype, batch, head_kv, 0);
  t.v = rows_of(args.v, p.dtype, batch, head_kv, 0);
  t.o = output_rows_of(args.o, p.dtype, batch, head, first_query);
  t.lse = args.lse == nullptr ? nullptr : args.lse + (batch * p.heads_q + head) * p.len_q + first_query;
  t.len_kv = p.len_kv;
  t.visible_end = visible_end_of(p, first_query);
  t.num_queries = static_cast<int>(std::min<int64_t>(call.tiles.tile_q, p.len_q - first_query));
  t.head_dim = static_cast<int>(p.head_dim);
  t.head_dim_v = static_cast<int>(p.head_dim_v);
  t.ld_k = call.layout.ld_k;
  t.ld_v = call.layout.ld_v;
  t.tile_kv = call.tiles.tile_kv;
  t.causal = p.is_causal();
  t.scale = p.scale;
  t.scratch = scratch;
  call.kernels.forward(t);
}

void work(void* context, int slot) {
  ForwardCall& call = *static_cast<ForwardCall*>(context);
  const ForwardScratch scratch = scratch_of(call, slot);
  while (true) {
    const int64_t task = call.next_task.fetch_add(1, std::memory_order_relaxed);
    if (task >= call.num_tasks) return;
    run_task(call, task, scratch);
  }
}

}  // namespace

void cpu_forward(const Plan& plan, const ForwardArgs& args) {
  if (variants_of(args.problem) != 0) return cpu_variant_forward(plan, args);
  const CpuTiles tiles{plan.tile_q, plan.tile_kv};
  const CpuLayout layout = cpu_layout(args.problem, tiles, plan.threads);
  const int64_t num_tasks = args.problem.batch * args.problem.heads_q * layout.num_q_tiles;
  if (num_tasks == 0) return;
  ForwardCall call{args, kernels(), tiles, layout, aligned_workspace(args.workspace), num_tasks};
  run_on_threads(plan.threads, work, &call);
}

}  // namespace fa
