// Online softmax of a 64-row warpgroup tile, on wgmma's accumulator fragment: a thread holds two rows, four neighbouring lanes share them.
//
// P = exp2(scale_log2 * S - scale_log2 * reference). The reference of a row need not be the exact running maximum, it only has to keep P in the range of the
// element type and the sums in fp32: a common factor of P, the row sum and O cancels in O / sum. Four ways to move it:
//  - exact: to the maximum, whenever it grows. Every first and every masked tile.
//  - lazy: to the maximum, when that outweighs the tile before.
//  - optimistic: not at all, without even looking for a maximum. Each thread's partial row sum, needed anyway, shows afterwards whether the tile outweighs
//    the one before; then the reference is moved after the fact.
//  - following: to the maximum in every tile, without a branch on whether it grew. Where logits vary much, that is cheaper than after the fact.
// Why an outweighing tile is not left alone while it is in range: its largest P would be rounded to the element type, while the row sum holds it unrounded, and
// O / sum would be off by that rounding. Relative to the maximum it is exactly 1.
#pragma once

#include <cfloat>
#include <cmath>

#include "kernels/sm90/forward/params.h"
#include "ptx/exp2.cuh"
#include "ptx/max3.cuh"
#include "ptx/mma_sync.cuh"
#include "ptx/register_pair.cuh"

namespace fa::sm90 {

inline constexpr float kMinusInfinity = -INFINITY;

/// A thread's partial row sum below this proves that no P left that range: fp16 holds up to 65504, bf16 far more.
inline constexpr float kMaxTileSum = 16384.0f;
/// Up to this sum of a thread's P, a reference is moved after the fact: P, sums and their products stay far from overflow.
inline constexpr float kLargestTileSum = 18446744073709551616.0f;  // 2^64

/// The least that counts as outweighing a first tile of which a mask hides part.
inline constexpr float kBoundAfterMask = 256.0f;

/// The part of the sum of all tiles so far that an outweighing tile exceeds, too, where they count.
inline constexpr float kShareOfAllTiles = 0.5f;

/// State of the thread's two rows.
struct RowState {
  float reference[2] = {kMinusInfinity, kMinusInfinity};  ///< in units of S
  float sum[2] = {0.0f, 0.0f};                            ///< this thread's columns only, relative to the reference
  float bound[2];                                         ///< what outweighs the tile before; set by every step
  /// Whether a tile must outweigh half of all tiles so far as well. A constant of the kernel.
  bool counts_all_tiles = false;
  int raised = 0;  ///< tiles of the optimistic step that outweighed the one before in some row of the warp
};

/// A tile outweighs the one before if a thread's sum of it (lazy: its largest P) exceeds 1, so that some P may be above 1, by more than a few times the sum of
/// the tile before. Sums of random logits of standard deviation 1 do not. A bias makes logits vary more: at a standard deviation of sqrt(2) such tiles are 8 to
/// 10 % of a warp's, and the whole block waits for each. But rounding a P matters only as far as its key is a large part of the whole row, so there, sums of
/// all tiles count too.
template <int kNum>
__device__ __forceinline__ void set_bounds(RowState& rows, const float (&tile_sum)[2]) {
  constexpr float kTimes = kNum >= 48 ? 4.0f : 6.0f;  // sums of fewer columns vary more
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float bound = fmaf(kTimes, tile_sum[r], 1.0f);
    if (rows.counts_all_tiles) {
      bound = fmaf(kShareOfAllTiles, rows.sum[r], bound);
    }
    rows.bound[r] = fminf(bound, kMaxTileSum);  // sums that creep up must stay in range too
  }
}

/// What O must be multiplied with after the reference of the rows moved.
struct Rescale {
  float factor[2] = {1.0f, 1.0f};
  bool needed = false;  ///< the same in all lanes of a warp
};

/// Row of accumulator element i, 0 or 1.
__device__ __forceinline__ constexpr int fragment_row(int i) {
  return (i >> 1) & 1;
}

/// Sets the scores of invisible keys to -infinity. visible[r]: the keys of the tile that row r sees, counted from this thread's first column.
template <int kBegin, int kEnd, int kNum>
__device__ __forceinline__ void apply_mask(float (&s)[kNum], const int (&visible)[2]) {
#pragma unroll
  for (int i = kBegin; i < kEnd; ++i) {
    const int column = (i >> 2) * 8 + (i & 1);
    s[i] = column < visible[fragment_row(i)] ? s[i] : kMinusInfinity;
  }
}

/// The rows' maxima over all lanes that share them. NaN counts as absent: it reaches the result through P.
template <int kNum>
__device__ __forceinline__ void row_maxima(const float (&s)[kNum], float (&maximum)[2]) {
  maximum[0] = fmaxf(s[0], s[1]);
  maximum[1] = fmaxf(s[2], s[3]);
#pragma unroll
  for (int i = 4; i < kNum; ++i) {
    maximum[fragment_row(i)] = fmaxf(maximum[fragment_row(i)], s[i]);
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    maximum[r] = fmaxf(maximum[r], __shfl_xor_sync(0xFFFFFFFF, maximum[r], 1));
    maximum[r] = fmaxf(maximum[r], __shfl_xor_sync(0xFFFFFFFF, maximum[r], 2));
  }
}

/// S becomes exp2(scale_log2 * S + offset[row]); tile_sum the thread's partial row sums.
template <int kNum>
__device__ __forceinline__ void exponentials(float (&s)[kNum], float scale_log2, const float (&offset)[2], float (&tile_sum)[2]) {
  tile_sum[0] = 0.0f;
  tile_sum[1] = 0.0f;
#pragma unroll
  for (int i = 0; i < kNum; ++i) {
    s[i] = ptx::exp2_approx(fmaf(s[i], scale_log2, offset[fragment_row(i)]));
    tile_sum[fragment_row(i)] += s[i];
  }
}

/// Moves the reference to `target`; a reference of -infinity (no finite score yet) makes all P zero by way of offset 0.
__device__ __forceinline__ void move_reference(RowState& rows, Rescale& rescale, const float (&target)[2], float scale_log2) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const float finite = target[r] == kMinusInfinity ? 0.0f : target[r];
    rescale.factor[r] = ptx::exp2_approx((rows.reference[r] - finite) * scale_log2);
    rows.reference[r] = target[r];
    rows.sum[r] *= rescale.factor[r];
  }
  rescale.needed = true;
}

/// What to add to scale_log2 * S. -infinity as reference: 0, so that scores of -infinity become zeros.
__device__ __forceinline__ void guarded_offsets(const RowState& rows, float scale_log2, float (&offset)[2]) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    offset[r] = rows.reference[r] == kMinusInfinity ? 0.0f : -rows.reference[r] * scale_log2;
  }
}

/// The exact step: reference = running maximum, S becomes P.
template <int kNum>
__device__ __forceinline__ void exact_step(float (&s)[kNum], RowState& rows, Rescale& rescale, float scale_log2) {
  float target[2], offset[2], tile_sum[2];
  row_maxima(s, target);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    target[r] = fmaxf(target[r], rows.reference[r]);
  }
  move_reference(rows, rescale, target, scale_log2);
  guarded_offsets(rows, scale_log2, offset);
  exponentials(s, scale_log2, offset, tile_sum);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    rows.sum[r] += tile_sum[r];
  }
  set_bounds<kNum>(rows, tile_sum);
}

/// A branch that is never taken, since sums of exponentials are not negative, but the compiler does not know: without it, ptxas moves the wait for the product
/// that follows in front of the exponentials, and the two no longer overlap. The vote keeps it uniform in the warp: behind a branch that could diverge,
/// descriptors lose their uniform registers.
__device__ __forceinline__ void keep_before_wait(const float (&sum)[2], float* s_sink) {
  if (__any_sync(0xFFFFFFFF, sum[0] < 0.0f || sum[1] < 0.0f)) {
    *s_sink = sum[0];
    __threadfence_block();
  }
}

/// The lazy step.
template <int kNum>
__device__ __forceinline__ void lazy_step(float (&s)[kNum], RowState& rows, Rescale& rescale, float scale_log2, float* s_sink) {
  float target[2], offset[2], tile_sum[2];
  row_maxima(s, target);
  bool grew = false;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    // An infinite growth (first finite score) is true here; -infinity against -infinity is NaN and false.
    grew = grew || ptx::exp2_approx((target[r] - rows.reference[r]) * scale_log2) > rows.bound[r];
  }
  if (__any_sync(0xFFFFFFFF, grew)) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      target[r] = fmaxf(target[r], rows.reference[r]);
    }
    move_reference(rows, rescale, target, scale_log2);
  }
  guarded_offsets(rows, scale_log2, offset);
  exponentials(s, scale_log2, offset, tile_sum);
  keep_before_wait(tile_sum, s_sink);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    rows.sum[r] += tile_sum[r];
  }
  set_bounds<kNum>(rows, tile_sum);
}

/// Moves the reference of rows with a P above 1 to their maximum, after the exponentials; rows.sum and tile_sum hold the tile already.
template <int kNum>
__device__ __forceinline__ void raise_reference(float (&p)[kNum], RowState& rows, Rescale& rescale, float scale_log2, float (&tile_sum)[2]) {
  float largest[2];
  row_maxima(p, largest);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const float growth = fmaxf(largest[r], 1.0f);
    rescale.factor[r] = __fdividef(1.0f, growth);
    // A copy of the scale that ptxas cannot tell from a computed number: dividing by the scale itself makes nvcc 12.4 load it into an ordinary register in
    // every step of the loop, instead of a uniform one.
    const float divisor = fmaf(growth, 0.0f, scale_log2);
    rows.reference[r] += growth > 1.0f ? __fdividef(__log2f(growth), divisor) : 0.0f;
    rows.sum[r] *= rescale.factor[r];
    tile_sum[r] *= rescale.factor[r];
  }
#pragma unroll
  for (int i = 0; i < kNum; ++i) {
    p[i] *= rescale.factor[fragment_row(i)];
  }
  rescale.needed = true;
}

/// What the optimistic step does with P and its sums: nothing more, or the reference is raised, or exact(p) must take the exact step from S on.
template <int kNum, typename Exact>
__device__ __forceinline__ void settle_tile(float (&p)[kNum], RowState& rows, Rescale& rescale, float scale_log2, float (&tile_sum)[2], const Exact& exact) {
  if (!__all_sync(0xFFFFFFFF, tile_sum[0] <= rows.bound[0] && tile_sum[1] <= rows.bound[1])) {
    if (!__all_sync(0xFFFFFFFF, tile_sum[0] < kLargestTileSum && tile_sum[1] < kLargestTileSum)) {
      exact(p);
      return;
    }
    ++rows.raised;
    rows.sum[0] += tile_sum[0];
    rows.sum[1] += tile_sum[1];
    raise_reference(p, rows, rescale, scale_log2, tile_sum);
  } else {
    rows.sum[0] += tile_sum[0];
    rows.sum[1] += tile_sum[1];
  }
  set_bounds<kNum>(rows, tile_sum);
}

/// kPairsOffsets: the offsets of the two rows are kept in registers of different banks; where variants leave few registers, the constraint can cost more than
/// bad luck.
template <bool kPairsOffsets>
__device__ __forceinline__ void negate_offsets(float (&offset)[2]) {
  if constexpr (kPairsOffsets) {
    ptx::keep_in_register_pair(offset[0], offset[1]);
  }
  offset[0] = -offset[0];
  offset[1] = -offset[1];
}

/// The optimistic step; recompute() must bring S back. A reference of -infinity makes the offset +infinity, so that every P is +infinity or NaN and the checks
/// fail, as they do for NaN scores: such rows take the exact way. The first check's branch keeps the exponentials in front of the wait, as in lazy_step.
template <bool kPairsOffsets = false, int kNum, typename Recompute>
__device__ __forceinline__ void optimistic_step(float (&s)[kNum], RowState& rows, Rescale& rescale, float scale_log2, const Recompute& recompute) {
  float offset[2] = {rows.reference[0] * scale_log2, rows.reference[1] * scale_log2};
  negate_offsets<kPairsOffsets>(offset);
  float tile_sum[2];
  exponentials(s, scale_log2, offset, tile_sum);
  settle_tile(s, rows, rescale, scale_log2, tile_sum, [&](float(&scores)[kNum]) {
    recompute(scores);
    exact_step(scores, rows, rescale, scale_log2);
  });
}

/// row_maxima, or the references, which may not be negative, where those are larger. Bits of floats are in the order of the floats where one of the two is
/// not negative, and compare three at a time.
template <int kNum>
__device__ __forceinline__ void row_maxima_above(const float (&s)[kNum], const float (&reference)[2], float (&maximum)[2]) {
  int bits[2] = {__float_as_int(reference[0]), __float_as_int(reference[1])};
#pragma unroll
  for (int i = 0; i < kNum; i += 2) {
    bits[fragment_row(i)] = ptx::max3(bits[fragment_row(i)], ptx::float_bits(s[i]), ptx::float_bits(s[i + 1]));
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    maximum[r] = __int_as_float(bits[r]);
    maximum[r] = fmaxf(maximum[r], __shfl_xor_sync(0xFFFFFFFF, maximum[r], 1));
    maximum[r] = fmaxf(maximum[r], __shfl_xor_sync(0xFFFFFFFF, maximum[r], 2));
  }
}

/// The following step: the reference is the running maximum. No branch on whether it grew but for O: where logits vary much, it does in most tiles for some row
/// of a warp. recompute: as in optimistic_step, for rows whose scores are not finite.
template <bool kPairsOffsets = false, int kNum, typename Recompute>
__device__ __forceinline__ void following_step(float (&s)[kNum], RowState& rows, Rescale& rescale, float scale_log2, const Recompute& recompute) {
  float target[2], offset[2];
  if (__any_sync(0xFFFFFFFF, rows.reference[0] < 0.0f || rows.reference[1] < 0.0f)) {
    row_maxima(s, target);
  } else {
    row_maxima_above(s, rows.reference, target);
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    target[r] = fmaxf(target[r], rows.reference[r]);
    offset[r] = target[r] * scale_log2;
  }
  negate_offsets<kPairsOffsets>(offset);
  float tile_sum[2];
  exponentials(s, scale_log2, offset, tile_sum);
  if (!__all_sync(0xFFFFFFFF, tile_sum[0] < kMaxTileSum && tile_sum[1] < kMaxTileSum)) {
    recompute(s);
    exact_step(s, rows, rescale, scale_log2);
    return;
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    rescale.factor[r] = ptx::exp2_approx((rows.reference[r] - target[r]) * scale_log2);
    rows.reference[r] = target[r];
    rows.sum[r] = fmaf(rows.sum[r], rescale.factor[r], tile_sum[r]);
  }
  rescale.needed = __any_sync(0xFFFFFFFF, rescale.factor[0] != 1.0f || rescale.factor[1] != 1.0f);
  set_bounds<kNum>(rows, tile_sum);
}

/// O cleared by moves: a first product that overwrites O would save them, but made ptxas serialise every wgmma (C7515) in some forms of the consumer.
template <int kNum>
__device__ __forceinline__ void clear(float (&o)[kNum]) {
#pragma unroll
  for (int i = 0; i < kNum; ++i) {
    o[i] = 0.0f;
  }
}

template <int kNum>
__device__ __forceinline__ void rescale_output(float (&o)[kNum], const Rescale& rescale) {
  if (rescale.needed) {
#pragma unroll
    for (int i = 0; i < kNum; ++i) {
      o[i] *= rescale.factor[fragment_row(i)];
    }
  }
}

/// P, rounded to the element type, as the A operand of the second product.
template <typename Element, int kNum>
__device__ __forceinline__ void to_operand(uint32_t (&p)[kNum], const float (&s)[2 * kNum]) {
#pragma unroll
  for (int i = 0; i < kNum; ++i) {
    p[i] = ptx::pack2<Element>(s[2 * i], s[2 * i + 1]);
  }
}

}  // namespace fa::sm90
