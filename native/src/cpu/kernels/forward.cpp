// Forward pass of one query tile (FlashAttention-2, algorithm 1), with queries in the vector lanes: scores are computed transposed, S^T = K Q^T, so that the
// row-wise maximum and sum of softmax are plain vector operations, K and V need no transposition, and P^T is at once the operand of o^T += V^T P^T.
#include "cpu/kernels/forward.h"

#include <math.h>

#include "cpu/kernels/matmul.h"
#include "cpu/kernels/rows.h"

namespace fa::cpu::FA_CPU_TARGET {
namespace {

constexpr int kPanel = kBlockVecs * kLanes;

/// The keys of the current tile as one panel of queries sees them.
struct PanelView {
  int keys;       ///< keys of the tile that some query of the panel sees
  int full_keys;  ///< of those, the ones that every query sees
  /// Lane l sees key r of the tile iff l >= r - diagonal.
  int64_t diagonal;
};

PanelView view_panel(const ForwardTile& t, int64_t key_begin, int key_count, int first_lane) {
  if (!t.causal) return {key_count, key_count, 0};
  const int lanes = min_int(kPanel, t.num_queries - first_lane);
  const int64_t first_end = t.visible_end + first_lane - key_begin;  // the first query of the panel sees keys [0, first_end) of the tile
  const int64_t keys = max_int64(0, min_int64(key_count, first_end + lanes - 1));
  return {static_cast<int>(keys), static_cast<int>(max_int64(0, min_int64(keys, first_end))), first_end - 1};
}

void pack_queries(const ForwardTile& t) {
  const ForwardScratch& s = t.scratch;
  float* const rows = s.k_tile;  // free until the first key tile is read
  for (int first = 0; first < t.num_queries; first += kPanel) {
    const int count = min_int(kPanel, t.num_queries - first);
    read_rows(t.element, t.q, first, count, t.head_dim, rows, t.ld_k);
    zero_rows(rows + static_cast<int64_t>(count) * t.ld_k, kPanel - count, t.ld_k);
    rows_to_panel(rows, t.ld_k, t.head_dim, kPanel, s.q_panels + static_cast<int64_t>(first) * t.ld_k);
  }
  for (int i = 0; i < round_up(t.num_queries, kPanel); ++i) {
    s.row_max[i] = -INFINITY;
    s.row_sum[i] = 0.0f;
  }
}

/// Scores to probabilities in place, running maximum and sum brought up to date; `rescale` gets the factor for what was summed before.
void online_softmax(const ForwardTile& t, const PanelView& view, int first_lane, float* rescale) {
  float* const scores = t.scratch.scores;
  const Vec scale = set1(t.scale), minus_infinity = set1(-INFINITY);
  Vec largest[kBlockVecs], minus_shift[kBlockVecs], sum[kBlockVecs];
  for (int v = 0; v < kBlockVecs; ++v) largest[v] = minus_infinity;
  for (int r = 0; r < view.full_keys; ++r)
    for (int v = 0; v < kBlockVecs; ++v) largest[v] = max_keep_nan(load(scores + r * kPanel + v * kLanes), largest[v]);
  for (int r = view.full_keys; r < view.keys; ++r) {
    const Vec first_seeing = set1(static_cast<float>(r - view.diagonal));
    for (int v = 0; v < kBlockVecs; ++v) {
      float* const p = scores + r * kPanel + v * kLanes;
      const Vec lane = add(lane_index(), set1(static_cast<float>(v * kLanes)));
      const Vec masked = select_ge(lane, first_seeing, load(p), minus_infinity);
      store(p, masked);
      largest[v] = max_keep_nan(masked, largest[v]);
    }
  }
  for (int v = 0; v < kBlockVecs; ++v) {
    float* const row_max = t.scratch.row_max + first_lane + v * kLanes;
    const Vec old_max = load(row_max);
    const Vec new_max = max_keep_nan(mul(largest[v], scale), old_max);
    store(row_max, new_max);
    // A row that has seen nothing but -infinity keeps shift 0, so that exp gives 0 and not exp(-inf + inf).
    const Vec shift = select_ge(minus_infinity, new_max, zero(), new_max);
    minus_shift[v] = sub(zero(), shift);
    const Vec factor = exp_vec(sub(old_max, shift));
    store(rescale + v * kLanes, factor);
    sum[v] = mul(load(t.scratch.row_sum + first_lane + v * kLanes), factor);
  }
  for (int r = 0; r < view.keys; ++r) {
    for (int v = 0; v < kBlockVecs; ++v) {
      float* const p = scores + r * kPanel + v * kLanes;
      const Vec probability = exp_vec(fma(load(p), scale, minus_shift[v]));
      store(p, probability);
      sum[v] = add(sum[v], probability);
    }
  }
  for (int v = 0; v < kBlockVecs; ++v) store(t.scratch.row_sum + first_lane + v * kLanes, sum[v]);
}

/// o^T += V^T P^T for a panel that the mask cuts while V holds an infinity or NaN: a masked pair must not add 0 * NaN.
void add_visible_values(const ForwardTile& t, const PanelView& view, bool first, float* o_panel, const float* rescale) {
  for (int c = 0; c < t.head_dim_v; ++c) {
    for (int v = 0; v < kBlockVecs; ++v) {
      const Vec lane = add(lane_index(), set1(static_cast<float>(v * kLanes)));
      float* const o = o_panel + c * kPanel + v * kLanes;
      Vec sum = first ? zero() : mul(load(o), load(rescale + v * kLanes));
      for (int r = 0; r < view.keys; ++r) {
        const Vec added = fma(set1(t.scratch.v_tile[static_cast<int64_t>(r) * t.ld_v + c]), load(t.scratch.scores + r * kPanel + v * kLanes), sum);
        sum = select_ge(lane, set1(static_cast<float>(r - view.diagonal)), added, sum);
      }
      store(o, sum);
    }
  }
}

void add_values(const ForwardTile& t, const PanelView& view, bool first, bool values_finite, int first_lane, const float* rescale) {
  float* const o_panel = t.scratch.o_panels + static_cast<int64_t>(first_lane) * t.ld_v;
  if (!values_finite && view.full_keys < view.keys) return add_visible_values(t, view, first, o_panel, rescale);
  const MatMul product{t.scratch.v_tile, t.ld_v, t.scratch.scores, kPanel, o_panel, kPanel, view.keys, rescale};
  if (first) {
    matmul<kBlockVecs, Start::kZero, ALayout::kTransposed>(product, t.head_dim_v);
  } else {
    matmul<kBlockVecs, Start::kScaledC, ALayout::kTransposed>(product, t.head_dim_v);
  }
}

void visit_key_tile(const ForwardTile& t, int64_t key_begin, int key_count) {
  const ForwardScratch& s = t.scratch;
  read_rows(t.element, t.k, key_begin, key_count, t.head_dim, s.k_tile, t.ld_k);
  read_rows(t.element, t.v, key_begin, key_count, t.head_dim_v, s.v_tile, t.ld_v);
  const bool cut_by_mask = t.causal && t.visible_end < key_begin + key_count;
  const bool values_finite = !cut_by_mask || all_finite(s.v_tile, key_count, t.head_dim_v, t.ld_v);
  float rescale[kPanel];
  for (int first_lane = 0; first_lane < t.num_queries; first_lane += kPanel) {
    const PanelView view = view_panel(t, key_begin, key_count, first_lane);
    if (view.keys == 0) continue;
    const float* q_panel = s.q_panels + static_cast<int64_t>(first_lane) * t.ld_k;
    matmul<kBlockVecs, Start::kZero, ALayout::kRowMajor>({s.k_tile, t.ld_k, q_panel, kPanel, s.scores, kPanel, t.head_dim, nullptr}, view.keys);
    online_softmax(t, view, first_lane, rescale);
    add_values(t, view, key_begin == 0, values_finite, first_lane, rescale);
  }
}

/// How many of the panel's queries see no key: the first ones, since query r of the tile sees none iff visible_end + r <= 0.
int empty_queries(const ForwardTile& t, int first_lane, int lanes) {
  if (t.len_kv == 0) return lanes;
  if (!t.causal) return 0;
  return static_cast<int>(max_int64(0, min_int64(lanes, 1 - t.visible_end - first_lane)));
}

void write_panel(const ForwardTile& t, int first_lane) {
  const ForwardScratch& s = t.scratch;
  const int lanes = min_int(kPanel, t.num_queries - first_lane);
  float* const panel = s.o_panels + static_cast<int64_t>(first_lane) * t.ld_v;
  const float* const sum = s.row_sum + first_lane;
  const int empty = empty_queries(t, first_lane, lanes);
  float* const rows = s.v_tile;  // the key tiles are done
  if (empty < lanes) {
    for (int c = 0; c < t.head_dim_v; ++c)
      for (int v = 0; v < kBlockVecs; ++v) {
        float* const o = panel + c * kPanel + v * kLanes;
        store(o, div(load(o), load(sum + v * kLanes)));
      }
    panel_to_rows(panel, kPanel, t.head_dim_v, rows, t.ld_v);
  }
  zero_rows(rows, empty, t.ld_v);
  write_rows(t.element, {t.o.data + first_lane * t.o.stride_bytes, t.o.stride_bytes}, rows, t.ld_v, lanes, t.head_dim_v, 1.0f);
  if (t.lse == nullptr) return;
  for (int r = 0; r < lanes; ++r) {
    const double lse = static_cast<double>(s.row_max[first_lane + r]) + log(static_cast<double>(sum[r]));
    t.lse[first_lane + r] = r < empty ? -INFINITY : static_cast<float>(lse);
  }
}

}  // namespace

void forward(const ForwardTile& t) {
  pack_queries(t);
  const int64_t keys = t.causal ? min_int64(t.len_kv, t.visible_end + t.num_queries - 1) : t.len_kv;
  for (int64_t key_begin = 0; key_begin < keys; key_begin += t.tile_kv) {
    visit_key_tile(t, key_begin, static_cast<int>(min_int64(t.tile_kv, keys - key_begin)));
  }
  for (int first_lane = 0; first_lane < t.num_queries; first_lane += kPanel) write_panel(t, first_lane);
}

}  // namespace fa::cpu::FA_CPU_TARGET
