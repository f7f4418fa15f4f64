// From a call to the tiles that the kernels take: rows, sizes and scratch memory, the same with and without variants.
#pragma once

#include <algorithm>

#include "cpu/instruction_set.h"
#include "cpu/kernels/kernels.h"
#include "cpu/tensor_rows.h"
#include "dispatch/dispatch.h"
#include "plan/cpu_layout.h"

namespace fa::cpu {

/// Where a query tile lies: batch entry and head of the tensors, positions along their sequences, keys of its sequence, queries from the tile's first on.
struct TilePlace {
  int64_t batch, head;
  int64_t row_q, row_kv;
  int64_t len_kv;
  int64_t queries_left;
};

/// The scratch memory of thread `slot`.
template <class Layout>
ScratchCursor scratch_cursor(char* workspace, const Layout& layout, int slot) {
  return ScratchCursor(workspace + static_cast<uint64_t>(slot) * layout.scratch_bytes);
}

template <class Layout>
ForwardScratch take_forward_scratch(ScratchCursor* cursor, const CpuTiles& tiles, const Layout& layout) {
  const int64_t tile_q = tiles.tile_q, tile_kv = tiles.tile_kv;
  ForwardScratch s;
  s.q_panels = cursor->take(tile_q * layout.ld_k);
  s.o_panels = cursor->take(tile_q * layout.ld_v);
  s.k_tile = cursor->take(tile_kv * layout.ld_k);
  s.v_tile = cursor->take(tile_kv * layout.ld_v);
  s.scores = cursor->take(tile_kv * kCpuPanelQueries);
  s.row_max = cursor->take(tile_q);
  s.row_sum = cursor->take(tile_q);
  return s;
}

template <class Layout>
BackwardScratch take_backward_scratch(ScratchCursor* cursor, const CpuTiles& tiles, const Layout& layout) {
  const int64_t tile_q = tiles.tile_q, tile_kv = tiles.tile_kv;
  BackwardScratch s;
  s.q_rows = cursor->take(tile_q * layout.ld_k);
  s.q_panels = cursor->take(tile_q * layout.ld_k);
  s.grad_q_panels = cursor->take(tile_q * layout.ld_k);
  s.grad_o_rows = cursor->take(tile_q * layout.ld_v);
  s.grad_o_panels = cursor->take(tile_q * layout.ld_v);
  s.k_tile = cursor->take(tile_kv * layout.ld_k);
  s.v_tile = cursor->take(tile_kv * layout.ld_v);
  s.p_tile = cursor->take(tile_kv * layout.ld_q);
  s.ds_tile = cursor->take(tile_kv * layout.ld_q);
  s.neg_lse = cursor->take(tile_q);
  s.delta = cursor->take(tile_q);
  return s;
}

/// What tiles of both passes have in common.
template <class Tile, class Args, class Layout>
void set_common(Tile* t, const Args& args, const CpuTiles& tiles, const Layout& layout, const TilePlace& at) {
  const Problem& p = args.problem;
  const int64_t head_kv = at.head / p.group_size();
  t->element = element_of(p.dtype);
  t->q = rows_of(args.q, p.dtype, at.batch, at.head, at.row_q);
  t->k = rows_of(args.k, p.dtype, at.batch, head_kv, at.row_kv);
  t->v = rows_of(args.v, p.dtype, at.batch, head_kv, at.row_kv);
  t->len_kv = at.len_kv;
  t->num_queries = static_cast<int>(std::min<int64_t>(tiles.tile_q, at.queries_left));
  t->head_dim = static_cast<int>(p.head_dim);
  t->head_dim_v = static_cast<int>(p.head_dim_v);
  t->ld_k = layout.ld_k;
  t->ld_v = layout.ld_v;
  t->scale = p.scale;
}

template <class Layout>
ForwardTile make_forward_tile(const ForwardArgs& args, const CpuTiles& tiles, const Layout& layout, const TilePlace& at, const ForwardScratch& scratch) {
  ForwardTile t{};
  set_common(&t, args, tiles, layout, at);
  t.o = output_rows_of(args.o, args.problem.dtype, at.batch, at.head, at.row_q);
  t.lse = args.lse == nullptr ? nullptr : args.lse + (at.batch * args.problem.heads_q + at.head) * args.problem.len_q + at.row_q;
  t.tile_kv = tiles.tile_kv;
  t.scratch = scratch;
  return t;
}

template <class Layout>
BackwardTile make_backward_tile(const BackwardArgs& args, const CpuTiles& tiles, const Layout& layout, const TilePlace& at, const BackwardScratch& scratch) {
  const Problem& p = args.problem;
  const int64_t lse_row = (at.batch * p.heads_q + at.head) * p.len_q + at.row_q;
  BackwardTile t{};
  set_common(&t, args, tiles, layout, at);
  t.o = rows_of(args.o, p.dtype, at.batch, at.head, at.row_q);
  t.grad_o = rows_of(args.grad_o, p.dtype, at.batch, at.head, at.row_q);
  t.grad_q = output_rows_of(args.grad_q, p.dtype, at.batch, at.head, at.row_q);
  t.lse = args.lse + lse_row;
  t.grad_lse = args.grad_lse == nullptr ? nullptr : args.grad_lse + lse_row;
  t.ld_q = layout.ld_q;
  t.scratch = scratch;
  t.queries_finite = true;
  return t;
}

/// Gradients of k and v of a key tile, from their fp32 sums; null sums are zeros.
template <class Layout>
void write_key_gradients(const BackwardArgs& args, const Layout& layout, int64_t batch, int64_t head_kv, int64_t row_kv, int num_keys, const float* grad_k,
                         const float* grad_v) {
  const Problem& p = args.problem;
  const Element element = element_of(p.dtype);
  const OutputRows out_k = output_rows_of(args.grad_k, p.dtype, batch, head_kv, row_kv), out_v = output_rows_of(args.grad_v, p.dtype, batch, head_kv, row_kv);
  kernels().write_rows(element, out_k, grad_k, layout.ld_k, num_keys, static_cast<int>(p.head_dim), p.scale);
  kernels().write_rows(element, out_v, grad_v, layout.ld_v, num_keys, static_cast<int>(p.head_dim_v), 1.0f);
}

}  // namespace fa::cpu
