// Backward pass with mask and score variants: the tasks and the turn protocol of backward.cpp, over sequences, with intervals of query tiles per key tile.
#include <algorithm>
#include <new>

#include "cpu/tasks.h"
#include "cpu/variant_backward_call.h"
#include "dispatch/dispatch.h"

namespace fa {
namespace cpu {

VariantBackwardScratch scratch_of(const VariantBackwardCall& call, int slot) {
  const int64_t tile_kv = call.tiles.tile_kv, ld_q = call.layout.ld_q;
  ScratchCursor cursor = scratch_cursor(call.workspace, call.layout, slot);
  VariantBackwardScratch s;
  s.tile = take_backward_scratch(&cursor, call.tiles, call.layout);
  s.variant.extra = cursor.take((tile_kv + 16) * ld_q);
  s.variant.lane_rows = cursor.take(int64_t{kCpuPanelQueries} * call.layout.ld_rows);
  s.variant.keep = cursor.take(tile_kv * kCpuPanelQueries);
  s.variant.seen = nullptr;
  s.variant.ld_rows = call.layout.ld_rows;
  s.bias_sums = call.args.problem.variants.grad_bias ? cursor.take(tile_kv * ld_q) : nullptr;
  return s;
}

BackwardTile make_backward_tile(const VariantBackwardCall& call, int64_t sequence, int64_t head, int64_t first_query, const BackwardScratch& scratch) {
  const CpuSequence& s = call.sequences.by_batch[sequence];
  return make_backward_tile(call.args, call.tiles, call.layout, {s.batch, head, s.q_begin + first_query, s.kv_begin, s.len_kv, s.len_q - first_query}, scratch);
}

namespace {

/// The sequence and key/value head whose gradients a task adds to.
struct Chain {
  int64_t sequence;
  int64_t head_kv;
};

struct TileSpan {
  int64_t begin;
  int64_t end;
};

/// Query tiles that see a key of [key, key_end): an interval, since what a query sees moves forward with its position.
TileSpan seeing_tiles(const VariantBackwardCall& call, int64_t sequence, int64_t key, int64_t key_end) {
  const Problem& p = call.args.problem;
  const CpuSequence& s = call.sequences.by_batch[sequence];
  const VisibleRange range = visible_range(p, s);
  const int64_t tile_q = call.tiles.tile_q, num_tiles = tiles_of(s.len_q, call.tiles.tile_q), offset = position_offset(p, s);
  const auto first_where = [&](const auto& holds) {
    int64_t low = 0, high = num_tiles;
    while (low < high) {
      const int64_t middle = low + (high - low) / 2;
      (holds(middle) ? high : low) = holds(middle) ? middle : middle + 1;
    }
    return low;
  };
  const int64_t begin = first_where([&](int64_t tile) { return visible_end(range, std::min(s.len_q, (tile + 1) * tile_q) - 1 + offset) > key; });
  const int64_t end = first_where([&](int64_t tile) { return visible_begin(range, tile * tile_q + offset) >= key_end; });
  return {begin, std::max(begin, end)};
}

float* sums_of(const VariantBackwardCall& call, uint64_t offset_bytes, int ld, Chain chain, int64_t key) {
  const Problem& p = call.args.problem;
  const CpuSequence& s = call.sequences.by_batch[chain.sequence];
  return reinterpret_cast<float*>(call.workspace + offset_bytes) + ((s.batch * p.heads_kv + chain.head_kv) * p.len_kv + s.kv_begin + key) * ld;
}

void write_gradients(const VariantBackwardCall& call, Chain chain, KeyTile keys, const float* grad_k, const float* grad_v) {
  const CpuSequence& s = call.sequences.by_batch[chain.sequence];
  write_key_gradients(call.args, call.layout, s.batch, chain.head_kv, s.kv_begin + keys.begin, keys.count, grad_k, grad_v);
}

/// One query tile. The tasks of a chain come in the order of their turns, so that a task only waits for tasks that are running already.
void run_query_tile(const VariantBackwardCall& call, int64_t task, const VariantBackwardScratch& scratch) {
  const Problem& p = call.args.problem;
  const SequenceTask at = find_task(call.sequences, task);
  const CpuSequence& s = call.sequences.by_batch[at.sequence];
  // Chains of one sequence alternate; within a chain, the query tiles of one head after the other.
  const int64_t num_tiles = tiles_of(s.len_q, call.tiles.tile_q), position = at.local / p.heads_kv;
  const Chain chain{at.sequence, at.local % p.heads_kv};
  const int64_t group_head = position / num_tiles, tile = position % num_tiles, first_query = tile * call.tiles.tile_q;
  const int64_t head = chain.head_kv * p.group_size() + group_head;

  BackwardTile t = make_backward_tile(call, at.sequence, head, first_query, scratch.tile);
  VariantTile v = make_variant_tile(p, call.args.variants, call.sequences, at.sequence, head, first_query, scratch.variant);
  const int64_t begin = visible_begin(v.range, v.first_position), end = visible_end(v.range, v.first_position + t.num_queries - 1);
  const bool empty = begin >= end;
  if (!empty) kernels().backward_begin(&t);
  Turn* const turns = reinterpret_cast<Turn*>(call.workspace + call.layout.turns_offset_bytes);
  bool first = true;
  for (int64_t key = begin / call.tiles.tile_kv * call.tiles.tile_kv; !empty && key < end; key += call.tiles.tile_kv) {
    const KeyTile keys{key, static_cast<int>(std::min<int64_t>(call.tiles.tile_kv, s.len_kv - key))};
    const bool visited = kernels().variant_backward_scores(&t, &v, keys, first);
    first = false;
    const TileSpan seeing = seeing_tiles(call, at.sequence, key, key + keys.count);
    const int64_t mine = group_head * (seeing.end - seeing.begin) + tile - seeing.begin, last = p.group_size() * (seeing.end - seeing.begin) - 1;
    Turn& turn = turns[(s.first_key_tile + key / call.tiles.tile_kv) * p.heads_kv + chain.head_kv];
    float* const grad_k = sums_of(call, call.layout.grad_k_offset_bytes, call.layout.ld_k, chain, key);
    float* const grad_v = sums_of(call, call.layout.grad_v_offset_bytes, call.layout.ld_v, chain, key);
    await_turn(turn, mine);
    kernels().variant_backward_accumulate(t, v, keys, visited, mine == 0, grad_k, grad_v);
    turn.store(mine + 1, std::memory_order_release);
    if (mine == last) write_gradients(call, chain, keys, grad_k, grad_v);
  }
  kernels().backward_end(t, empty);
}

/// Zeros for keys that no query tile of the sequence sees, and around the sequence.
void clear(const VariantBackwardCall& call, int64_t index) {
  const BackwardArgs& args = call.args;
  const Problem& p = args.problem;
  for (int64_t key = 0; index < call.sequences.count && key < call.sequences.by_batch[index].len_kv; key += call.tiles.tile_kv) {
    const KeyTile keys{key, static_cast<int>(std::min<int64_t>(call.tiles.tile_kv, call.sequences.by_batch[index].len_kv - key))};
    const TileSpan seeing = seeing_tiles(call, index, key, key + keys.count);
    for (int64_t head_kv = 0; seeing.begin == seeing.end && head_kv < p.heads_kv; ++head_kv) write_gradients(call, {index, head_kv}, keys, nullptr, nullptr);
  }
  for_gaps(p, call.sequences, index, /*of_q=*/true, [&](const Gap& gap) { clear_gap(args.grad_q, p.dtype, p.heads_q, p.head_dim, gap); });
  for_gaps(p, call.sequences, index, /*of_q=*/false, [&](const Gap& gap) {
    clear_gap(args.grad_k, p.dtype, p.heads_kv, p.head_dim, gap);
    clear_gap(args.grad_v, p.dtype, p.heads_kv, p.head_dim_v, gap);
  });
}

}  // namespace
}  // namespace cpu

void cpu_variant_backward(const Plan& plan, const BackwardArgs& args) {
  using namespace cpu;
  const Problem& p = args.problem;
  const CpuTiles tiles{plan.tile_q, plan.tile_kv};
  const CpuVariantLayout layout = cpu_variant_layout(p, tiles, plan.threads);
  char* const workspace = aligned_workspace(args.workspace);
  const Sequences sequences =
      read_sequences(p, args.variants, tiles, p.heads_q, workspace + layout.sequences_offset_bytes, workspace + layout.order_offset_bytes);
  Turn* const turns = reinterpret_cast<Turn*>(workspace + layout.turns_offset_bytes);
  for (uint64_t i = 0; i < layout.turns_bytes / sizeof(Turn); ++i) new (turns + i) Turn(0);
  const VariantBackwardCall call{args, tiles, layout, workspace, sequences};
  run_tasks(
      plan.threads, sequences.num_tasks() + sequences.count + 1, [&](int slot) { return scratch_of(call, slot); },
      [&](int64_t task, const VariantBackwardScratch& scratch) {
        if (task < sequences.num_tasks()) {
          run_query_tile(call, task, scratch);
        } else {
          clear(call, task - sequences.num_tasks());
        }
      });
  if (p.variants.grad_bias) add_bias_gradients(args, plan, call);
  if (p.variants.grad_sinks) add_sink_gradients(args, plan, call);
}

}  // namespace fa
