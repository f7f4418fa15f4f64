// What a Hopper kernel does to scores beyond scale and causal mask: a compile-time set of variants (plan/sm90_scores.h), a template parameter of the kernels'
// configurations. The empty set is the plain kernel and compiles to nothing.
//
// Arguments travel as ScoreParams (attention/score_params.h). Modified scores are in base 2: log2(e) times the natural score.
#pragma once

#include <cmath>
#include <cstdint>

#include "attention/score_params.h"
#include "plan/sm90_scores.h"
#include "ptx/exp2.cuh"
#include "ptx/reciprocal.cuh"

namespace fa {

template <uint32_t kVariants_>
struct HopperScores {
  static constexpr uint32_t kVariants = kVariants_;
  /// Anything at all: key tiles then have two ends, and ScoreParams is there.
  static constexpr bool kModified = kVariants != 0;
  /// A bias, always on, alone.
  static constexpr bool kBias =
      (kVariants & (kVariantBias | kVariantVisible | kVariantBlockMask | kVariantDropout | kVariantAlibi | kVariantSoftcap)) == kVariantBias;
  /// Boolean and block mask, one of them always on, beside nothing that changes scores.
  static constexpr bool kMask = (kVariants & (kVariantVisible | kVariantBlockMask)) != 0 &&
                                (kVariants & (kVariantBias | kVariantDropout | kVariantAlibi | kVariantSoftcap | kVariantSequences)) == 0;
  /// Functions of single pairs (bias, boolean and block mask, dropout) beside the others: no Hopper kernel is compiled for them.
  static constexpr bool kPairs = !kBias && !kMask && (kVariants & (kVariantBias | kVariantVisible | kVariantBlockMask | kVariantDropout)) != 0;
  /// ALiBi or softcap, always on, alone.
  static constexpr bool kAlibi = !kPairs && (kVariants & kVariantAlibi) != 0;
  static constexpr bool kSoftcap = !kPairs && (kVariants & kVariantSoftcap) != 0;
  /// Scores themselves change, not only which are seen.
  static constexpr bool kChangesScores = kPairs || kBias || kAlibi || kSoftcap;
};

using PlainHopperScores = HopperScores<0>;

/// 1 / (1 + exp(2 scale x / softcap)), from which tanh(scale x / softcap) = 1 - 2 times it: absolute error of the tanh about 2^-22, exact at both ends, where
/// the exponential is 0 or infinite. NaN stays NaN.
__device__ __forceinline__ float softcap_complement(float x, float twice_inverse_softcap_log2) {
  return ptx::reciprocal_approx(1.0f + ptx::exp2_approx(x * twice_inverse_softcap_log2));
}

/// The capped score in base 2.
__device__ __forceinline__ float softcap_score(const ScoreParams& params, float x) {
  return fmaf(softcap_complement(x, params.twice_inverse_softcap_log2), -2.0f * params.softcap_log2, params.softcap_log2);
}

/// ALiBi slope of a head in base 2; 0 if the call has none.
__device__ __forceinline__ float alibi_slope_log2(const ScoreParams& params, int batch, int head) {
  return params.alibi_slopes != nullptr ? params.alibi_slopes[batch * params.alibi_batch_stride + head] * kScoreLog2E : 0.0f;
}

}  // namespace fa
