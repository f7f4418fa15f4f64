// Forward pass: one task per batch, head and query tile, taken by the threads from a shared counter. Tasks are independent and each is computed in one fixed
// order, so results depend neither on the number of threads nor on timing.
#include "cpu/instruction_set.h"
#include "cpu/tasks.h"
#include "cpu/tile_setup.h"
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
};

void run_task(const ForwardCall& call, int64_t task, const ForwardScratch& scratch) {
  const ForwardArgs& args = call.args;
  const Problem& p = args.problem;
  // Tiles of one head follow each other, so that its keys and values stay in the shared cache; the longest causal tiles, the last ones, come first.
  const int64_t tile = call.layout.num_q_tiles - 1 - task % call.layout.num_q_tiles;
  const int64_t head = task / call.layout.num_q_tiles % p.heads_q, batch = task / call.layout.num_q_tiles / p.heads_q;
  const int64_t first_query = tile * call.tiles.tile_q;
  ForwardTile t = make_forward_tile(args, call.tiles, call.layout, {batch, head, first_query, 0, p.len_kv, p.len_q - first_query}, scratch);
  t.visible_end = visible_end_of(p, first_query);
  t.causal = p.is_causal();
  call.kernels.forward(t);
}

}  // namespace

void cpu_forward(const Plan& plan, const ForwardArgs& args) {
  if (variants_of(args.problem) != 0) return cpu_variant_forward(plan, args);
  const CpuTiles tiles{plan.tile_q, plan.tile_kv};
  const CpuLayout layout = cpu_layout(args.problem, tiles, plan.threads);
  const int64_t num_tasks = args.problem.batch * args.problem.heads_q * layout.num_q_tiles;
  if (num_tasks == 0) return;
  const ForwardCall call{args, kernels(), tiles, layout};
  char* const workspace = aligned_workspace(args.workspace);
  run_tasks(
      plan.threads, num_tasks,
      [&](int slot) {
        ScratchCursor cursor = scratch_cursor(workspace, layout, slot);
        return take_forward_scratch(&cursor, tiles, layout);
      },
      [&](int64_t task, const ForwardScratch& scratch) { run_task(call, task, scratch); });
}

}  // namespace fa
