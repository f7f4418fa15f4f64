// What happens to the accumulators of S^T and dP^T between the products: rows are keys, columns are queries. Element 4j + 2r + e of a thread is key r (of its
// two, eight apart) and query 8j + e from the thread's first column.
//
// A policy takes what it can out of the inner loop: prepare adds to a row's shift what all its scores have in common (shift_of), the consumer computes what all
// scores of a key and a step have in common (KeyTerms), and what is left per pair is at most a few operations.
#pragma once

#include <cstdint>

#include "attention/hopper_scores.cuh"
#include "ptx/exp2.cuh"
#include "ptx/mma_sync.cuh"
#include "ptx/wgmma.cuh"

namespace fa::sm90 {

/// What prepare adds to a row's log-sum-exp in base 2. kAlibi: distance = row + offset - key, of which the row's place in its tile goes here. kSoftcap: with
/// t = tanh(x) = 1 - 2r, r = 1 / (1 + exp(2x)), the score is softcap - 2 softcap r.
__device__ __forceinline__ float shift_beyond_lse(const ScoreParams& params, float slope_log2, int row_in_tile) {
  return fmaf(slope_log2, static_cast<float>(row_in_tile), -params.softcap_log2);
}

/// Which elements of a thread's key are visible, bit 2j + e: those whose column, relative to the thread's first, lies in [begin, end).
template <int kBits>
__device__ __forceinline__ uint32_t column_bits(int begin, int end) {
  static_assert(kBits == 16 || kBits == 32);
  const auto below = [](int column) {
    const int count = max(0, min(column / 8 * 2 + min(column % 8, 2), kBits));
    return count >= 32 ? 0xFFFFFFFFu : (1u << count) - 1u;
  };
  return below(max(end, 0)) & ~below(max(begin, 0));
}

__device__ __forceinline__ bool bit_of(uint32_t bits, int i) {
  return (bits >> i & 1u) != 0;
}

/// A step's constants.
struct StepScores {
  float scale_log2;
  float softcap_factor;  ///< kSoftcap: 2 scale / softcap * log2(e)
  float softcap_log2;    ///< kSoftcap
  float slope_log2;      ///< kAlibi
  float distance;        ///< kAlibi: from the thread's first key to the position of the step's first row
  uint32_t visible[2];   ///< if masked: column_bits of key r
};

/// Of two neighbouring rows, whose scores lie in registers of opposite parity as a pair of loaded values does, the values come in the other order: so an
/// instruction does not read two registers of one bank.
template <class Policy>
inline constexpr bool kSwapsRows = Policy::kMask;

/// Shift or delta of the thread's columns, two neighbours at a time. kHeld: from load on in registers; else read where they are used.
template <bool kHeld, int kNum>
class ColumnStatistics {
 public:
  /// s_values: in shared memory, of the thread's first column.
  __device__ __forceinline__ void load(const float* s_values) {
    if constexpr (kHeld) {
#pragma unroll
      for (int j = 0; j < kNum; ++j) {
        pairs_[j] = *reinterpret_cast<const float2*>(s_values + 8 * j);
      }
    } else {
      s_values_ = s_values;
    }
  }
  __device__ __forceinline__ float2 pair(int j) const {
    if constexpr (kHeld) {
      return pairs_[j];
    } else {
      return *reinterpret_cast<const float2*>(s_values_ + 8 * j);
    }
  }

 private:
  float2 pairs_[kHeld ? kNum : 1];
  const float* s_values_;
};

/// S -> w, what dP - delta is multiplied by, in place, and p, both 0 where hidden; of elements 4j … 4j + 3.
template <class Policy, bool kMasked, int kNum, class Statistics>
__device__ __forceinline__ void weigh_scores(float (&s)[kNum], float (&p)[4], int j, const Statistics& shift, const StepScores& step) {
  const float2 shifts = shift.pair(j);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int r = i / 2, e = i % 2;
    const float row_shift = (e != 0) != kSwapsRows<Policy> ? shifts.y : shifts.x;
    float& w = s[4 * j + i];
    if constexpr (Policy::kSoftcap) {
      // q = 4r: the derivative of the capped score is 1 - t^2 = 4r (1 - r) = q - q^2 / 4.
      const float q = ptx::reciprocal_approx(fmaf(ptx::exp2_approx(w * step.softcap_factor), 0.25f, 0.25f));
      p[i] = ptx::exp2_approx(fmaf(q, -0.5f * step.softcap_log2, -row_shift));
      w = p[i] * fmaf(-0.25f * q, q, q);
    } else if constexpr (Policy::kAlibi && kMasked) {
      const float column = static_cast<float>(8 * j + e + threadIdx.x % 4 * 2);
      const float shift_in_tile = fmaf(-step.slope_log2, column, row_shift);
      w = p[i] = ptx::exp2_approx(fmaf(w, step.scale_log2, fmaf(-step.slope_log2, fabsf(step.distance - 8.0f * r + column), -shift_in_tile)));
    } else if constexpr (Policy::kAlibi) {
      w = p[i] = ptx::exp2_approx(fmaf(w, step.scale_log2, -step.slope_log2 * (step.distance - 8.0f * r) - row_shift));
    } else {
      w = p[i] = ptx::exp2_approx(fmaf(w, step.scale_log2, -row_shift));
    }
    if constexpr (kMasked) {
      const bool visible = bit_of(step.visible[r], 2 * j + e);
      p[i] = visible ? p[i] : 0.0f;
      w = visible ? w : 0.0f;
    }
  }
}

/// What the product S^T = K Q^T of a whole step begins with, so that the slope costs nothing behind it: minus slope times the distance from the key to the
/// position of the step's first row, in units of what the scores are multiplied by. The row's part is in its shift.
template <int kNum>
__device__ __forceinline__ void begin_scores(float (&s)[kNum], float slope_raw, float distance) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const float begin = -slope_raw * (distance - 8.0f * r);
#pragma unroll
    for (int j = 0; j < kNum / 4; ++j) {
      s[4 * j + 2 * r] = s[4 * j + 2 * r + 1] = begin;
    }
  }
  ptx::pin_registers(s);
}

/// What the next step's S^T begins with, from step to step; policies that begin with nothing carry nothing.
template <int kNum>
struct CarriedScores {
  float s[kNum];
};
struct NoScores {};
template <int kNum>
__device__ __forceinline__ float (&scores_of(CarriedScores<kNum>& next, float (&)[kNum]))[kNum] {
  return next.s;
}
template <int kNum>
__device__ __forceinline__ float (&scores_of(NoScores&, float (&own)[kNum]))[kNum] {
  return own;
}

/// All elements: w in place of s, p rounded to the A operand of grad_v.
template <typename Element, class Policy, bool kMasked, int kNum, class Statistics>
__device__ __forceinline__ void weigh_scores(float (&s)[kNum], uint32_t (&p_operand)[kNum / 2], const Statistics& shift, const StepScores& step) {
#pragma unroll
  for (int j = 0; j < kNum / 4; ++j) {
    float p[4];
    weigh_scores<Policy, kMasked>(s, p, j, shift, step);
    p_operand[2 * j] = ptx::pack2<Element>(p[0], p[1]);
    p_operand[2 * j + 1] = ptx::pack2<Element>(p[2], p[3]);
  }
}

/// dP -> dS = w (dP - delta), rounded to the A operand of grad_k, without the factor scale.
template <typename Element, bool kMasked, bool kSwapped = false, int kNum, class Statistics>
__device__ __forceinline__ void differentiate_scores(uint32_t (&ds_operand)[kNum / 2], const float (&dp)[kNum], const float (&w)[kNum], const Statistics& delta,
                                                     const StepScores& step) {
#pragma unroll
  for (int j = 0; j < kNum / 4; ++j) {
    const float2 deltas = delta.pair(j);
    float ds[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int r = i / 2, e = i % 2;
      ds[i] = w[4 * j + i] * (dp[4 * j + i] - ((e != 0) != kSwapped ? deltas.y : deltas.x));
      if constexpr (kMasked) {
        ds[i] = bit_of(step.visible[r], 2 * j + e) ? ds[i] : 0.0f;  // w is 0, but dP may be NaN
      }
    }
    ds_operand[2 * j] = ptx::pack2<Element>(ds[0], ds[1]);
    ds_operand[2 * j + 1] = ptx::pack2<Element>(ds[2], ds[3]);
  }
}

}  // namespace fa::sm90
