// What the Hopper backward kernels are launched with.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "attention/tile_order.h"
#include "plan/problem.h"

namespace fa::sm90 {

/// Floats of a 64 x 64 block of the grad_q accumulator. Block (row / 64, column / 64) of a head's padded_rows x padded_dim accumulator follows the one before,
/// columns first. Inside a block the order is that of wgmma's accumulator registers: the four values 4j … 4j + 3 of thread t of the warpgroup (rows g and g + 8
/// of 16-row slice t / 32, columns 8j + 2q and + 1; g = t % 32 / 4, q = t % 4) are float4 number 128 j + t.
inline constexpr int kGradQBlock = 64 * 64;

/// Where a row's log-sum-exp and delta lie among a head's: rows 2i and 2i + 1 are swapped. They are loaded in pairs, into an even and an odd register, and meet
/// accumulators of columns 2i and 2i + 1, in an even and an odd register too; two operands of the same parity take two cycles to read.
constexpr int64_t statistics_row(int64_t row) {
  return row ^ 1;
}

/// Keys whose results are checked, and where necessary repaired, together, a slice: a warp's rows of grad_k and grad_v. A tile of 128 keys has kRepairSlices.
inline constexpr int kRepairKeys = 16;
inline constexpr int kRepairSlices = 8;
/// Flags of a slice: its grad_k or grad_v is not finite; its keys are not finite, which may have reached grad_q of rows that do not see them.
inline constexpr int kRepairGradKv = 1;
inline constexpr int kRepairGradQ = 2;

struct BackwardParams {
  // Tensor maps over (head_dim, sequence, head, batch), 128-byte swizzle. Boxes: 64 x tile_q for q and grad_o, 64 x tile_kv for k and v, 64 x 64 for grad_k and
  // grad_v.
  CUtensorMap map_q;
  CUtensorMap map_k;
  CUtensorMap map_v;
  CUtensorMap map_grad_o;
  CUtensorMap map_grad_k;
  CUtensorMap map_grad_v;
  CUtensorMap map_statistics;  ///< lse_log2 and behind it delta: (padded_rows, 2 * batch * heads_q), boxes of tile_q floats

  // Workspace, per (batch, query head) padded_rows rows, the first two in the order of statistics_row.
  float* lse_log2;  ///< log-sum-exp in base 2; +inf for rows that see no key and for padding: exp2(s - inf) = 0
  float* delta;     ///< rowsum(grad_o * o) - grad_lse; 0 where lse_log2 is +inf
  /// Sums of grad_q in fp32, without the factor scale; order: kGradQBlock.
  float* grad_q_accumulator;
  /// Where the first key tile stores: how many query tiles it has stored, per query head. Where heads are cleared: by how many warps, per query head. In turns:
  /// how many steps each key tile has added, over all query heads of the group, per key head, key tile and adder (turns.cuh); in the wide kernel how many key
  /// tiles have been added, per query tile, for the columns of each block of the cluster.
  int* grad_q_counters;
  int* repair_flags;  ///< one per slice of a key tile, for the repair pass; written if causal
  int64_t padded_rows;

  int len_q;
  int len_kv;          ///< of the tensors
  int visible_len_kv;  ///< keys that some query sees; those behind are read by nobody
  int heads_q;
  int heads_kv;
  int group_size;     ///< query heads per key head
  int causal_offset;  ///< query i sees key j iff j <= i + causal_offset, if causal
  bool causal;
  float scale;
  float scale_log2;  ///< scale * log2(e)
  int num_q_tiles;   ///< per head
  TileOrder order;   ///< key tiles and key heads
  int* tiles_done;   ///< per key head: key tiles that have added all their parts of grad_q, where the main kernel finishes heads
  /// Key heads between a block's and the one in front of which it finishes a part, and the one behind of which it clears a part of the accumulator.
  int finish_distance;
  int unseen_rows;  ///< rows of grad_q, the first of every head, that no key tile comes to

  // For a main kernel that rounds grad_q itself.
  uint16_t* grad_q;  ///< (batch, len_q, heads_q, head_dim), strides in elements
  Strides grad_q_strides;
  int head_dim;
};

/// The passes around the main kernel: delta, log-sum-exp, cleared counters and, where nobody begins its sums, the cleared accumulator before, grad_q after.
struct BackwardPassParams {
  const uint16_t* o;       ///< (batch, len_q, heads_q, head_dim_v), strides in elements
  const uint16_t* grad_o;  ///< like o
  uint16_t* grad_q;        ///< (batch, len_q, heads_q, head_dim)
  const float* lse;        ///< (batch, heads_q, len_q) contiguous
  const float* grad_lse;   ///< like lse, or null
  Strides o_strides, grad_o_strides, grad_q_strides;
  float* lse_log2;
  float* delta;
  float* grad_q_accumulator;
  int64_t padded_rows;
  int64_t num_rows;          ///< batch * heads_q * padded_rows
  int64_t first_finish_row;  ///< of num_rows: those in front the main kernel has finished
  int64_t clear_rows;        ///< rows of the accumulator that prepare clears; at most num_rows
  int* counters;             ///< prepare clears num_counters of them
  int64_t num_counters;
  int unseen_rows;  ///< rows of grad_q, the first of every head, that prepare writes as zero and finish leaves alone, since no key tile comes to them
  int len_q;
  int heads_q;
  int head_dim;
  int head_dim_v;
  int visible_len_kv;
  int causal_offset;
  bool causal;
  float scale;
};

/// The pass that repairs gradients after NaN or infinity in masked pairs (repair.cu).
struct BackwardRepairParams {
  const uint16_t* q;       ///< (batch, len_q, heads_q, head_dim), strides in elements
  const uint16_t* k;       ///< (batch, len_kv, heads_kv, head_dim)
  const uint16_t* v;       ///< (batch, len_kv, heads_kv, head_dim_v)
  const uint16_t* grad_o;  ///< (batch, len_q, heads_q, head_dim_v)
  uint16_t* grad_q;        ///< like q
  uint16_t* grad_k;        ///< like k
  uint16_t* grad_v;        ///< like v
  Strides q_strides, k_strides, v_strides, grad_o_strides, grad_q_strides, grad_k_strides, grad_v_strides;
  int head_dim;
  int head_dim_v;
  int step_rows;        ///< query rows that the main kernel works on together
  int tile_kv;          ///< its keys
  int slices;           ///< flags of a key tile
  BackwardParams main;  ///< the main kernel's
};

}  // namespace fa::sm90
