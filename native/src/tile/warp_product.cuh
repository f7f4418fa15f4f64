// The inner loops of a warp's matrix product on mma.sync fragments.
#pragma once

#include "ptx/mma_sync.cuh"

namespace fa {

/// Accumulators of a (16 kM) x (8 kN) block held by one warp; fragment layout C of ptx/mma_sync.cuh.
template <int kM, int kN>
using Accumulators = float[kM][kN][4];

template <int kM, int kN>
__device__ __forceinline__ void clear(Accumulators<kM, kN>& c) {
#pragma unroll
  for (int m = 0; m < kM; ++m) {
#pragma unroll
    for (int n = 0; n < kN; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) c[m][n][i] = 0.0f;
    }
  }
}

template <class C>
struct ProductShape;
template <int kM_, int kN_>
struct ProductShape<float (&)[kM_][kN_][4]> {
  static constexpr int kM = kM_, kN = kN_;
  static_assert(kN % 2 == 0, "B fragments come in pairs");
};

/// Other work to be done between the instructions of a product: nothing.
struct NothingBetween {
  __device__ __forceinline__ void operator()(int) const {}
};

/// Products over kSteps steps of 16 in k, of one or several pairs of matrices one after the other: of(k) += a(k) b(k), where of(k) is the accumulator that step
/// k adds to. load_a(fragment, m, k) brings the A fragment of row block m, load_b(fragment, pair, k) the B fragments of columns 16 pair … 16 pair + 15.
///
/// A group is the 2 kM instructions that a pair of B fragments feeds. Fragments are loaded kAhead groups before their products, since the compiler leaves them
/// in this order: with 0 every group would wait for its ldmatrix (about 30 clocks, as long as the group itself). between(k) is called after the products of
/// each step; what stands there (exponentials) runs while the tensor cores work.
template <class Element, int kSteps, int kAhead, class Of, class LoadA, class LoadB, class Between = NothingBetween>
__device__ __forceinline__ void multiply(Of&& of, LoadA&& load_a, LoadB&& load_b, Between&& between = {}) {
  using Shape = ProductShape<decltype(of(0))>;
  constexpr int kPairs = Shape::kN / 2;
  constexpr int kGroups = kSteps * kPairs;
  constexpr int kBuffersA = (kAhead + kPairs - 1) / kPairs + 1;
  constexpr int kBuffersB = kAhead + 1;
  uint32_t a[kBuffersA][Shape::kM][4];
  uint32_t b[kBuffersB][4];
#pragma unroll
  for (int group = -kAhead; group < kGroups; ++group) {
    const int ahead = group + kAhead;
    if (ahead < kGroups) {
      const int k = ahead / kPairs;
      if (ahead % kPairs == 0) {
#pragma unroll
        for (int m = 0; m < Shape::kM; ++m) load_a(a[k % kBuffersA][m], m, k);
      }
      load_b(b[ahead % kBuffersB], ahead % kPairs, k);
    }
    if (group >= 0) {
      const int k = group / kPairs, pair = group % kPairs;
      const uint32_t(&b_now)[4] = b[group % kBuffersB];
#pragma unroll
      for (int m = 0; m < Shape::kM; ++m) {
        ptx::mma_m16n8k16<Element>(of(k)[m][2 * pair], a[k % kBuffersA][m], b_now[0], b_now[1]);
        ptx::mma_m16n8k16<Element>(of(k)[m][2 * pair + 1], a[k % kBuffersA][m], b_now[2], b_now[3]);
      }
      if (pair == kPairs - 1) between(k);
    }
  }
}

/// Rounds accumulator columns 16 k … 16 k + 15 of row block m to 16 bits: the A fragment of step k of a following product.
template <class Element, int kM, int kN>
__device__ __forceinline__ void round_to_a(uint32_t (&a)[4], const Accumulators<kM, kN>& c, int m, int k) {
  a[0] = ptx::pack2<Element>(c[m][2 * k][0], c[m][2 * k][1]);
  a[1] = ptx::pack2<Element>(c[m][2 * k][2], c[m][2 * k][3]);
  a[2] = ptx::pack2<Element>(c[m][2 * k + 1][0], c[m][2 * k + 1][1]);
  a[3] = ptx::pack2<Element>(c[m][2 * k + 1][2], c[m][2 * k + 1][3]);
}

}  // namespace fa
