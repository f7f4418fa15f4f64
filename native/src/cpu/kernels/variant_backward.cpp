// Backward pass of one query tile with mask and score variants, by recomputation as in backward.cpp. With the score s = softcap(scale q.k) + extra and the
// factor f of dropout (0 or 1 / (1 - dropout)):
//   P = exp(s - lse),  dS = P (f dP - delta) = grad_bias,  dV += (f P)^T dO,  and through softcap's derivative  dX = dS (1 - tanh^2),  dQ += dX K,  dK += dX^T
//   Q
#include "cpu/kernels/variant_backward.h"

#include <math.h>

#include "cpu/kernels/matmul.h"
#include "cpu/kernels/rows.h"
#include "cpu/kernels/variant_panel.h"

namespace fa::cpu::FA_CPU_TARGET {
namespace {

constexpr int kPanel = kBlockVecs * kLanes;

int64_t tile_at(const BackwardTile& t, int row, int lane) {
  return static_cast<int64_t>(row) * t.ld_q + lane;
}

/// P (times dropout's factor) and dS of one panel from the products q.k and grad_o.v, in place; 0 where hidden and in rows that the panel does not see.
void probabilities_and_ds(const BackwardTile& t, const VariantTile& v, KeyTile keys, PanelView view, int first_lane) {
  const BackwardScratch& s = t.scratch;
  const Vec scale = set1(t.scale), hidden = set1(-INFINITY), cap = set1(v.softcap), inverse_cap = set1(1.0f / v.softcap), one = set1(1.0f);
  for (int at = 0; at < kPanel; at += kLanes) {
    const int lane = first_lane + at;
    const Vec neg_lse = load(s.neg_lse + lane), delta = load(s.delta + lane);
    for (int r = view.begin; r < view.end; ++r) {
      float* const p_at = s.p_tile + tile_at(t, r, lane);
      float* const ds_at = s.ds_tile + tile_at(t, r, lane);
      const Vec extra = view.extra ? load(v.scratch.extra + tile_at(t, r, lane)) : zero();
      const Vec keep = v.has_dropout ? load(v.scratch.keep + r * kPanel + at) : one;
      Vec score = mul(load(p_at), scale), derivative = one;
      if (v.softcap > 0.0f) {
        const Vec capped = tanh_vec(mul(score, inverse_cap));
        score = mul(cap, capped);
        derivative = fnma(capped, capped, one);
      }
      const Vec p = exp_vec(add(add(score, extra), neg_lse));
      Vec ds = mul(p, sub(mul(keep, load(ds_at)), delta));
      if (!v.bias_only) ds = mul(ds, derivative);
      store(p_at, select_ge(hidden, extra, zero(), mul(keep, p)));
      store(ds_at, select_ge(hidden, extra, zero(), ds));
    }
    for (int r = 0; r < keys.count; ++r) {
      if (r >= view.begin && r < view.end) continue;
      store(s.p_tile + tile_at(t, r, lane), zero());
      store(s.ds_tile + tile_at(t, r, lane), zero());
    }
  }
}

/// dQ^T += K^T dX^T of one panel without touching hidden pairs.
void add_visible_grad_q(const BackwardTile& t, const VariantTile& v, PanelView view, int first_lane, float* grad_q_panel) {
  const BackwardScratch& s = t.scratch;
  const Vec hidden = set1(-INFINITY);
  for (int c = 0; c < t.head_dim; ++c)
    for (int at = 0; at < kPanel; at += kLanes) {
      Vec sum = load(grad_q_panel + c * kPanel + at);
      for (int r = view.begin; r < view.end; ++r) {
        const Vec added = fma(set1(s.k_tile[static_cast<int64_t>(r) * t.ld_k + c]), load(s.ds_tile + tile_at(t, r, first_lane + at)), sum);
        sum = select_ge(hidden, load(v.scratch.extra + tile_at(t, r, first_lane + at)), sum, added);
      }
      store(grad_q_panel + c * kPanel + at, sum);
    }
}

void add_grad_q(const BackwardTile& t, const VariantTile& v, PanelView view, int first_lane) {
  const BackwardScratch& s = t.scratch;
  float* const panel = s.grad_q_panels + static_cast<int64_t>(first_lane) * t.ld_k;
  if (t.axpy) return add_visible_grad_q(t, v, view, first_lane, panel);
  const float* const k = s.k_tile + static_cast<int64_t>(view.begin) * t.ld_k;
  matmul<kBlockVecs, Start::kC, ALayout::kTransposed>(
      {k, t.ld_k, s.ds_tile + tile_at(t, view.begin, first_lane), t.ld_q, panel, kPanel, view.end - view.begin, nullptr}, t.head_dim);
}

/// Completes `extra` where pairs are looked at one by one: 0 for panels to whose scores nothing is added, -infinity in rows that a panel does not see.
void complete_extra(const BackwardTile& t, const VariantTile& v, KeyTile keys) {
  for (int first_lane = 0; first_lane < t.num_queries; first_lane += kPanel) {
    const PanelView view = v.panels[first_lane / kPanel];
    for (int r = 0; r < keys.count; ++r) {
      const bool inside = r >= view.begin && r < view.end;
      if (inside && view.extra) continue;
      for (int at = 0; at < kPanel; at += kLanes) store(v.scratch.extra + tile_at(t, r, first_lane + at), set1(inside ? 0.0f : -INFINITY));
    }
  }
}

/// Queries [begin, end) of the tile, by whole panels: those that see one of the rows [first_row, end_row) of the key tile.
struct QuerySpan {
  int begin;
  int end;
};

QuerySpan seeing_queries(const BackwardTile& t, const VariantTile& v, int first_row, int end_row) {
  QuerySpan span{t.num_queries, 0};
  for (int first_lane = 0; first_lane < t.num_queries; first_lane += kPanel) {
    const PanelView view = v.panels[first_lane / kPanel];
    if (view.begin >= end_row || view.end <= first_row) continue;
    span.begin = min_int(span.begin, first_lane);
    span.end = min_int(first_lane + kPanel, t.num_queries);
  }
  return span;
}

/// grad (keys x width) = start + X^T rows, where X^T (keys x queries) is p_tile or ds_tile.
template <Start kStart>
void add_key_gradient(const BackwardTile& t, const VariantTile& v, KeyTile keys, const float* x_tile, const float* rows, int ld, int width, float* grad) {
  for (int key = 0; key < keys.count; key += kBlockRows) {
    const int count = min_int(kBlockRows, keys.count - key);
    const QuerySpan span = seeing_queries(t, v, key, key + count);
    const int first = span.begin < span.end ? span.begin : 0, depth = span.begin < span.end ? span.end - span.begin : 0;
    for (int c = 0; c < width; c += kPanel) {
      const MatMul product{x_tile + tile_at(t, key, first),
                           t.ld_q,
                           rows + static_cast<int64_t>(first) * ld + c,
                           ld,
                           grad + static_cast<int64_t>(key) * ld + c,
                           ld,
                           depth,
                           nullptr};
      if (width - c > kLanes) {
        matmul<2, kStart, ALayout::kRowMajor>(product, count);
      } else {
        matmul<1, kStart, ALayout::kRowMajor>(product, count);
      }
    }
  }
}

/// The same without touching hidden pairs.
void add_visible_key_gradient(const BackwardTile& t, const VariantTile& v, KeyTile keys, const float* x_tile, const float* rows, int ld, int width,
                              float* grad) {
  for (int key = 0; key < keys.count; ++key) {
    float* const to = grad + static_cast<int64_t>(key) * ld;
    for (int q = 0; q < t.num_queries; ++q) {
      if (v.scratch.extra[tile_at(t, key, q)] == -INFINITY) continue;
      const Vec x = set1(x_tile[tile_at(t, key, q)]);
      const float* const from = rows + static_cast<int64_t>(q) * ld;
      for (int c = 0; c < width; c += kLanes) store(to + c, fma(x, load(from + c), load(to + c)));
    }
  }
}

/// Which keys the panels see, into variant->panels. False if none of them sees any.
bool prepare_panels(const BackwardTile& t, VariantTile* v, KeyTile keys, bool* some_hidden) {
  if (!blocks_visible(*v, keys, t.num_queries)) return false;
  bool visible = false;
  *some_hidden = false;
  for (int first_lane = 0; first_lane < t.num_queries; first_lane += kPanel) {
    const int lanes = min_int(kPanel, t.num_queries - first_lane);
    const PanelView view = prepare_panel(*v, keys, first_lane, lanes, v->scratch.extra + first_lane, t.ld_q);
    v->panels[first_lane / kPanel] = view;
    visible = visible || view.begin < view.end;
    *some_hidden = *some_hidden || view.extra || view.begin > 0 || view.end < keys.count;
  }
  return visible;
}

}  // namespace

bool variant_backward_scores(BackwardTile* tile, VariantTile* variant, KeyTile keys, bool first) {
  const BackwardTile& t = *tile;
  const VariantTile& v = *variant;
  const BackwardScratch& s = t.scratch;
  if (first && !v.bias_only) zero_rows(s.grad_q_panels, round_up(t.num_queries, kPanel), t.ld_k);
  bool some_hidden;
  if (!prepare_panels(t, variant, keys, &some_hidden)) return false;
  read_rows(t.element, t.k, keys.begin, keys.count, t.head_dim, s.k_tile, t.ld_k);
  read_rows(t.element, t.v, keys.begin, keys.count, t.head_dim_v, s.v_tile, t.ld_v);
  tile->axpy = some_hidden && !(t.queries_finite && all_finite(s.k_tile, keys.count, t.head_dim, t.ld_k));
  if (t.axpy) complete_extra(t, v, keys);
  for (int first_lane = 0; first_lane < t.num_queries; first_lane += kPanel) {
    const PanelView view = v.panels[first_lane / kPanel];
    const int count = view.end - view.begin;
    if (count > 0) {
      const float* const k = s.k_tile + static_cast<int64_t>(view.begin) * t.ld_k;
      const float* const values = s.v_tile + static_cast<int64_t>(view.begin) * t.ld_v;
      const float* const q_panel = s.q_panels + static_cast<int64_t>(first_lane) * t.ld_k;
      const float* const grad_panel = s.grad_o_panels + static_cast<int64_t>(first_lane) * t.ld_v;
      const int64_t at = tile_at(t, view.begin, first_lane);
      matmul<kBlockVecs, Start::kZero, ALayout::kRowMajor>({k, t.ld_k, q_panel, kPanel, s.p_tile + at, t.ld_q, t.head_dim, nullptr}, count);
      matmul<kBlockVecs, Start::kZero, ALayout::kRowMajor>({values, t.ld_v, grad_panel, kPanel, s.ds_tile + at, t.ld_q, t.head_dim_v, nullptr}, count);
      if (v.has_dropout) prepare_keep(v, keys, first_lane, view);
    }
    probabilities_and_ds(t, v, keys, view, first_lane);
    if (count > 0 && !v.bias_only) add_grad_q(t, v, view, first_lane);
  }
  return true;
}

void variant_backward_accumulate(const BackwardTile& t, const VariantTile& v, KeyTile keys, bool visited, bool first, float* grad_k, float* grad_v) {
  const BackwardScratch& s = t.scratch;
  if (first && (!visited || t.axpy)) {
    zero_rows(grad_k, keys.count, t.ld_k);
    zero_rows(grad_v, keys.count, t.ld_v);
  }
  if (!visited) return;
  if (t.axpy) {
    add_visible_key_gradient(t, v, keys, s.p_tile, s.grad_o_rows, t.ld_v, t.head_dim_v, grad_v);
    add_visible_key_gradient(t, v, keys, s.ds_tile, s.q_rows, t.ld_k, t.head_dim, grad_k);
  } else if (first) {
    add_key_gradient<Start::kZero>(t, v, keys, s.p_tile, s.grad_o_rows, t.ld_v, t.head_dim_v, grad_v);
    add_key_gradient<Start::kZero>(t, v, keys, s.ds_tile, s.q_rows, t.ld_k, t.head_dim, grad_k);
  } else {
    add_key_gradient<Start::kC>(t, v, keys, s.p_tile, s.grad_o_rows, t.ld_v, t.head_dim_v, grad_v);
    add_key_gradient<Start::kC>(t, v, keys, s.ds_tile, s.q_rows, t.ld_k, t.head_dim, grad_k);
  }
}

}  // namespace fa::cpu::FA_CPU_TARGET
