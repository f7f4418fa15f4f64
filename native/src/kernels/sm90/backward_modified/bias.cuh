// A 16-bit bias in the Hopper backward kernel. Its tile comes into the memory that dS takes a moment later: both have a row per query and a panel of 64 keys
// per warpgroup, and the matrices that a warp reads by ldmatrix are those that it writes by stmatrix. So a bias needs no room, and no barrier beyond those of
// q.
#pragma once

#include <cmath>
#include <type_traits>

#include "kernels/sm90/backward/pairs.cuh"
#include "kernels/sm90/backward_modified/scores.cuh"
#include "ptx/ldmatrix.cuh"
#include "tile/wgmma_descriptor.cuh"

namespace fa::sm90 {

template <typename Element>
__device__ __forceinline__ float2 unpack_pair(uint32_t word) {
  if constexpr (std::is_same_v<Element, __half>) {
    return __half22float2(*reinterpret_cast<const __half2*>(&word));
  } else {
    return make_float2(__uint_as_float(word << 16), __uint_as_float(word & 0xFFFF0000u));
  }
}

/// The bias of a thread's elements of 16 queries, 16 slice …, in the order of an A operand: two queries of one key per word. s_lane: the lane's row of
/// ldmatrix.
__device__ __forceinline__ void load_bias(uint32_t (&words)[4], uint32_t s_lane, int slice) {
  ptx::ldmatrix_x4_trans(words, s_lane + slice * 16 * tile::kPanelRowBytes);
}

/// weigh_scores with a bias, of 16 queries. A bias of -infinity makes P 0, except beside a score of NaN or infinity: then grad_v is repaired.
template <typename Element, bool kMasked, int kNum>
__device__ __forceinline__ void weigh_biased_scores(float (&s)[kNum], uint32_t (&p_operand)[kNum / 2], const uint32_t (&bias)[4], int slice,
                                                    const float* s_shift, const StepScores& step) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int j = 2 * slice + i / 2, r = i % 2;
    const float2 shifts = *reinterpret_cast<const float2*>(s_shift + 8 * j), added = unpack_pair<Element>(bias[i]);
    float* w = s + 4 * j + 2 * r;
    w[0] = ptx::exp2_approx(fmaf(w[0], step.scale_log2, fmaf(added.x, kScoreLog2E, -shifts.x)));
    w[1] = ptx::exp2_approx(fmaf(w[1], step.scale_log2, fmaf(added.y, kScoreLog2E, -shifts.y)));
    if constexpr (kMasked) {
      w[0] = bit_of(step.visible[r], 2 * j) ? w[0] : 0.0f;
      w[1] = bit_of(step.visible[r], 2 * j + 1) ? w[1] : 0.0f;
    }
    p_operand[2 * j + r] = ptx::pack2<Element>(w[0], w[1]);
  }
}

/// Sets dS to 0 where the bias hides a pair: P is 0 there, but dP may be NaN, which would reach grad_q of the row and the gradient of the bias. Loads the bias
/// again, since registers are dear.
template <typename Element, int kWords>
__device__ __forceinline__ void clear_hidden(uint32_t (&ds_operand)[kWords], uint32_t s_lane) {
  using Pair = typename PairOf<Element>::Type;
  const Pair hiding = pair_of<Element>(-INFINITY);
#pragma unroll
  for (int k = 0; k < kWords / 4; ++k) {
    uint32_t bias[4];
    load_bias(bias, s_lane, k);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      ds_operand[4 * k + i] &= __hneu2_mask(*reinterpret_cast<const Pair*>(&bias[i]), hiding);
    }
  }
}

}  // namespace fa::sm90
