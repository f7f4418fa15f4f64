// Backward pass: one task per batch, head and query tile. A task owns its query tile's gradient of q and adds to the fp32 gradients of k and v of its key/value
// head, key tile by key tile. All tasks of a key/value head form a chain, and a turn counter per key tile makes them add in chain order: the sums are the same
// in every run and for every number of threads. Tasks of a chain run at the same time, one key tile behind each other. Tasks are handed out in chain order, so
// a task only ever waits for tasks that are running already.
#include <algorithm>
#include <new>

#include "cpu/instruction_set.h"
#include "cpu/tasks.h"
#include "cpu/tile_setup.h"
#include "cpu/turn.h"
#include "cpu/variant_call.h"
#include "dispatch/dispatch.h"
#include "plan/cpu_layout.h"

namespace fa {
namespace {

using namespace cpu;

struct BackwardCall {
  const BackwardArgs& args;
  const KernelTable& kernels;
  CpuTiles tiles;
  CpuLayout layout;
  char* workspace;
  int64_t num_chains;      ///< batch * heads_kv
  int64_t chain_length;    ///< query tiles of all query heads of the group
  int64_t chains_at_once;  ///< chains whose tasks alternate, so that neighbours in a chain rarely run at the same time
};

/// Keys [0, result) are seen by some query of query tile `tile`.
int64_t seen_keys(const BackwardCall& call, int64_t tile) {
  const Problem& p = call.args.problem;
  if (!p.is_causal()) return p.len_kv;
  const int64_t end_query = std::min(p.len_q, (tile + 1) * call.tiles.tile_q);
  return std::clamp<int64_t>(end_query + p.causal_offset(), 0, p.len_kv);
}

/// The first query tile that sees a key of the key tile; num_q_tiles if none does.
int64_t first_query_tile(const BackwardCall& call, int64_t key_begin) {
  const Problem& p = call.args.problem;
  if (!p.is_causal()) return 0;
  const int64_t first_query = std::max<int64_t>(0, key_begin - p.causal_offset());
  return first_query >= p.len_q ? call.layout.num_q_tiles : first_query / call.tiles.tile_q;
}

float* sums_of(const BackwardCall& call, uint64_t offset_bytes, int ld, int64_t chain, int64_t key) {
  return reinterpret_cast<float*>(call.workspace + offset_bytes) + (chain * call.args.problem.len_kv + key) * ld;
}

void write_gradients(const BackwardCall& call, int64_t chain, KeyTile keys, const float* grad_k, const float* grad_v) {
  const int64_t heads_kv = call.args.problem.heads_kv;
  write_key_gradients(call.args, call.layout, chain / heads_kv, chain % heads_kv, keys.begin, keys.count, grad_k, grad_v);
}

BackwardTile make_tile(const BackwardCall& call, int64_t chain, int64_t position, const BackwardScratch& scratch) {
  const Problem& p = call.args.problem;
  const int64_t head = chain % p.heads_kv * p.group_size() + position / call.layout.num_q_tiles;
  const int64_t first_query = position % call.layout.num_q_tiles * call.tiles.tile_q;
  const TilePlace place{chain / p.heads_kv, head, first_query, 0, p.len_kv, p.len_q - first_query};
  BackwardTile t = make_backward_tile(call.args, call.tiles, call.layout, place, scratch);
  t.visible_end = visible_end_of(p, first_query);
  t.causal = p.is_causal();
  return t;
}

void run_query_task(const BackwardCall& call, int64_t task, const BackwardScratch& scratch) {
  const Problem& p = call.args.problem;
  const int64_t round = task / (call.chains_at_once * call.chain_length), in_round = task % (call.chains_at_once * call.chain_length);
  const int64_t width = std::min(call.chains_at_once, call.num_chains - round * call.chains_at_once);
  const int64_t chain = round * call.chains_at_once + in_round % width, position = in_round / width;
  const int64_t num_q_tiles = call.layout.num_q_tiles, group_head = position / num_q_tiles, tile = position % num_q_tiles;
  const int64_t end = seen_keys(call, tile);

  BackwardTile t = make_tile(call, chain, position, scratch);
  if (end > 0) call.kernels.backward_begin(&t);
  Turn* const turns = reinterpret_cast<Turn*>(call.workspace + call.layout.turns_offset_bytes) + chain * call.layout.num_kv_tiles;
  for (int64_t begin = 0; begin < end; begin += call.tiles.tile_kv) {
    const KeyTile keys{begin, static_cast<int>(std::min<int64_t>(call.tiles.tile_kv, p.len_kv - begin))};
    call.kernels.backward_scores(&t, keys, begin == 0);
    // Under a causal mask the first query tiles of every head do not visit the later key tiles.
    const int64_t first_tile = first_query_tile(call, begin);
    const int64_t mine = group_head * (num_q_tiles - first_tile) + tile - first_tile, last = p.group_size() * (num_q_tiles - first_tile) - 1;
    Turn& turn = turns[begin / call.tiles.tile_kv];
    float* const grad_k = sums_of(call, call.layout.grad_k_offset_bytes, call.layout.ld_k, chain, begin);
    float* const grad_v = sums_of(call, call.layout.grad_v_offset_bytes, call.layout.ld_v, chain, begin);
    await_turn(turn, mine);
    call.kernels.backward_accumulate(t, keys, mine == 0, grad_k, grad_v);
    turn.store(mine + 1, std::memory_order_release);
    if (mine == last) write_gradients(call, chain, keys, grad_k, grad_v);
  }
  call.kernels.backward_end(t, end <= 0);
}

void run_clear_task(const BackwardCall& call, int64_t task) {
  const int64_t chain = task / call.layout.num_kv_tiles, begin = task % call.layout.num_kv_tiles * call.tiles.tile_kv;
  if (first_query_tile(call, begin) < call.layout.num_q_tiles) return;
  const KeyTile keys{begin, static_cast<int>(std::min<int64_t>(call.tiles.tile_kv, call.args.problem.len_kv - begin))};
  write_gradients(call, chain, keys, nullptr, nullptr);
}

}  // namespace

void cpu_backward(const Plan& plan, const BackwardArgs& args) {
  if (variants_of(args.problem) != 0) return cpu_variant_backward(plan, args);
  const Problem& p = args.problem;
  const CpuTiles tiles{plan.tile_q, plan.tile_kv};
  const CpuLayout layout = cpu_layout(p, tiles, plan.threads);
  const int64_t num_chains = p.batch * p.heads_kv, chain_length = p.group_size() * layout.num_q_tiles;
  // Query tasks, then one task per key tile that clears what no query sees.
  const int64_t num_query_tasks = num_chains * chain_length, num_tasks = num_query_tasks + num_chains * layout.num_kv_tiles;
  if (num_tasks == 0) return;
  const int64_t chains_at_once = std::min<int64_t>(num_chains, 2 * plan.threads);
  const BackwardCall call{args, kernels(), tiles, layout, aligned_workspace(args.workspace), num_chains, chain_length, chains_at_once};
  Turn* const turns = reinterpret_cast<Turn*>(call.workspace + layout.turns_offset_bytes);
  for (uint64_t i = 0; i < layout.turns_bytes / sizeof(Turn); ++i) new (turns + i) Turn(0);
  run_tasks(
      plan.threads, num_tasks,
      [&](int slot) {
        ScratchCursor cursor = scratch_cursor(call.workspace, layout, slot);
        return take_backward_scratch(&cursor, tiles, layout);
      },
      [&](int64_t task, const BackwardScratch& scratch) {
        if (task < num_query_tasks) {
          run_query_task(call, task, scratch);
        } else {
          run_clear_task(call, task - num_query_tasks);
        }
      });
}

}  // namespace fa
