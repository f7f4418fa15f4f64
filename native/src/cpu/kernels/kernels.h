// What the CPU kernels of every instruction set offer: plain structs and a table of functions. The files in this folder are compiled once per instruction
// set, so nothing here or in a header that they include may define an inline function outside the namespace of the set: the linker would keep one copy of it
// and could pick the one with instructions that the machine lacks.
#pragma once

#include <cstdint>

namespace fa::cpu {

/// Element type of a row in memory.
enum class Element : int { kFloat32, kFloat16, kBFloat16 };

/// Rows of one head in the caller's memory: row r starts stride_bytes * r after data and its elements are contiguous.
struct Rows {
  const char* data;
  int64_t stride_bytes;
};
struct OutputRows {
  char* data;
  int64_t stride_bytes;
};

/// fp32 scratch of a forward tile. ld_* are row strides in floats, a multiple of 16 and at least the width rounded up to 16.
struct ForwardScratch {
  float* q_panels;  ///< (panels, ld_k, lanes): q transposed, one panel per `lanes` queries
  float* o_panels;  ///< (panels, ld_v, lanes): unnormalised o, transposed
  float* k_tile;    ///< (tile_kv, ld_k)
  float* v_tile;    ///< (tile_kv, ld_v)
  float* scores;    ///< (tile_kv, lanes): scores, then probabilities, of one panel
  float* row_max;   ///< (tile_q): largest score so far, times scale
  float* row_sum;   ///< (tile_q): sum of exp(score - row_max) so far
};

/// One query tile of one head.
struct ForwardTile {
  Element element;
  Rows q;  ///< row 0 is the tile's first query
  Rows k;  ///< row 0 is key 0
  Rows v;
  OutputRows o;  ///< row 0 is the tile's first query
  float* lse;    ///< of the tile's first query; may be null
  int64_t len_kv;
  int64_t visible_end;  ///< query r of the tile sees keys [0, min(len_kv, visible_end + r)); len_kv without a mask; may be negative
  int num_queries;
  int head_dim;
  int head_dim_v;
  int ld_k;
  int ld_v;
  int tile_kv;
  bool causal;
  float scale;
  ForwardScratch scratch;
};

/// fp32 scratch of a backward query tile.
struct BackwardScratch {
  float* q_rows;         ///< (tile_q, ld_k)
  float* grad_o_rows;    ///< (tile_q, ld_v)
  float* q_panels;       ///< (panels, ld_k, lanes)
  float* grad_o_panels;  ///< (panels, ld_v, lanes)
  float* grad_q_panels;  ///< (panels, ld_k, lanes): sum of k * dS, transposed, not yet scaled
  float* k_tile;         ///< (tile_kv, ld_k)
  float* v_tile;         ///< (tile_kv, ld_v)
  float* p_tile;         ///< (tile_kv, ld_q): probabilities, transposed
  float* ds_tile;        ///< (tile_kv, ld_q): gradient of the scaled scores, transposed
  float* neg_lse;        ///< (tile_q): -lse
  float* delta;          ///< (tile_q): sum(grad_o * o) - grad_lse
};

/// One query tile of one head in the backward pass; carried from backward_begin to backward_end.
struct BackwardTile {
  Element element;
  Rows q, k, v, o, grad_o;  ///< q, o, grad_o start at the tile's first query, k and v at key 0
  OutputRows grad_q;        ///< starts at the tile's first query
  const float* lse;         ///< of the tile's first query
  const float* grad_lse;    ///< may be null
  int64_t len_kv;
  int64_t visible_end;  ///< as in ForwardTile
  int num_queries;
  int head_dim;
  int head_dim_v;
  int ld_k;
  int ld_v;
  int ld_q;  ///< row stride of p_tile and ds_tile in floats
  bool causal;
  float scale;
  BackwardScratch scratch;
  bool queries_finite;  ///< set by backward_begin: no infinity or NaN in q and grad_o of the tile
  bool axpy;            ///< set by backward_scores: the key tile is cut by the mask and holds a value that is not finite
};

/// Keys [begin, begin + count) of a head.
struct KeyTile {
  int64_t begin;
  int count;
};

/// Dropout of one query head of one sequence.
struct DropoutKey {
  uint64_t seed;
  uint32_t offset;
  uint32_t head;       ///< batch * heads_q + head
  uint32_t threshold;  ///< a pair is dropped iff its random word is below
  float keep_scale;    ///< what kept probabilities are multiplied by
};

struct VariantTile;  ///< variant_tile.h

struct KernelTable {
  const char* name;    ///< "AVX2" …, for people
  const char* suffix;  ///< "avx2" …, for kernel names and FLASH_ATTENTION_CPU_ISA
  int lanes;           ///< queries per panel; divides 32
  void (*forward)(const ForwardTile& tile);
  void (*backward_begin)(BackwardTile* tile);
  /// Scores, probabilities and dS of a key tile; adds to the gradient of q. `first`: nothing was added before.
  void (*backward_scores)(BackwardTile* tile, KeyTile keys, bool first);
  /// Adds the key tile's part of the gradients of k and v to fp32 sums with row strides ld_k and ld_v. `first`: the sums hold nothing yet.
  void (*backward_accumulate)(const BackwardTile& tile, KeyTile keys, bool first, float* grad_k, float* grad_v);
  /// Writes the gradient of q; `empty`: no key tile was visited.
  void (*backward_end)(const BackwardTile& tile, bool empty);
  /// Writes rows of `width` elements from fp32 rows `ld` floats apart, times `factor`; zeros if `source` is null.
  void (*write_rows)(Element element, OutputRows out, const float* source, int64_t ld, int64_t rows, int width, float factor);
  /// Rows [first, first + rows) of `source`, widened to fp32 rows `ld` floats apart; columns from width to the next multiple of 16 may become 0.
  void (*read_rows)(Element element, Rows source, int64_t first, int rows, int width, float* target, int ld);
  /// kept[j] = 1 if dropout keeps pair (query, j), else 0, for j in [0, keys).
  void (*dropout_row)(const DropoutKey& key, uint32_t query, int64_t keys, uint8_t* kept);
  /// forward, for problems with variants.
  void (*variant_forward)(const ForwardTile& tile, const VariantTile& variant);
  /// backward_scores, for problems with variants; between backward_begin and backward_end as well. False if no query of the tile sees one of the keys.
  bool (*variant_backward_scores)(BackwardTile* tile, VariantTile* variant, KeyTile keys, bool first);
  /// backward_accumulate, for problems with variants. `visited`: what variant_backward_scores gave.
  void (*variant_backward_accumulate)(const BackwardTile& tile, const VariantTile& variant, KeyTile keys, bool visited, bool first, float* grad_k,
                                      float* grad_v);
};

}  // namespace fa::cpu
