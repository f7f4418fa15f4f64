// The configurations of the portable CUDA kernels: what the planner chooses from, and what the kernels are compiled for (their configs take a row of these
// tables and assert that its numbers are true). No CUDA header.
#pragma once

#include <cstdint>

#include "plan/problem.h"
#include "plan/sequence_tables.h"

namespace fa::sm80 {

/// Shared memory that every device offers to one block (compute capability 8.6, 8.9 and 12.x), and what the largest offer (9.0 and 10.x); between them lie the
/// 163 KiB of 8.0 and 8.7.
inline constexpr int64_t kSmallSharedBytes = 99 * 1024;
inline constexpr int64_t kLargeSharedBytes = 227 * 1024;

/// Largest head_dim (and head_dim_v) of any variant. Both are padded to the variant's padded_dim inside the kernel.
inline constexpr int kMaxHeadDim = 512;

/// The same of the variants that are compiled with ModifiedScores.
inline constexpr int kMaxModifiedHeadDim = 256;

/// Forward: one block computes tile_q query rows of one head; each warp owns tile_q * slices / warps of them (16 or 32). With slices = 2, two warps share their
/// rows: each has half of the columns of O and computes the scores of half of the keys of a tile, and they exchange probabilities.
struct ForwardVariant {
  const char* name;
  int padded_dim;
  int tile_q;
  int tile_kv;
  int warps;
  int stages;         ///< buffers of k and of v
  int q_steps_kept;   ///< of q, so many times 16 columns stay in registers (with ModifiedScores none); the others are read from shared memory once per tile
  int blocks_per_sm;  ///< what the register budget is cut for
  int slices = 1;
};

/// Columns of a row in shared memory: whole lines of 64 (tile/shared_tile.cuh).
constexpr int stored_columns(int padded_dim) {
  return (padded_dim + 63) / 64 * 64;
}

constexpr int forward_shared_bytes(const ForwardVariant& v) {
  return 2 * stored_columns(v.padded_dim) * (v.tile_q + 2 * v.stages * v.tile_kv)   // q, k, v
         + (v.slices > 1 ? 2 * v.tile_q * v.tile_kv + 4 * v.slices * v.tile_q : 0)  // probabilities, and a number per row and warp
         + 128;                                                                     // addresses
}

/// A tile of a 16-bit bias; where there is room for it, it has a place behind the other shared memory.
constexpr int bias_tile_bytes(int tile_q, int tile_kv) {
  return 2 * tile_q * tile_kv;
}

inline constexpr ForwardVariant kForward[] = {
    {"sm80_forward_d64", 64, 128, 128, 4, 1, 0, 2},
    {"sm80_forward_d128", 128, 128, 64, 4, 1, 0, 2},
    {"sm80_forward_d192", 192, 64, 64, 4, 1, 12, 2},
    {"sm80_forward_d256", 256, 128, 128, 8, 1, 0, 1, 2},
    {"sm80_forward_d256_medium", 256, 128, 64, 8, 1, 0, 1, 2},
    {"sm80_forward_d256_small", 256, 64, 64, 4, 1, 8, 2},
    {"sm80_forward_d64", 64, 128, 64, 4, 1, 0, 2},  // with ModifiedScores only: tiles half as wide leave registers for the modifications
    {"sm80_forward_d512", 512, 32, 32, 4, 1, 0, 2, 2},
    {"sm80_forward_d96", 96, 128, 64, 4, 1, 0, 2},
};
inline constexpr int kNumForward = sizeof(kForward) / sizeof(kForward[0]);
inline constexpr int kSmallForward256 = 5;  ///< row that is also for short causal problems on any device

/// Backward: one block computes the gradients of tile_kv keys of one key/value head, going through tile_q query rows at a time (of every query head of the
/// group), and adds its part of grad_q to an fp32 accumulator. S^T is split over warps_kv x warps_q warps (keys x queries); grad_k and grad_v over warps_kv x
/// warps_q (keys x columns); grad_q over warps_dq x (warps / warps_dq) (queries x columns).
/// With slices > 1 there are so many times more warps: so many compute the same part of S^T and share the columns of grad_k and grad_v. grad_q then comes from
/// a kernel of its own, as in deterministic mode.
struct BackwardVariant {
  const char* name;
  int padded_dim;
  int tile_q;
  int tile_kv;
  int warps_kv;
  int warps_q;
  int warps_dq;
  int stages;  ///< buffers of q and of grad_o
  int blocks_per_sm;
  int ahead;  ///< groups of products by which fragments are loaded ahead (tile/warp_product.cuh)
  int slices = 1;
};

constexpr int warps_of(const BackwardVariant& v) {
  return v.warps_kv * v.warps_q * v.slices;
}

/// Whether the main kernel adds up grad_q; otherwise the grad_q kernel computes it.
constexpr bool accumulates_grad_q(const BackwardVariant& v, bool deterministic) {
  return v.slices == 1 && !deterministic;
}

/// With warps_q == 1 a warp holds P^T and dS^T of its keys for all queries of the tile: they stay in its registers, and only dS is shared, for grad_q; it is
/// kept for two steps, so that grad_q may come a step later and one barrier per step does. Otherwise both are shared, between two barriers per step.
constexpr int backward_shared_bytes(const BackwardVariant& v) {
  return 2 * stored_columns(v.padded_dim) * 2 * (v.tile_kv + v.stages * v.tile_q)  // k, v, q, grad_o
         + 2 * 2 * v.tile_kv * v.tile_q                                            // P and dS, or dS twice
         + 2 * 4 * v.stages * v.tile_q                                             // log-sum-exp and delta
         + 128;                                                                    // addresses
}

inline constexpr BackwardVariant kBackward[] = {
    {"sm80_backward_d64", 64, 64, 128, 4, 1, 2, 2, 2, 0},        {"sm80_backward_d128", 128, 64, 128, 4, 2, 2, 2, 1, 1},
    {"sm80_backward_d128_small", 128, 64, 64, 2, 2, 2, 1, 1, 1}, {"sm80_backward_d192", 192, 64, 64, 2, 4, 2, 2, 1, 1},
    {"sm80_backward_d192_small", 192, 64, 32, 2, 2, 2, 1, 1, 1}, {"sm80_backward_d256", 256, 64, 64, 2, 4, 1, 2, 1, 1},
    {"sm80_backward_d256_small", 256, 32, 32, 2, 2, 2, 1, 1, 1}, {"sm80_backward_d512", 512, 32, 16, 1, 2, 2, 1, 2, 1, 2},
    {"sm80_backward_d96", 96, 64, 128, 4, 2, 4, 2, 1, 1},        {"sm80_backward_d96_small", 96, 64, 64, 2, 2, 2, 1, 1, 1},
};
inline constexpr int kNumBackward = sizeof(kBackward) / sizeof(kBackward[0]);

/// Deterministic backward: grad_q comes from a kernel of its own, which goes through the keys of a tile of query rows as the forward kernel does. slices: as
/// there.
struct GradQVariant {
  const char* name;
  int padded_dim;
  int tile_q;
  int tile_kv;
  int warps;
  int blocks_per_sm;
  int slices = 1;
};

constexpr int grad_q_shared_bytes(const GradQVariant& v) {
  return 2 * v.padded_dim * 2 * (v.tile_q + v.tile_kv)  // q, grad_o, k, v
         + 128;                                         // the tile
}

inline constexpr GradQVariant kGradQ[] = {
    {"sm80_grad_q_d64", 64, 64, 64, 4, 2},   {"sm80_grad_q_d128", 128, 64, 64, 4, 2},    {"sm80_grad_q_d192", 192, 64, 32, 4, 2},
    {"sm80_grad_q_d256", 256, 64, 32, 4, 2}, {"sm80_grad_q_d512", 512, 32, 16, 4, 2, 2},
};
inline constexpr int kNumGradQ = sizeof(kGradQ) / sizeof(kGradQ[0]);
/// tile_q of the rows of kModifiedGradQ: sequences have one table of query tiles.
inline constexpr int kGradQRows = 64;

/// Gradient of the bias: a kernel of its own computes S and dP once more, tile of the bias by tile, and sums over the batches, heads and rows that the bias is
/// the same for in registers, always in the same order.
struct GradBiasVariant {
  const char* name;
  int padded_dim;
  int tile_q;
  int tile_kv;
  int stages;  ///< 2: q and k have a place of their own beside grad_o and v
  int blocks_per_sm;
};

constexpr int grad_bias_shared_bytes(const GradBiasVariant& v) {
  return 2 * v.padded_dim * v.stages * (v.tile_q + v.tile_kv);
}

inline constexpr int kGradBiasThreads = 128;

inline constexpr GradBiasVariant kGradBias[] = {
    {"sm80_grad_bias_d64", 64, 64, 128, 2, 2},
    {"sm80_grad_bias_d128", 128, 64, 128, 2, 2},
    {"sm80_grad_bias_d256", 256, 64, 64, 1, 2},
};
inline constexpr int kNumGradBias = sizeof(kGradBias) / sizeof(kGradBias[0]);

/// Rows of the tables that are also compiled with ModifiedScores (attention/score_policy.cuh), for problems that set a variant. Few, since each takes as long
/// to compile as several plain ones: head_dim 192 is padded to 256, and the last row of kModifiedBackward is for little shared memory.
inline constexpr int kModifiedForward[] = {6, 1, 5};
inline constexpr int kModifiedBackward[] = {0, 1, 5, 6};
inline constexpr int kModifiedGradQ[] = {0, 1, 3};

/// What they compute (a set of VariantBit).
inline constexpr uint32_t kModifiedVariants = kVariantWindow | kVariantChunk | kVariantSoftcap | kVariantAlibi | kVariantBias | kVariantGradBias |
                                              kVariantVisible | kVariantBlockMask | kVariantSinks | kVariantDropout | kVariantSequences;

/// Index of a row within such a list; -1 if it is not there.
template <int kNum>
constexpr int place_of(int row, const int (&rows)[kNum]) {
  for (int i = 0; i < kNum; ++i) {
    if (rows[i] == row) return i;
  }
  return -1;
}

/// Query rows of one head in the workspace, a whole number of tiles of every variant; rows past len_q hold values that contribute nothing.
inline constexpr int kRowPadding = 128;
static_assert(kRowPadding == kSequenceRowPadding, "parts of the workspace");

/// Layout of the backward workspace: per (batch, query head) padded_rows floats of log-sum-exp in base 2, as many of delta, then, if the
/// main kernel adds up grad_q, padded_rows * padded_dim floats of it in the order of the kernel's fragments. With sequences of different lengths padded_rows
/// are those of all sequences of a query head, and behind the rest lie tables of key tiles and of query tiles of kGradQRows rows (plan/sequence_tables.h).
struct BackwardWorkspace {
  int64_t heads = 0;        ///< parts of padded_rows rows
  int64_t padded_rows = 0;  ///< per head
  uint64_t delta_offset_bytes = 0;
  uint64_t grad_q_offset_bytes = 0;
  uint64_t key_table_offset_bytes = 0;
  uint64_t query_table_offset_bytes = 0;
  uint64_t by_number_offset_bytes = 0;  ///< a record per sequence, if the gradient of a bias is wanted
  uint64_t total_bytes = 0;
};

constexpr int64_t ceil_div(int64_t dividend, int64_t divisor) {
  return (dividend + divisor - 1) / divisor;
}

/// Registers per thread that fit blocks_per_sm blocks of so many warps into a multiprocessor's 65536, in the hardware's steps of 8, at most 255.
constexpr int register_budget(int warps, int blocks_per_sm) {
  const int per_thread = 65536 / (warps * 32 * blocks_per_sm) / 8 * 8;
  return per_thread > 255 ? 255 : per_thread;
}

inline BackwardWorkspace backward_workspace(const Problem& problem, const BackwardVariant& variant) {
  const bool sequences = problem.variants.sequences.given;
  BackwardWorkspace w;
  w.heads = sequences ? problem.heads_q : problem.batch * problem.heads_q;
  w.padded_rows = sequences ? sequence_rows(problem) : ceil_div(problem.len_q, kRowPadding) * kRowPadding;
  const uint64_t rows = static_cast<uint64_t>(w.heads) * static_cast<uint64_t>(w.padded_rows);
  w.delta_offset_bytes = rows * sizeof(float);
  w.grad_q_offset_bytes = 2 * rows * sizeof(float);
  w.key_table_offset_bytes =
      w.grad_q_offset_bytes + (accumulates_grad_q(variant, problem.deterministic) ? rows * static_cast<uint64_t>(variant.padded_dim) * sizeof(float) : 0);
  w.query_table_offset_bytes = w.key_table_offset_bytes + (sequences ? sequence_table_bytes(sequence_tiles(problem, false, variant.tile_kv)) : 0);
  w.by_number_offset_bytes = w.query_table_offset_bytes + (sequences ? sequence_table_bytes(sequence_tiles(problem, true, kGradQRows)) : 0);
  w.total_bytes = w.by_number_offset_bytes;
  if (sequences && problem.variants.grad_bias) w.total_bytes += static_cast<uint64_t>(problem.num_sequences()) * kSequenceTileBytes;
  return w;
}

}  // namespace fa::sm80
