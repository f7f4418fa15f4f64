// What happens to the accumulators of S^T and dP^T between the products: rows are keys, columns are queries. Element 4j + 2r + e of a thread is key r (of its
// two, eight apart) and query 8j + e from the thread's first column.
#pragma once

#include <cstdint>

#include "ptx/exp2.cuh"
#include "ptx/mma_sync.cuh"

namespace fa::sm90 {

/// Zero where the query does not see the key. first_row: first query that sees each of the thread's keys, less the thread's first column.
template <int kNum>
__device__ __forceinline__ void hide_scores(float (&s)[kNum], const int (&first_row)[2], int first_query) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int first_column = first_row[r] - first_query;
#pragma unroll
    for (int j = 0; j < kNum / 4; ++j) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        float& element = s[4 * j + 2 * r + e];
        element = 8 * j + e < first_column ? 0.0f : element;
      }
    }
  }
}

/// kNum / 4 pairs of a row of log-sum-exp or delta, for columns 8j and 8j + 1 from the thread's first.
template <int kNum>
__device__ __forceinline__ void load_pairs(float2 (&pairs)[kNum], const float* s_row) {
#pragma unroll
  for (int j = 0; j < kNum; ++j) {
    pairs[j] = *reinterpret_cast<const float2*>(s_row + 8 * j);
  }
}

/// S -> P = exp(scale S - lse) of the scores from kBegin that lse has pairs for.
template <int kBegin, int kPairs, int kNum>
__device__ __forceinline__ void exponentiate_scores(float (&s)[kNum], const float2 (&lse)[kPairs], float scale_log2) {
#pragma unroll
  for (int j = 0; j < kPairs; ++j) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float& x = s[kBegin + 4 * j + i];
      x = ptx::exp2_approx(fmaf(x, scale_log2, i % 2 ? -lse[j].x : -lse[j].y));
    }
  }
}

/// dP -> dS = P (dP - delta) of the scores from kBegin that delta has pairs for.
template <int kBegin, int kPairs, int kNum>
__device__ __forceinline__ void differentiate_scores(float (&dp)[kNum], const float (&p)[kNum], const float2 (&delta)[kPairs]) {
#pragma unroll
  for (int j = 0; j < kPairs; ++j) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int n = kBegin + 4 * j + i;
      dp[n] = p[n] * (dp[n] - (i % 2 ? delta[j].x : delta[j].y));
    }
  }
}

/// S -> P = exp(scale S - lse) of the scores kBegin … kEnd, or all. s_lse: of the thread's first pair of columns, in the order of statistics_row.
template <int kBegin = 0, int kEnd = -1, int kNum>
__device__ __forceinline__ void exponentiate_scores(float (&s)[kNum], const float* s_lse, float scale_log2) {
#pragma unroll
  for (int j = kBegin / 4; j < (kEnd < 0 ? kNum : kEnd) / 4; ++j) {
    const float2 lse = *reinterpret_cast<const float2*>(s_lse + 8 * j);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      s[4 * j + i] = ptx::exp2_approx(fmaf(s[4 * j + i], scale_log2, i % 2 ? -lse.x : -lse.y));
    }
  }
}

/// dP -> dS = P (dP - delta), without the factor scale. s_delta: as s_lse.
template <int kBegin = 0, int kEnd = -1, int kNum>
__device__ __forceinline__ void differentiate_scores(float (&dp)[kNum], const float (&p)[kNum], const float* s_delta) {
#pragma unroll
  for (int j = kBegin / 4; j < (kEnd < 0 ? kNum : kEnd) / 4; ++j) {
    const float2 delta = *reinterpret_cast<const float2*>(s_delta + 8 * j);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      dp[4 * j + i] = p[4 * j + i] * (dp[4 * j + i] - (i % 2 ? delta.x : delta.y));
    }
  }
}

/// Rounds, as A operand: two neighbouring groups of eight queries are a k-step.
template <typename Element, int kNum>
__device__ __forceinline__ void round_to_operand(uint32_t (&operand)[kNum / 2], const float (&s)[kNum]) {
#pragma unroll
  for (int i = 0; i < kNum / 2; ++i) {
    operand[i] = ptx::pack2<Element>(s[2 * i], s[2 * i + 1]);
  }
}

}  // namespace fa::sm90
