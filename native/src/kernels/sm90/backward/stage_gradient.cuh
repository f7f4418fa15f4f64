// Gradients of k and v from a warpgroup's accumulators to shared memory, whence TMA or ordinary stores take them.
#pragma once

#include "ptx/mma_sync.cuh"
#include "ptx/stmatrix.cuh"
#include "tile/wgmma_descriptor.cuh"

namespace fa::sm90 {

/// A warpgroup's 64 rows, times factor and rounded, into a tile of shared memory.
template <typename Element, int kPanels, int kTileKv, int kNum>
__device__ __forceinline__ void stage_gradient(Element (&s_tile)[kPanels][kTileKv][64], const float (&gradient)[kNum], int warpgroup, float factor) {
  const int thread = threadIdx.x % 128, lane = thread % 32;
  const int row = 64 * warpgroup + thread / 32 * 16 + lane % 16;
#pragma unroll
  for (int panel = 0; panel < kPanels; ++panel) {
    const uint32_t s_panel = ptx::shared_address(s_tile[panel]);
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const float* part = gradient + 32 * panel + 8 * k;
      ptx::stmatrix_x4(s_panel + tile::swizzled_offset_bytes(row, 2 * k + lane / 16), ptx::pack2<Element>(part[0] * factor, part[1] * factor),
                       ptx::pack2<Element>(part[2] * factor, part[3] * factor), ptx::pack2<Element>(part[4] * factor, part[5] * factor),
                       ptx::pack2<Element>(part[6] * factor, part[7] * factor));
    }
  }
}

}  // namespace fa::sm90
