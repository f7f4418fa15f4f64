// Online softmax of a 64-row warpgroup tile, on wgmma's accumulator fragment: a thread holds two rows, four neighbouring lanes share them.
//
// P = exp2(scale_log2 * S - scale_log2 * reference). The reference of a row need not be the exact running maximum, it only has to keep P in the range of the
// element type and the sums in fp32: a common factor of P, the row sum and O cancels in O / sum. Three ways to move it:
//  - exact: to the maximum, whenever it grows. Every first and every masked tile.
//  - lazy: to the maximum, when it grew by more than 2^8.
//  - optimistic: not at all, without even looking for a maximum. Each thread's partial row sum, needed anyway, shows afterwards whether a P grew too large;
//  then
//    the tile is repeated the exact way.
#pragma once

#include <cfloat>
#include <cmath>

#include "kernels/sm90/forward/params.h"
#include "ptx/exp2.cuh"

namespace fa::sm90 {

inline constexpr float kMinusInfinity = -INFINITY;

/// State of the thread's two rows.
struct RowState {
  float reference[2] = {kMinusInfinity, kMinusInfinity};  ///< in units of S
  float sum[2] = {0.0f, 0.0f};                            ///< this thread's columns only, relative to the reference
};

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
__device__ __forceinline__ void lazy_step(float (&s)[kNum], RowState& rows, Rescale& rescale, float scale_log2, float threshold_log2, float* s_sink) {
  float target[2], offset[2], tile_sum[2];
  row_maxima(s, target);
  // An infinite growth (first finite score) is true here; -infinity against -infinity is NaN and false.
  const bool grew = (target[0] - rows.reference[0]) * scale_log2 > threshold_log2 || (target[1] - rows.reference[1]) * scale_log2 > threshold_log2;
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
}

/// The optimistic step; recompute() must bring S back. A reference of -infinity makes the offset +infinity, so that every P is +infinity or NaN and the check
/// fails, as it does for NaN scores: such rows take the exact way. The check's branch keeps the exponentials in front of the wait, as in lazy_step.
template <int kNum, typename Recompute>
__device__ __forceinline__ void optimistic_step(float (&s)[kNum], RowState& rows, Rescale& rescale, float scale_log2, float max_tile_sum,
                                                const Recompute& recompute) {
  const float offset[2] = {-rows.reference[0] * scale_log2, -rows.reference[1] * scale_log2};
  float tile_sum[2];
  exponentials(s, scale_log2, offset, tile_sum);
  const bool in_range = tile_sum[0] < max_tile_sum && tile_sum[1] < max_tile_sum;
  if (__all_sync(0xFFFFFFFF, in_range)) {
    rows.sum[0] += tile_sum[0];
    rows.sum[1] += tile_sum[1];
  } else {
    recompute(s);
    exact_step(s, rows, rescale, scale_log2);
  }
}

}  // namespace fa::sm90
