// What a tile of attention with variants carries beside ForwardTile or BackwardTile: plain data, filled by src/cpu. Functions here have internal linkage, since
// files of every instruction set include this header.
#pragma once

#include "cpu/kernels/kernels.h"

namespace fa::cpu {

/// Keys that a query at a position sees under window and chunk: an interval that moves forward with the position.
struct VisibleRange {
  int64_t reach_left;   ///< kUnbounded for all
  int64_t reach_right;  ///< 0 for causal masks
  int64_t chunk;        ///< 0: none
  int64_t len_kv;
  static constexpr int64_t kUnbounded = int64_t{1} << 40;
};

static inline int64_t chunk_start(int64_t position, int64_t chunk) {
  return (position / chunk - (position % chunk < 0)) * chunk;
}

static inline int64_t clamp_key(const VisibleRange& range, int64_t key) {
  return key < 0 ? 0 : key > range.len_kv ? range.len_kv : key;
}

static inline int64_t visible_begin(const VisibleRange& range, int64_t position) {
  const int64_t begin = position - range.reach_left;
  const int64_t start = range.chunk == 0 ? begin : chunk_start(position, range.chunk);
  return clamp_key(range, begin > start ? begin : start);
}

static inline int64_t visible_end(const VisibleRange& range, int64_t position) {
  const int64_t end = position + range.reach_right + 1;
  const int64_t stop = range.chunk == 0 ? end : chunk_start(position, range.chunk) + range.chunk;
  return clamp_key(range, end < stop ? end : stop);
}

/// Values for the pairs of one head: row r, for query r of the sequence (for block masks: of block row r), starts stride_bytes * r after data. Null: none.
struct PairRows {
  const char* data;
  int64_t stride_bytes;
};

struct VariantScratch {
  float* extra;      ///< forward (tile_kv + 16, lanes), backward (tile_kv + 16, ld_q): what is added to a score, transposed; -infinity hides the pair
  float* lane_rows;  ///< (lanes, ld_rows): bias and visibility of one panel, a query per row
  float* keep;       ///< (tile_kv, lanes): dropout's factors of one panel
  float* seen;       ///< (tile_q): 1 for queries that have seen a key, else 0; forward only
  int ld_rows;
};

/// Rows [begin, end) of a key tile: those that some query of a panel sees. extra: what VariantScratch::extra holds is to be added; otherwise every query of the
/// panel sees all of these keys and nothing is added.
struct PanelView {
  int begin;
  int end;
  bool extra;
};

/// Panels of the largest query tile with the narrowest panels.
inline constexpr int kMaxPanels = 32;

struct VariantTile {
  VisibleRange range;
  int64_t first_query;     ///< of the tile, within the sequence
  int64_t first_position;  ///< its position among the keys
  float softcap;           ///< 0: none
  float slope;             ///< ALiBi; 0: none
  Element bias_element;
  PairRows bias;
  PairRows visible;  ///< bytes
  PairRows blocks;   ///< bytes
  int block_q;
  int block_kv;
  bool has_dropout;
  DropoutKey dropout;
  bool has_sink;
  float sink;
  /// Backward: ds_tile shall hold the gradient of the bias, and nothing else is computed.
  bool bias_only;
  VariantScratch scratch;
  PanelView panels[kMaxPanels];  ///< set by variant_backward_scores for variant_backward_accumulate
};

}  // namespace fa::cpu
