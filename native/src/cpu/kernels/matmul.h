// The register-blocked matrix product that all five products of attention use: C (rows x lanes) = start + A B, with A read by broadcast and B by whole vectors.
// Every element of C is one chain of fused multiply-adds in the order of the inner index, whatever the blocking, so that results do not depend on tile sizes.
#pragma once

#include "cpu/kernels/vec.h"

namespace fa::cpu::FA_CPU_TARGET {

/// What the sum starts from: zero, what C holds, or what C holds times a factor per lane.
enum class Start { kZero, kC, kScaledC };
/// Where A(row, p) lies: a[row * stride + p], or transposed, a[p * stride + row].
enum class ALayout { kRowMajor, kTransposed };

struct MatMul {
  const float* a;
  int64_t a_stride;
  const float* b;  ///< row p at b + p * b_stride
  int64_t b_stride;
  float* c;  ///< row r at c + r * c_stride
  int64_t c_stride;
  int depth;
  const float* lane_factor;  ///< for Start::kScaledC: one per lane of C
};

/// One block of kRows x kVecs vectors of C held in registers.
template <int kRows, int kVecs, Start kStart, ALayout kLayout>
FA_INLINE void block(const MatMul& m, int row) {
  Vec sum[kRows][kVecs];
  float* const c = m.c + row * m.c_stride;
  for (int v = 0; v < kVecs; ++v) {
    Vec factor = zero();
    if constexpr (kStart == Start::kScaledC) factor = load(m.lane_factor + v * kLanes);
    for (int r = 0; r < kRows; ++r) {
      if constexpr (kStart == Start::kZero) sum[r][v] = zero();
      if constexpr (kStart == Start::kC) sum[r][v] = load(c + r * m.c_stride + v * kLanes);
      if constexpr (kStart == Start::kScaledC) sum[r][v] = mul(load(c + r * m.c_stride + v * kLanes), factor);
    }
  }
  const int64_t row_step = kLayout == ALayout::kRowMajor ? m.a_stride : 1;
  const int64_t depth_step = kLayout == ALayout::kRowMajor ? 1 : m.a_stride;
  const float* a = m.a + row * row_step;
  const float* b = m.b;
  // Fewer instructions per multiply-add: what counts where another hardware thread shares the core.
  FA_UNROLL_2
  for (int p = 0; p < m.depth; ++p) {
    Vec b_vec[kVecs];
    for (int v = 0; v < kVecs; ++v) b_vec[v] = load(b + v * kLanes);
    for (int r = 0; r < kRows; ++r) {
      const Vec a_vec = set1(a[r * row_step]);
      for (int v = 0; v < kVecs; ++v) sum[r][v] = fma(a_vec, b_vec[v], sum[r][v]);
    }
    a += depth_step;
    b += m.b_stride;
  }
  for (int r = 0; r < kRows; ++r)
    for (int v = 0; v < kVecs; ++v) store(c + r * m.c_stride + v * kLanes, sum[r][v]);
}

/// A block of `rows` rows, 1 to kRows.
template <int kRows, int kVecs, Start kStart, ALayout kLayout>
FA_INLINE void block_of(const MatMul& m, int row, int rows) {
  if constexpr (kRows > 0) {
    if (rows == kRows) {
      block<kRows, kVecs, kStart, kLayout>(m, row);
    } else {
      block_of<kRows - 1, kVecs, kStart, kLayout>(m, row, rows);
    }
  }
}

/// C has `rows` rows of kVecs vectors. What does not divide into full blocks is split evenly with the last of them: 8 rows as 4 + 4 rather than 6 + 2, since a
/// block of 2 rows has too few chains to fill the pipes and takes as long as one of 4.
template <int kVecs, Start kStart, ALayout kLayout>
void matmul(const MatMul& m, int rows) {
  for (int row = 0; row < rows;) {
    const int left = rows - row;
    const int next = left >= 2 * kBlockRows ? kBlockRows : left > kBlockRows ? (left + 1) / 2 : left;
    block_of<kBlockRows, kVecs, kStart, kLayout>(m, row, next);
    row += next;
  }
}

}  // namespace fa::cpu::FA_CPU_TARGET
