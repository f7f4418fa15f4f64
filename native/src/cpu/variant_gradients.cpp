// Gradients of the bias and of the sinks. Both are sums over much of the problem, taken in a fixed order by one thread each: the same in every run and for
// every number of threads.
#include <algorithm>
#include <cmath>
#include <limits>

#include "cpu/tasks.h"
#include "cpu/variant_backward_call.h"

namespace fa::cpu {
namespace {

struct SideCall {
  const BackwardArgs& args;
  const VariantBackwardCall& call;
};

/// Part of the bias that one task sums.
struct BiasTile {
  int64_t batch, head;  ///< of the bias
  int64_t first_row;    ///< query, or 0 where rows are broadcast
  int num_rows;
  int64_t first_column;
  int num_columns;
};

/// Adds what query tile first_query of a sequence and head gives. sums: (columns, ld_q) as ds_tile lies, or one value per column where rows are broadcast.
void add_bias_part(const SideCall& side, const VariantBackwardScratch& scratch, const BiasTile& bias, int64_t sequence, int64_t head, int64_t first_query) {
  const VariantBackwardCall& call = side.call;
  const CpuSequence& s = call.sequences.by_batch[sequence];
  if (first_query >= s.len_q || bias.first_column >= s.len_kv) return;
  BackwardTile t = make_backward_tile(call, sequence, head, first_query, scratch.tile);
  VariantTile v = make_variant_tile(side.args.problem, side.args.variants, call.sequences, sequence, head, first_query, scratch.variant);
  v.bias_only = true;
  const KeyTile keys{bias.first_column, static_cast<int>(std::min<int64_t>(bias.num_columns, s.len_kv - bias.first_column))};
  const int64_t last_position = v.first_position + t.num_queries - 1;
  if (visible_end(v.range, last_position) <= keys.begin || visible_begin(v.range, v.first_position) >= keys.begin + keys.count) return;
  kernels().backward_begin(&t);
  if (!kernels().variant_backward_scores(&t, &v, keys, false)) return;
  const int64_t ld_q = call.layout.ld_q;
  const bool broadcast_rows = side.args.grad_bias.rows == 1;
  for (int key = 0; key < keys.count; ++key) {
    const float* const ds = scratch.tile.ds_tile + key * ld_q;
    if (broadcast_rows) {
      double sum = 0;
      for (int query = 0; query < t.num_queries; ++query) sum += static_cast<double>(ds[query]);
      reinterpret_cast<double*>(scratch.bias_sums)[key] += sum;
    } else {
      float* const sums = scratch.bias_sums + key * ld_q;
      for (int query = 0; query < t.num_queries; ++query) sums[query] += ds[query];
    }
  }
}

void write_bias_gradient(const SideCall& side, const VariantBackwardScratch& scratch, const BiasTile& bias) {
  const PairTensor& out = side.args.grad_bias;
  const DType dtype = side.args.problem.variants.bias_dtype;
  const int64_t ld_q = side.call.layout.ld_q;
  float* const row = scratch.variant.lane_rows;
  for (int r = 0; r < bias.num_rows; ++r) {
    for (int c = 0; c < bias.num_columns; ++c) {
      row[c] = out.rows == 1 ? static_cast<float>(reinterpret_cast<const double*>(scratch.bias_sums)[c]) : scratch.bias_sums[c * ld_q + r];
    }
    const int64_t at = bias.batch * out.batch_stride + bias.head * out.head_stride + (bias.first_row + r) * out.row_stride + bias.first_column;
    kernels().write_rows(element_of(dtype), {static_cast<char*>(out.data) + at * dtype_bytes(dtype), 0}, row, 0, 1, bias.num_columns, 1.0f);
  }
}

void run_bias_task(const SideCall& side, int64_t task, const VariantBackwardScratch& scratch) {
  const VariantBackwardCall& call = side.call;
  const Problem& p = side.args.problem;
  const PairTensor& out = side.args.grad_bias;
  const int tile_q = call.tiles.tile_q, tile_kv = call.tiles.tile_kv;
  const int64_t row_tiles = tiles_of(out.rows, tile_q), column_tiles = tiles_of(p.max_len_kv(), tile_kv);
  BiasTile bias;
  bias.first_column = task % column_tiles * tile_kv;
  bias.num_columns = static_cast<int>(std::min<int64_t>(tile_kv, p.max_len_kv() - bias.first_column));
  bias.first_row = task / column_tiles % row_tiles * tile_q;
  bias.num_rows = static_cast<int>(std::min<int64_t>(tile_q, out.rows - bias.first_row));
  bias.head = task / column_tiles / row_tiles % out.heads;
  bias.batch = task / column_tiles / row_tiles / out.heads;
  std::fill(scratch.bias_sums, scratch.bias_sums + static_cast<int64_t>(tile_kv) * call.layout.ld_q, 0.0f);
  // Whatever is broadcast is summed over.
  const int64_t first_sequence = out.batches == 1 ? 0 : bias.batch, end_sequence = out.batches == 1 ? call.sequences.count : bias.batch + 1;
  const int64_t first_head = out.heads == 1 ? 0 : bias.head, end_head = out.heads == 1 ? p.heads_q : bias.head + 1;
  for (int64_t sequence = first_sequence; sequence < end_sequence; ++sequence) {
    const int64_t end_query = out.rows == 1 ? call.sequences.by_batch[sequence].len_q : bias.first_row + 1;
    for (int64_t head = first_head; head < end_head; ++head) {
      for (int64_t query = bias.first_row; query < end_query; query += tile_q) add_bias_part(side, scratch, bias, sequence, head, query);
    }
  }
  write_bias_gradient(side, scratch, bias);
}

/// grad_sink = -sum over queries of exp(sink - lse) (grad_o . o - grad_lse).
void run_sink_task(const SideCall& side, int64_t head) {
  const BackwardArgs& args = side.args;
  const Problem& p = args.problem;
  constexpr int kMaxHeadDim = 512;
  float o[kMaxHeadDim], grad_o[kMaxHeadDim];
  const Element element = element_of(p.dtype);
  const int width = static_cast<int>(p.head_dim_v);
  const double sink = static_cast<double>(args.variants.sinks[head]);
  double sum = 0;
  for (int64_t sequence = 0; sequence < side.call.sequences.count && sink != -std::numeric_limits<double>::infinity(); ++sequence) {
    const CpuSequence& s = side.call.sequences.by_batch[sequence];
    const Rows o_rows = rows_of(args.o, p.dtype, s.batch, head, s.q_begin), grad_rows = rows_of(args.grad_o, p.dtype, s.batch, head, s.q_begin);
    const int64_t first = (s.batch * p.heads_q + head) * p.len_q + s.q_begin;
    for (int64_t query = 0; query < s.len_q; ++query) {
      kernels().read_rows(element, o_rows, query, 1, width, o, 0);
      kernels().read_rows(element, grad_rows, query, 1, width, grad_o, 0);
      // A query that sees no key has o = 0 and the sink's lse, whatever its grad_o is.
      const bool empty = args.lse[first + query] == args.variants.sinks[head] && std::all_of(o, o + width, [](float value) { return value == 0.0f; });
      double delta = 0;
      for (int c = 0; c < width && !empty; ++c) delta += static_cast<double>(o[c]) * static_cast<double>(grad_o[c]);
      if (args.grad_lse != nullptr) delta -= static_cast<double>(args.grad_lse[first + query]);
      sum -= std::exp(sink - static_cast<double>(args.lse[first + query])) * delta;
    }
  }
  args.grad_sinks[head] = static_cast<float>(sum);
}

}  // namespace

void add_bias_gradients(const BackwardArgs& args, const Plan& plan, const VariantBackwardCall& call) {
  const PairTensor& out = args.grad_bias;
  const int64_t row_tiles = tiles_of(out.rows, call.tiles.tile_q), column_tiles = tiles_of(args.problem.max_len_kv(), call.tiles.tile_kv);
  const SideCall side{args, call};
  run_tasks(
      plan.threads, out.batches * out.heads * row_tiles * column_tiles, [&](int slot) { return scratch_of(call, slot); },
      [&](int64_t task, const VariantBackwardScratch& scratch) { run_bias_task(side, task, scratch); });
}

void add_sink_gradients(const BackwardArgs& args, const Plan& plan, const VariantBackwardCall& call) {
  const SideCall side{args, call};
  run_tasks(
      plan.threads, args.problem.heads_q, [](int) { return 0; }, [&](int64_t head, int) { run_sink_task(side, head); });
}

}  // namespace fa::cpu
