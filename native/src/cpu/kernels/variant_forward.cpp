// Forward pass of one query tile with mask and score variants: forward.cpp's algorithm, with what prepare_panel gives added to the scores.
#include "cpu/kernels/variant_forward.h"

#include <math.h>

#include "cpu/kernels/matmul.h"
#include "cpu/kernels/rows.h"
#include "cpu/kernels/variant_panel.h"

namespace fa::cpu::FA_CPU_TARGET {
namespace {

constexpr int kPanel = kBlockVecs * kLanes;

void begin_tile(const ForwardTile& t, const VariantTile& v) {
  const ForwardScratch& s = t.scratch;
  const int padded = round_up(t.num_queries, kPanel);
  for (int first = 0; first < padded; first += kPanel) {
    const int rows = min_int(kPanel, t.num_queries - first);
    float* const staging = s.k_tile;  // free until the first key tile is read
    read_rows(t.element, t.q, first, rows, t.head_dim, staging, t.ld_k);
    zero_rows(staging + static_cast<int64_t>(rows) * t.ld_k, kPanel - rows, t.ld_k);
    rows_to_panel(staging, t.ld_k, t.head_dim, kPanel, s.q_panels + static_cast<int64_t>(first) * t.ld_k);
  }
  zero_rows(s.o_panels, padded, t.ld_v);
  // A sink counts as a key that was seen before all others, with value 0. One of -infinity is none.
  for (int r = 0; r < padded; ++r) {
    s.row_max[r] = v.has_sink ? v.sink : -INFINITY;
    s.row_sum[r] = v.has_sink && !(v.sink == -INFINITY) ? 1.0f : 0.0f;
    v.scratch.seen[r] = 0.0f;
  }
}

/// The scores of a panel as softmax takes them, in place: scaled, capped, with what is added; -infinity where hidden. Their maximum over the keys.
void finish_scores(const ForwardTile& t, const VariantTile& v, PanelView view, int first_lane, Vec* largest) {
  const Vec scale = set1(t.scale), hidden = set1(-INFINITY), cap = set1(v.softcap), inverse_cap = set1(1.0f / v.softcap);
  for (int at = 0; at < kBlockVecs; ++at) {
    Vec largest_extra = view.extra ? hidden : zero();
    largest[at] = hidden;
    for (int r = view.begin; r < view.end; ++r) {
      float* const p = t.scratch.scores + r * kPanel + at * kLanes;
      Vec score = mul(load(p), scale);
      if (v.softcap > 0.0f) score = mul(cap, tanh_vec(mul(score, inverse_cap)));
      if (view.extra) {
        const Vec extra = load(v.scratch.extra + r * kPanel + at * kLanes);
        score = select_ge(hidden, extra, hidden, add(score, extra));
        largest_extra = max_keep_nan(extra, largest_extra);
      }
      store(p, score);
      largest[at] = max_keep_nan(score, largest[at]);
    }
    float* const seen = v.scratch.seen + first_lane + at * kLanes;
    store(seen, select_ge(hidden, largest_extra, load(seen), set1(1.0f)));
  }
}

/// Online softmax: from scores to probabilities relative to the largest score so far; `rescale` brings what was summed before to it.
void online_softmax(const ForwardTile& t, const VariantTile& v, PanelView view, int first_lane, float* rescale) {
  const Vec minus_infinity = set1(-INFINITY);
  Vec largest[kBlockVecs];
  finish_scores(t, v, view, first_lane, largest);
  for (int at = 0; at < kBlockVecs; ++at) {
    float* const row_max = t.scratch.row_max + first_lane + at * kLanes;
    float* const row_sum = t.scratch.row_sum + first_lane + at * kLanes;
    const Vec old_max = load(row_max);
    const Vec new_max = max_keep_nan(largest[at], old_max);
    store(row_max, new_max);
    // A row that has seen nothing but -infinity keeps shift 0, so that exp gives 0 and not exp(-inf + inf).
    const Vec shift = select_ge(minus_infinity, new_max, zero(), new_max);
    const Vec factor = exp_vec(sub(old_max, shift));
    store(rescale + at * kLanes, factor);
    Vec sum = mul(load(row_sum), factor);
    for (int r = view.begin; r < view.end; ++r) {
      float* const p = t.scratch.scores + r * kPanel + at * kLanes;
      const Vec probability = exp_vec(sub(load(p), shift));
      sum = add(sum, probability);
      store(p, v.has_dropout ? mul(probability, load(v.scratch.keep + r * kPanel + at * kLanes)) : probability);
    }
    store(row_sum, sum);
  }
}

/// o^T += V^T P^T without touching hidden pairs: for panels that have some while V holds an infinity or NaN.
void add_visible_values(const ForwardTile& t, const VariantTile& v, PanelView view, float* o_panel, const float* rescale) {
  const Vec hidden = set1(-INFINITY);
  for (int c = 0; c < t.head_dim_v; ++c) {
    for (int at = 0; at < kPanel; at += kLanes) {
      float* const o = o_panel + c * kPanel + at;
      Vec sum = mul(load(o), load(rescale + at));
      for (int r = view.begin; r < view.end; ++r) {
        const Vec added = fma(set1(t.scratch.v_tile[static_cast<int64_t>(r) * t.ld_v + c]), load(t.scratch.scores + r * kPanel + at), sum);
        sum = select_ge(hidden, load(v.scratch.extra + r * kPanel + at), sum, added);
      }
      store(o, sum);
    }
  }
}

void visit_key_tile(const ForwardTile& t, const VariantTile& v, KeyTile keys) {
  const ForwardScratch& s = t.scratch;
  if (!blocks_visible(v, keys, t.num_queries)) return;
  bool read = false, values_finite = true;
  float rescale[kPanel];
  for (int first_lane = 0; first_lane < t.num_queries; first_lane += kPanel) {
    const PanelView view = prepare_panel(v, keys, first_lane, min_int(kPanel, t.num_queries - first_lane), v.scratch.extra, kPanel);
    if (view.begin == view.end) continue;
    if (!read) {
      read_rows(t.element, t.k, keys.begin, keys.count, t.head_dim, s.k_tile, t.ld_k);
      read_rows(t.element, t.v, keys.begin, keys.count, t.head_dim_v, s.v_tile, t.ld_v);
      values_finite = all_finite(s.v_tile, keys.count, t.head_dim_v, t.ld_v);
      read = true;
    }
    if (v.has_dropout) prepare_keep(v, keys, first_lane, view);
    const int64_t first_k = static_cast<int64_t>(view.begin) * t.ld_k, first_v = static_cast<int64_t>(view.begin) * t.ld_v;
    float* const scores = s.scores + view.begin * kPanel;
    matmul<kBlockVecs, Start::kZero, ALayout::kRowMajor>(
        {s.k_tile + first_k, t.ld_k, s.q_panels + static_cast<int64_t>(first_lane) * t.ld_k, kPanel, scores, kPanel, t.head_dim, nullptr},
        view.end - view.begin);
    online_softmax(t, v, view, first_lane, rescale);
    float* const o_panel = s.o_panels + static_cast<int64_t>(first_lane) * t.ld_v;
    if (view.extra && !values_finite) {
      add_visible_values(t, v, view, o_panel, rescale);
    } else {
      matmul<kBlockVecs, Start::kScaledC, ALayout::kTransposed>({s.v_tile + first_v, t.ld_v, scores, kPanel, o_panel, kPanel, view.end - view.begin, rescale},
                                                                t.head_dim_v);
    }
  }
}

void write_panel(const ForwardTile& t, const VariantTile& v, int first_lane) {
  const ForwardScratch& s = t.scratch;
  const int lanes = min_int(kPanel, t.num_queries - first_lane);
  float* const panel = s.o_panels + static_cast<int64_t>(first_lane) * t.ld_v;
  float* const rows = s.v_tile;  // the key tiles are done
  for (int at = 0; at < kPanel; at += kLanes) {
    const Vec sum = load(s.row_sum + first_lane + at), seen = load(v.scratch.seen + first_lane + at);
    for (int c = 0; c < t.head_dim_v; ++c) {
      float* const o = panel + c * kPanel + at;
      store(o, select_ge(zero(), seen, zero(), div(load(o), sum)));
    }
  }
  panel_to_rows(panel, kPanel, t.head_dim_v, rows, t.ld_v);
  write_rows(t.element, {t.o.data + first_lane * t.o.stride_bytes, t.o.stride_bytes}, rows, t.ld_v, lanes, t.head_dim_v, 1.0f);
  if (t.lse == nullptr) return;
  for (int r = first_lane; r < first_lane + lanes; ++r) {
    t.lse[r] = static_cast<float>(static_cast<double>(s.row_max[r]) + log(static_cast<double>(s.row_sum[r])));
  }
}

}  // namespace

void variant_forward(const ForwardTile& t, const VariantTile& v) {
  begin_tile(t, v);
  const int64_t begin = visible_begin(v.range, v.first_position), end = visible_end(v.range, v.first_position + t.num_queries - 1);
  for (int64_t key = begin / t.tile_kv * t.tile_kv; begin < end && key < end; key += t.tile_kv) {
    visit_key_tile(t, v, {key, static_cast<int>(min_int64(t.tile_kv, t.len_kv - key))});
  }
  for (int first_lane = 0; first_lane < t.num_queries; first_lane += kPanel) write_panel(t, v, first_lane);
}

}  // namespace fa::cpu::FA_CPU_TARGET
