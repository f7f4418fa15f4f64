// Online softmax (Milakov & Gimelshein 2018) on the accumulators of mma.sync, in base 2.
#pragma once

#include <cmath>

#include "ptx/exp2.cuh"
#include "ptx/likely.h"
#include "tile/warp_product.cuh"

namespace fa {

/// State of the rows that a thread shares with the other three lanes of its quad: row block m holds rows 2m (lane / 4) and 2m+1 (lane / 4 + 8).
///
/// A row's reference is what its scores are shifted by before they are exponentiated. It need not be the row's maximum, only near it: it follows the maximum
/// when that has grown by more than kSlackLog2, which spares most tiles the rescaling of O (as FlashAttention-4 does). Probabilities stay below 2^8, far
/// inside fp16, and the final division makes the choice of reference immaterial.
template <int kM>
struct OnlineSoftmax {
  static constexpr int kRows = 2 * kM;
  static constexpr float kSlackLog2 = 8.0f;

  float reference[kRows];  ///< in units of q*k, before scaling; -inf until the row has seen a key
  float sum[kRows];        ///< this thread's part of the sum of exp2((s - reference) * scale_log2)

  __device__ __forceinline__ void reset() {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      reference[r] = -INFINITY;
      sum[r] = 0.0f;
    }
  }

  /// Maxima of the rows of a tile of scores, masked ones being -inf, in every lane of the quad. Warp-wide.
  template <int kN>
  __device__ __forceinline__ void find_tops(float (&top)[kRows], const Accumulators<kM, kN>& s) const {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int m = r / 2, half = r % 2 * 2;
      top[r] = fmaxf(s[m][0][half], s[m][0][half + 1]);
#pragma unroll
      for (int n = 1; n < kN; ++n) top[r] = fmaxf(top[r], fmaxf(s[m][n][half], s[m][n][half + 1]));
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      top[r] = fmaxf(top[r], __shfl_xor_sync(0xffffffffu, top[r], 1));
      top[r] = fmaxf(top[r], __shfl_xor_sync(0xffffffffu, top[r], 2));
    }
  }

  /// Whether the reference of one of the thread's rows must follow. NaN scores do not move it: they become NaN probabilities.
  __device__ __forceinline__ bool is_outgrown(const float (&top)[kRows], float scale_log2) const {
    bool grows = false;
#pragma unroll
    for (int r = 0; r < kRows; ++r) grows |= (top[r] - reference[r]) * scale_log2 > kSlackLog2;
    return grows;
  }

  /// References follow the maxima; o and the sums are rescaled.
  template <int kOutN>
  __device__ __forceinline__ void follow(const float (&top)[kRows], Accumulators<kM, kOutN>& o, float scale_log2) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int m = r / 2, half = r % 2 * 2;
      const float raised = fmaxf(reference[r], top[r]);
      // A row without a reference has nothing to rescale yet (and -inf - -inf would be NaN).
      const float factor = reference[r] == -INFINITY ? 1.0f : ptx::exp2_approx((reference[r] - raised) * scale_log2);
      reference[r] = raised;
      sum[r] *= factor;
#pragma unroll
      for (int n = 0; n < kOutN; ++n) {
        o[m][n][half] *= factor;
        o[m][n][half + 1] *= factor;
      }
    }
  }

  /// Takes in a tile of scores: the three steps above, where a row's scores are all within a warp. Warp-wide.
  template <int kN, int kOutN>
  __device__ __forceinline__ void raise_reference(const Accumulators<kM, kN>& s, Accumulators<kM, kOutN>& o, float scale_log2) {
    float top[kRows];
    find_tops(top, s);
    if (FA_LIKELY(!__any_sync(0xffffffffu, is_outgrown(top, scale_log2)))) return;
    follow(top, o, scale_log2);
  }

  /// What to add to scale_log2 * s before exp2. Rows that have seen no key yet have only scores of -inf, for which 0 does.
  __device__ __forceinline__ float shift(int r, float scale_log2) const {
    return reference[r] == -INFINITY ? 0.0f : -reference[r] * scale_log2;
  }

  /// Turns columns 16 k … 16 k + 15 of the scores into probabilities and adds them to the sums.
  template <int kN>
  __device__ __forceinline__ void exponentiate(Accumulators<kM, kN>& s, int k, const float (&shifts)[kRows], float scale_log2) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int m = r / 2, half = r % 2 * 2;
#pragma unroll
      for (int n = 2 * k; n < 2 * k + 2; ++n) {
        s[m][n][half] = ptx::exp2_approx(fmaf(s[m][n][half], scale_log2, shifts[r]));
        s[m][n][half + 1] = ptx::exp2_approx(fmaf(s[m][n][half + 1], scale_log2, shifts[r]));
        sum[r] += s[m][n][half] + s[m][n][half + 1];
      }
    }
  }

  /// The row's whole sum, in every lane of the quad. Warp-wide.
  __device__ __forceinline__ float total(int r) const {
    float total = sum[r];
    total += __shfl_xor_sync(0xffffffffu, total, 1);
    total += __shfl_xor_sync(0xffffffffu, total, 2);
    return total;
  }
};

}  // namespace fa
