// Backward pass: one task per batch, head and query tile. A task owns its query tile's gradient of q and adds to the fp32 gradients of k and v of its key/value
// head, key tile by key tile. All tasks of a key/value head form a chain, and a turn counter per key tile makes them add in chain order: the sums are the same
// in every run and for every number of threads. Tasks of a chain run at the same time, one key tile behind each other. Tasks are handed out in chain order, so
// a task only ever waits for tasks that are running already.
#include <algorithm>
#include <atomic>
#include <new>

#include "cpu/instruction_set.h"
#include "cpu/tensor_rows.h"
#include "cpu/thread_pool.h"
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
  int64_t num_query_tasks;
  int64_t num_tasks;  ///< query tasks, then one task per key tile that clears what no query sees
  std::atomic<int64_t> next_task{0};
};

BackwardScratch scratch_of(const BackwardCall& call, int slot) {
  const int64_t tile_q = call.tiles.tile_q, tile_kv = call.tiles.tile_kv;
  const int64_t ld_k = call.layout.ld_k, ld_v = call.layout.ld_v, ld_q = call.layout.ld_q;
  ScratchCursor cursor(call.workspace + static_cast<uint64_t>(slot) * call.layout.scratch_bytes);
  BackwardScratch s;
  s.q_rows = cursor.take(tile_q * ld_k);
  s.q_panels = cursor.take(tile_q * ld_k);
  s.grad_q_panels = cursor.take(tile_q * ld_k);
  s.grad_o_rows = cursor.take(tile_q * ld_v);
  s.grad_o_panels = cursor.take(tile_q * ld_v);
  s.k_tile = cursor.take(tile_kv * ld_k);
  s.v_tile = cursor.take(tile_kv * ld_v);
  s.p_tile = cursor.take(tile_kv * ld_q);
  s.ds_tile = cursor.take(tile_kv * ld_q);
  s.neg_lse = cursor.take(tile_q);
  s.delta = cursor.take(tile_q);
  return s;
}

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

void write_key_gradients(const BackwardCall& call, int64_t chain, KeyTile keys, const float* grad_k, const float* grad_v) {
  const BackwardArgs& args = call.args;
  const Problem& p = args.problem;
  const int64_t batch = chain / p.heads_kv, head = chain % p.heads_kv;
  const Element element = element_of(p.dtype);
  const OutputRows out_k = output_rows_of(args.grad_k, p.dtype, batch, head, keys.begin), out_v = output_rows_of(args.grad_v, p.dtype, batch, head, keys.begin);
  call.kernels.write_rows(element, out_k, grad_k, call.layout.ld_k, keys.count, static_cast<int>(p.head_dim), p.scale);
  call.kernels.write_rows(element, out_v, grad_v, call.layout.ld_v, keys.count, static_cast<int>(p.head_dim_v), 1.0f);
}

BackwardTile make_tile(const BackwardCall& call, int64_t chain, int64_t position, const BackwardScratch& scratch) {
  const BackwardArgs& args = call.args;
  const Problem& p = args.problem;
  const int64_t batch = chain / p.heads_kv, head_kv = chain % p.heads_kv;
  const int64_t head = head_kv * p.group_size() + position / call.layout.num_q_tiles;
  const int64_t first_query = position % call.layout.num_q_tiles * call.tiles.tile_q;
  const int64_t first_row = (batch * p.heads_q + head) * p.len_q + first_query;
  BackwardTile t;
  t.element = element_of(p.dtype);
  t.q = rows_of(args.q, p.dtype, batch, head, first_query);
  t.k = rows_of(args.k, p.dtype, batch, head_kv, 0);
  t.v = rows_of(args.v, p.dtype, batch, head_kv, 0);
  t.o = rows_of(args.o, p.dtype, batch, head, first_query);
  t.grad_o = rows_of(args.grad_o, p.dtype, batch, head, first_query);
  t.grad_q = output_rows_of(args.grad_q, p.dtype, batch, head, first_query);
  t.lse = args.lse + first_row;
  t.grad_lse = args.grad_lse == nullptr ? nullptr : args.grad_lse + first_row;
  t.len_kv = p.len_kv;
  t.visible_end = visible_end_of(p, first_query);
  t.num_queries = static_cast<int>(std::min<int64_t>(call.tiles.tile_q, p.len_q - first_query));
  t.head_dim = static_cast<int>(p.head_dim);
  t.head_dim_v = static_cast<int>(p.head_dim_v);
  t.ld_k = call.layout.ld_k;
  t.ld_v = call.layout.ld_v;
  t.ld_q = call.layout.ld_q;
  t.causal = p.is_causal();
  t.scale = p.scale;
  t.scratch = scratch;
  t.queries_finite = true;
  t.axpy = false;
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
    if (mine == last) write_key_gradients(call, chain, keys, grad_k, grad_v);
  }
  call.kernels.backward_end(t, end <= 0);
}

void run_clear_task(const BackwardCall& call, int64_t task) {
  const int64_t chain = task / call.layout.num_kv_tiles, begin = task % call.layout.num_kv_tiles * call.tiles.tile_kv;
  if (first_query_tile(call, begin) < call.layout.num_q_tiles) return;
  const KeyTile keys{begin, static_cast<int>(std::min<int64_t>(call.tiles.tile_kv, call.args.problem.len_kv - begin))};
  write_key_gradients(call, chain, keys, nullptr, nullptr);
}

void work(void* context, int slot) {
  BackwardCall& call = *static_cast<BackwardCall*>(context);
  const BackwardScratch scratch = scratch_of(call, slot);
  while (true) {
    const int64_t task = call.next_task.fetch_add(1, std::memory_order_relaxed);
    if (task >= call.num_tasks) return;
    if (task < call.num_query_tasks) {
      run_query_task(call, task, scratch);
    } else {
      run_clear_task(call, task - call.num_query_tasks);
    }
  }
}

}  // namespace

void cpu_backward(const Plan& plan, const BackwardArgs& args) {
  if (variants_of(args.problem) != 0) return cpu_variant_backward(plan, args);
  const Problem& p = args.problem;
  const CpuTiles tiles{plan.tile_q, plan.tile_kv};
  const CpuLayout layout = cpu_layout(p, tiles, plan.threads);
  const int64_t num_chains = p.batch * p.heads_kv, chain_length = p.group_size() * layout.num_q_tiles;
  const int64_t num_query_tasks = num_chains * chain_length, num_tasks = num_query_tasks + num_chains * layout.num_kv_tiles;
  if (num_tasks == 0) return;
  BackwardCall call{args,
                    kernels(),
                    tiles,
                    layout,
                    aligned_workspace(args.workspace),
                    num_chains,
                    chain_length,
                    std::min<int64_t>(num_chains, 2 * plan.threads),
                    num_query_tasks,
                    num_tasks};
  Turn* const turns = reinterpret_cast<Turn*>(call.workspace + layout.turns_offset_bytes);
  for (uint64_t i = 0; i < layout.turns_bytes / sizeof(Turn); ++i) new (turns + i) Turn(0);
  run_on_threads(plan.threads, work, &call);
}

}  // namespace fa
