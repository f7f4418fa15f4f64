// Looks for NaN and infinity: 0 times such a number is NaN, and so are sums with it. Four sums stand side by side, since one would be a long chain.
#pragma once

#include <cuda_runtime.h>

#include "kernels/sm90/backward/pairs.cuh"

namespace fa::sm90 {

/// Whether one of the numbers is NaN or infinite.
template <int kNum>
__device__ __forceinline__ bool has_nonfinite(const float (&a)[kNum], const float (&b)[kNum]) {
  float sums[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
  for (int i = 0; i < kNum; ++i) {
    sums[i % 4] = fmaf(a[i], 0.0f, fmaf(b[i], 0.0f, sums[i % 4]));
  }
  return !(sums[0] + sums[1] + (sums[2] + sums[3]) == 0.0f);
}

/// Whether one of the lane's sixteen-byte pieces of so many bytes in shared memory holds such a number. Together a warp's lanes look at all.
template <typename Element, int kBytes>
__device__ __forceinline__ bool has_nonfinite(const void* s_elements) {
  using Pair = typename PairOf<Element>::Type;
  const Pair zero = pair_of<Element>(0.0f);
  Pair sums[4] = {zero, zero, zero, zero};
#pragma unroll
  for (int i = 0; i < kBytes / 16; i += 32) {
    const uint4 piece = static_cast<const uint4*>(s_elements)[i + threadIdx.x % 32];
    const auto* pairs = reinterpret_cast<const Pair*>(&piece);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      sums[j] = __hfma2(pairs[j], zero, sums[j]);
    }
  }
  const float2 sum = to_float2(__hadd2(__hadd2(sums[0], sums[1]), __hadd2(sums[2], sums[3])));
  return !(sum.x + sum.y == 0.0f);
}

}  // namespace fa::sm90
