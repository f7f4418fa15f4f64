// What the Hopper forward kernel is launched with.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "attention/fast_divisor.h"
#include "attention/score_params.h"
#include "attention/sequence_schedule.h"
#include "attention/visible_tiles.h"
#include "plan/sm90_shared_round.h"

namespace fa::sm90 {

/// A (batch, sequence, heads, head_dim) tensor as plain memory; strides in elements. Used where TMA is not: rows without keys, and rows that are repaired.
struct GlobalView {
  void* data;
  int64_t batch_stride;
  int64_t seq_stride;
  int64_t head_stride;
};

struct ForwardParams {
  // Tensor maps over (head_dim, sequence, head, batch), 128-byte swizzle. Boxes: 64 x tile_q for q, 64 x tile_kv for k and v, 64 x 64 for o.
  CUtensorMap map_q;
  CUtensorMap map_k;
  CUtensorMap map_v;
  CUtensorMap map_o;

  GlobalView q, k, v, o;
  float* lse;  ///< (batch, heads_q, len_q), may be null

  int len_q;
  /// Keys that some query sees: with a causal mask the keys behind the last query's are left out, of the tensor maps too, so nothing ever reads them.
  int len_kv;
  int heads_q;
  FastDivisor group_size;  ///< query heads per key head
  int head_dim;
  int head_dim_v;
  /// Query i sees key j iff j < min(len_kv, i + causal_limit). len_kv without a mask, so that the limit never binds.
  int causal_limit;
  float scale;
  float scale_log2;  ///< scale * log2(e)

  // Order of work, see schedule.cuh.
  int num_units;              ///< of work, over all heads
  int unit_shift;             ///< log2 of a unit's query tiles: 1 with pairs, else 0
  int q_tiles;                ///< query tiles per head
  int first_row;              ///< of a head's first tile: 0, or -64 or -128 if that one is not full; behind those that a last section takes (whole_units)
  FastDivisor units_of_head;  ///< q_tiles, or half as many with pairs
  FastDivisor heads;          ///< heads_q
  // Sections of heads (over the batch too) that are worked on together; the last one may be smaller, or larger with adjacent tiles.
  bool sections;
  bool adjacent_tiles;
  FastDivisor section_tiles;  ///< section_heads * q_tiles
  FastDivisor section_heads;
  FastDivisor last_section_heads;
  int last_section;  ///< its number
  int last_head;     ///< over the batch too: the first to be worked on, but with modified scores
  bool causal;
};

/// Of a kernel whose blocks share the last round of query tiles.
struct SharedForwardParams : ForwardParams {
  Sm90SharedRound round;
  FastDivisor by_sharers;
  FastDivisor by_key_tiles;
  int whole_rounds;  ///< in front of it
  float4* parts;     ///< in slots of consumer threads x (head_dim / 8 + 1): O as accumulators lie, then the two rows' references and the thread's sums
  int* arrivals;     ///< parts that have come, of each shared tile and consumer warp; 0 when the kernel begins
};

/// Of a kernel with modified scores. Which keys a query sees is in scores.range, of the sequence that the query is in; len_q and len_kv are the lengths of the
/// tensors (of len_kv, what the tensor maps hold); causal_limit is not used.
struct ModifiedForwardParams : ForwardParams {
  ScoreParams scores;
  SequenceTable sequences;  ///< query tiles of all sequences; without data every batch entry is a sequence
  bool packed;              ///< batch entry 0 holds all sequences
  /// The batch entries of a head follow each other, so that they read a shared bias together: `heads` is the batch then. Only with a bias.
  bool batch_inside;
  /// Units of work from this one on are a last section: the tiles in front of first_row, longest first, each of last_section_heads heads. INT_MAX: none are.
  int whole_units;
  CUtensorMap map_bias;  ///< over (key, query, head, batch or sequence), 128-byte swizzle, boxes of 64 x tile_q
};

/// Of a kernel that goes through lists of visible tiles. Work is a list (a query tile of a plane) for one of the heads that share it; it is handed out by a
/// counter, section by section: the lists of a group of planes, the longest first, each for section_sharers heads one after the other.
struct MaskedForwardParams : ModifiedForwardParams {
  VisibleTiles visible_tiles;
  FastDivisor section_work;     ///< group_lists * section_sharers
  FastDivisor section_sharers;  ///< divides the number of heads (over the batch) that share a plane
  FastDivisor sharer_sections;  ///< of a group
  FastDivisor lists_of_plane;   ///< query tiles
};

}  // namespace fa::sm90
