// Looks for NaN and infinity: 0 times such a number is NaN, and so are sums with it. Four sums stand side by side, since one would be a long chain.
#pragma once

#include <cuda_runtime.h>

#include "kernels/sm90/backward/pairs.cuh"
#include "kernels/sm90/backward/params.h"
#include "kernels/sm90/backward_modified/params.h"
#include "kernels/sm90/backward_modified/work.cuh"
#include "tile/wgmma_descriptor.cuh"

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

/// Whether the keys of the item that are the warp's to look at hold such a number: one lane or more.
template <typename Config>
__device__ __forceinline__ bool has_nonfinite_keys(typename Config::SharedStorage& smem, const KeyWork& work, int warpgroup, int buffer) {
  const int slice = 4 * warpgroup + static_cast<int>(threadIdx.x) % 128 / 32;
  bool bad_key = false;
  if (work.kind == KeyWork::kWithSteps) {
#pragma unroll
    for (int panel = 0; panel < Config::kPanels; ++panel) {
      bad_key |= has_nonfinite<typename Config::Element, kRepairKeys * tile::kPanelRowBytes>(smem.k[buffer][panel][kRepairKeys * slice]);
    }
  }
  return bad_key;
}

/// Tells the repair pass of NaN and infinity that may have come from masked pairs: the tensor core multiplies them with zero, and 0 * NaN is NaN. By a
/// consumer warpgroup. bad_key: has_nonfinite_keys.
template <typename Config>
__device__ __forceinline__ void report_nonfinite(const ModifiedBackwardParams& params, bool bad_key, const float (&grad_k)[Config::kGradients],
                                                 const float (&grad_v)[Config::kGradients], const KeyWork& work, int warpgroup) {
  const int lane = threadIdx.x % 32, slice = 4 * warpgroup + static_cast<int>(threadIdx.x) % 128 / 32;
  const bool bad_gradients = __any_sync(0xFFFFFFFF, has_nonfinite(grad_k, grad_v));
  const bool bad_keys = __any_sync(0xFFFFFFFF, bad_key);
  if (lane == 0) {
    params.repair_flags[kRepairSlices * static_cast<int64_t>(work.index) + slice] = (bad_gradients ? kRepairGradKv : 0) | (bad_keys ? kRepairGradQ : 0);
  }
}

}  // namespace fa::sm90
