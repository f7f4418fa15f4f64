// Backward pass of one query tile by recomputation (FlashAttention-2, algorithm 2, with the loops exchanged: the outer loop is over query tiles, so that a key
// tile only has to be widened to fp32, and what needs a transposition, q and grad_o, is transposed once). Scores are computed transposed as in the forward
// pass:
//   S^T = K Q^T,  dP^T = V dO^T,  P = exp(scale S - lse),  dS = P (dP - delta),  dQ^T += K^T dS^T,  dV += P^T dO,  dK += dS^T Q   (dQ, dK still without scale)
#include "cpu/kernels/backward.h"

#include <math.h>

#include "cpu/kernels/matmul.h"
#include "cpu/kernels/rows.h"

namespace fa::cpu::FA_CPU_TARGET {
namespace {

constexpr int kPanel = kBlockVecs * kLanes;

/// The keys of the tile that query `lane` of the query tile sees: [0, result), at most keys.count.
int visible_keys(const BackwardTile& t, KeyTile keys, int lane) {
  if (!t.causal) return keys.count;
  return static_cast<int>(max_int64(0, min_int64(keys.count, t.visible_end + lane - keys.begin)));
}

/// The first query of the tile that sees key `key` of the key tile; num_queries or more if none does.
int first_seeing_query(const BackwardTile& t, KeyTile keys, int key) {
  if (!t.causal) return 0;
  return static_cast<int>(max_int64(0, min_int64(t.num_queries, keys.begin + key + 1 - t.visible_end)));
}

void read_query_side(BackwardTile* tile) {
  const BackwardTile& t = *tile;
  const BackwardScratch& s = t.scratch;
  const int padded = round_up(t.num_queries, kPanel);
  read_rows(t.element, t.q, 0, t.num_queries, t.head_dim, s.q_rows, t.ld_k);
  read_rows(t.element, t.grad_o, 0, t.num_queries, t.head_dim_v, s.grad_o_rows, t.ld_v);
  zero_rows(s.q_rows + static_cast<int64_t>(t.num_queries) * t.ld_k, padded - t.num_queries, t.ld_k);
  zero_rows(s.grad_o_rows + static_cast<int64_t>(t.num_queries) * t.ld_v, padded - t.num_queries, t.ld_v);
  for (int first = 0; first < padded; first += kPanel) {
    const int64_t at_k = static_cast<int64_t>(first) * t.ld_k, at_v = static_cast<int64_t>(first) * t.ld_v;
    rows_to_panel(s.q_rows + at_k, t.ld_k, t.head_dim, kPanel, s.q_panels + at_k);
    rows_to_panel(s.grad_o_rows + at_v, t.ld_v, t.head_dim_v, kPanel, s.grad_o_panels + at_v);
  }
  tile->queries_finite = all_finite(s.q_rows, t.num_queries, t.head_dim, t.ld_k) && all_finite(s.grad_o_rows, t.num_queries, t.head_dim_v, t.ld_v);
}

/// delta = sum(grad_o * o) - grad_lse, so that dS = P (dP - delta) has both the softmax's and the lse's part. Padding gets probability 0.
void compute_row_terms(const BackwardTile& t) {
  const BackwardScratch& s = t.scratch;
  for (int r = 0; r < t.num_queries; ++r) {
    float* const o_row = s.v_tile;  // free until the first key tile is read
    read_rows(t.element, t.o, r, 1, t.head_dim_v, o_row, t.ld_v);
    const float* const grad_row = s.grad_o_rows + static_cast<int64_t>(r) * t.ld_v;
    Vec sum = zero();
    for (int c = 0; c < t.head_dim_v; c += kLanes) sum = fma(load(o_row + c), load(grad_row + c), sum);
    float lanes[kLanes];
    store(lanes, sum);
    float delta = 0.0f;
    for (int i = 0; i < kLanes; ++i) delta += lanes[i];
    s.delta[r] = t.grad_lse == nullptr ? delta : delta - t.grad_lse[r];
    s.neg_lse[r] = -t.lse[r];
  }
  for (int r = t.num_queries; r < round_up(t.num_queries, kPanel); ++r) {
    s.delta[r] = 0.0f;
    s.neg_lse[r] = -INFINITY;
  }
}

/// P and dS of one panel from S and dP, in place; rows of the tile that no query of the panel sees become 0.
void probabilities_and_ds(const BackwardTile& t, KeyTile keys, int first_lane, int seen_keys) {
  const BackwardScratch& s = t.scratch;
  const Vec scale = set1(t.scale);
  const int full_keys = min_int(seen_keys, visible_keys(t, keys, first_lane));
  // Lane l sees key r of the tile iff l >= r - diagonal.
  const int64_t diagonal = t.visible_end + first_lane - keys.begin - 1;
  for (int v = 0; v < kBlockVecs; ++v) {
    const int at = first_lane + v * kLanes;
    const Vec neg_lse = load(s.neg_lse + at), delta = load(s.delta + at);
    const Vec lane = add(lane_index(), set1(static_cast<float>(v * kLanes)));
    for (int r = 0; r < seen_keys; ++r) {
      float* const p_at = s.p_tile + static_cast<int64_t>(r) * t.ld_q + at;
      float* const ds_at = s.ds_tile + static_cast<int64_t>(r) * t.ld_q + at;
      Vec p = exp_vec(fma(load(p_at), scale, neg_lse));
      Vec ds = mul(p, sub(load(ds_at), delta));
      if (r >= full_keys) {
        const Vec first_seeing = set1(static_cast<float>(r - diagonal));
        p = select_ge(lane, first_seeing, p, zero());
        ds = select_ge(lane, first_seeing, ds, zero());
      }
      store(p_at, p);
      store(ds_at, ds);
    }
    for (int r = seen_keys; r < keys.count; ++r) {
      store(s.p_tile + static_cast<int64_t>(r) * t.ld_q + at, zero());
      store(s.ds_tile + static_cast<int64_t>(r) * t.ld_q + at, zero());
    }
  }
}

/// dQ^T += K^T dS^T of one panel without touching masked pairs.
void add_visible_grad_q(const BackwardTile& t, KeyTile keys, int first_lane, float* grad_q_panel, bool first) {
  const BackwardScratch& s = t.scratch;
  for (int l = 0; l < kPanel; ++l) {
    const int seen = first_lane + l < t.num_queries ? visible_keys(t, keys, first_lane + l) : 0;
    for (int c = 0; c < t.head_dim; ++c) {
      float sum = first ? 0.0f : grad_q_panel[c * kPanel + l];
      for (int r = 0; r < seen; ++r) sum += s.k_tile[static_cast<int64_t>(r) * t.ld_k + c] * s.ds_tile[static_cast<int64_t>(r) * t.ld_q + first_lane + l];
      grad_q_panel[c * kPanel + l] = sum;
    }
  }
}

void add_grad_q(const BackwardTile& t, KeyTile keys, int first_lane, int seen_keys, bool first) {
  const BackwardScratch& s = t.scratch;
  float* const panel = s.grad_q_panels + static_cast<int64_t>(first_lane) * t.ld_k;
  if (t.axpy) return add_visible_grad_q(t, keys, first_lane, panel, first);
  const MatMul product{s.k_tile, t.ld_k, s.ds_tile + first_lane, t.ld_q, panel, kPanel, seen_keys, nullptr};
  if (first) {
    matmul<kBlockVecs, Start::kZero, ALayout::kTransposed>(product, t.head_dim);
  } else {
    matmul<kBlockVecs, Start::kC, ALayout::kTransposed>(product, t.head_dim);
  }
}

/// grad (keys x width) = start + X^T rows, where X^T (keys x queries) is p_tile or ds_tile.
template <Start kStart>
void add_key_gradient(const BackwardTile& t, KeyTile keys, const float* x_tile, const float* rows, int ld, int width, float* grad) {
  // Under a mask, a block of key rows starts at the first query that sees its first key; p_tile and ds_tile hold 0 for the later keys' masked pairs.
  const int step = t.causal ? kBlockRows : keys.count;
  for (int c = 0; c < width; c += kPanel) {
    for (int key = 0; key < keys.count; key += step) {
      const int q = first_seeing_query(t, keys, key);
      const MatMul product{x_tile + static_cast<int64_t>(key) * t.ld_q + q,
                           t.ld_q,
                           rows + static_cast<int64_t>(q) * ld + c,
                           ld,
                           grad + static_cast<int64_t>(key) * ld + c,
                           ld,
                           t.num_queries - q,
                           nullptr};
      const int count = min_int(step, keys.count - key);
      if (width - c > kLanes) {
        matmul<2, kStart, ALayout::kRowMajor>(product, count);
      } else {
        matmul<1, kStart, ALayout::kRowMajor>(product, count);
      }
    }
  }
}

/// The same without touching masked pairs.
void add_visible_key_gradient(const BackwardTile& t, KeyTile keys, const float* x_tile, const float* rows, int ld, int width, bool first, float* grad) {
  for (int key = 0; key < keys.count; ++key) {
    float* const to = grad + static_cast<int64_t>(key) * ld;
    if (first) zero_rows(to, 1, round_up(width, kLanes));
    for (int q = first_seeing_query(t, keys, key); q < t.num_queries; ++q) {
      const Vec x = set1(x_tile[static_cast<int64_t>(key) * t.ld_q + q]);
      const float* const from = rows + static_cast<int64_t>(q) * ld;
      for (int c = 0; c < width; c += kLanes) store(to + c, fma(x, load(from + c), load(to + c)));
    }
  }
}

}  // namespace

void backward_begin(BackwardTile* tile) {
  read_query_side(tile);
  compute_row_terms(*tile);
}

void backward_scores(BackwardTile* tile, KeyTile keys, bool first) {
  const BackwardTile& t = *tile;
  const BackwardScratch& s = t.scratch;
  read_rows(t.element, t.k, keys.begin, keys.count, t.head_dim, s.k_tile, t.ld_k);
  read_rows(t.element, t.v, keys.begin, keys.count, t.head_dim_v, s.v_tile, t.ld_v);
  const bool cut_by_mask = visible_keys(t, keys, 0) < keys.count;
  tile->axpy = cut_by_mask && !(t.queries_finite && all_finite(s.k_tile, keys.count, t.head_dim, t.ld_k));
  for (int first_lane = 0; first_lane < t.num_queries; first_lane += kPanel) {
    const int last_lane = min_int(first_lane + kPanel, t.num_queries) - 1;
    const int seen_keys = visible_keys(t, keys, last_lane);
    const int64_t at_k = static_cast<int64_t>(first_lane) * t.ld_k, at_v = static_cast<int64_t>(first_lane) * t.ld_v;
    matmul<kBlockVecs, Start::kZero, ALayout::kRowMajor>({s.k_tile, t.ld_k, s.q_panels + at_k, kPanel, s.p_tile + first_lane, t.ld_q, t.head_dim, nullptr},
                                                         seen_keys);
    matmul<kBlockVecs, Start::kZero, ALayout::kRowMajor>(
        {s.v_tile, t.ld_v, s.grad_o_panels + at_v, kPanel, s.ds_tile + first_lane, t.ld_q, t.head_dim_v, nullptr}, seen_keys);
    probabilities_and_ds(t, keys, first_lane, seen_keys);
    add_grad_q(t, keys, first_lane, seen_keys, first);
  }
}

void backward_accumulate(const BackwardTile& t, KeyTile keys, bool first, float* grad_k, float* grad_v) {
  const BackwardScratch& s = t.scratch;
  if (t.axpy) {
    add_visible_key_gradient(t, keys, s.p_tile, s.grad_o_rows, t.ld_v, t.head_dim_v, first, grad_v);
    add_visible_key_gradient(t, keys, s.ds_tile, s.q_rows, t.ld_k, t.head_dim, first, grad_k);
  } else if (first) {
    add_key_gradient<Start::kZero>(t, keys, s.p_tile, s.grad_o_rows, t.ld_v, t.head_dim_v, grad_v);
    add_key_gradient<Start::kZero>(t, keys, s.ds_tile, s.q_rows, t.ld_k, t.head_dim, grad_k);
  } else {
    add_key_gradient<Start::kC>(t, keys, s.p_tile, s.grad_o_rows, t.ld_v, t.head_dim_v, grad_v);
    add_key_gradient<Start::kC>(t, keys, s.ds_tile, s.q_rows, t.ld_k, t.head_dim, grad_k);
  }
}

void backward_end(const BackwardTile& t, bool empty) {
  const BackwardScratch& s = t.scratch;
  if (empty) return write_rows(t.element, t.grad_q, nullptr, 0, t.num_queries, t.head_dim, 0.0f);
  for (int first_lane = 0; first_lane < t.num_queries; first_lane += kPanel) {
    float* const rows = s.k_tile;  // the key tiles are done
    panel_to_rows(s.grad_q_panels + static_cast<int64_t>(first_lane) * t.ld_k, kPanel, t.head_dim, rows, t.ld_k);
    const OutputRows out{t.grad_q.data + first_lane * t.grad_q.stride_bytes, t.grad_q.stride_bytes};
    write_rows(t.element, out, rows, t.ld_k, min_int(kPanel, t.num_queries - first_lane), t.head_dim, t.scale);
  }
}

}  // namespace fa::cpu::FA_CPU_TARGET
