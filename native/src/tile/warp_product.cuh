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

/// Other work to be done between the instructions of a product: nothing.
struct NothingBetween {
  __device__ __forceinline__ void operator()(int) const {}
};

/// c += a b for one step of 16 in k. load_b(fragment, pair) brings the B fragments of columns 16 pair … 16 pair + 15.
template <class Element, int kM, int kN, class LoadB>
__device__ __forceinline__ void multiply_step(Accumulators<kM, kN>& c, const uint32_t (&a)[kM][4], LoadB&& load_b) {
  static_assert(kN % 2 == 0, "B fragments come in pairs");
#pragma unroll
  for (int pair = 0; pair < kN / 2; ++pair) {
    uint32_t b[4];
    load_b(b, pair);
#pragma unroll
    for (int m = 0; m < kM; ++m) {
      ptx::mma_m16n8k16<Element>(c[m][2 * pair], a[m], b[0], b[1]);
      ptx::mma_m16n8k16<Element>(c[m][2 * pair + 1], a[m], b[2], b[3]);
    }
  }
}

/// c += a b over kK steps of 16. load_a(fragment, m, k) brings an A fragment, load_b(fragment, pair, k) those of 16 columns of B; between(k) is called after
/// the products of each step were issued: independent work put there (exponentials) runs while the tensor cores work; by itself the compiler leaves it in one
/// piece.
template <class Element, int kK, int kM, int kN, class LoadA, class LoadB, class Between = NothingBetween>
__device__ __forceinline__ void multiply(Accumulators<kM, kN>& c, LoadA&& load_a, LoadB&& load_b, Between&& between = {}) {
#pragma unroll
  for (int k = 0; k < kK; ++k) {
    uint32_t a[kM][4];
#pragma unroll
    for (int m = 0; m < kM; ++m) load_a(a[m], m, k);
    multiply_step<Element>(c, a, [&](uint32_t(&b)[4], int pair) { load_b(b, pair, k); });
    between(k);
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
