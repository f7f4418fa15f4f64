// The way of grad_k and grad_v from registers to the memory of k and v, and from there where TMA cannot store them.
#pragma once

#include "kernels/sm90/backward_modified/work.cuh"
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

/// A warpgroup's first rows of a staged tile by ordinary stores: what follows in the tensor belongs to others.
template <typename Tile>
__device__ __forceinline__ void copy_rows(uint16_t* g_gradient, const Strides& strides, int columns, Tile& s_tile, int warpgroup, int rows,
                                          const KeyWork& work) {
  const int chunks = columns / 8;
  uint16_t* g_first = g_gradient + work.batch * strides.batch + work.kv_head * strides.head + (work.kv_begin + work.first_key) * strides.seq;
#pragma unroll 1
  for (int i = threadIdx.x % 128; i < rows * chunks; i += 128) {
    const int row = 64 * warpgroup + i / chunks, chunk = i % chunks;
    const auto* s_panel = reinterpret_cast<const unsigned char*>(s_tile[chunk / 8]);
    *reinterpret_cast<uint4*>(g_first + row * strides.seq + 8 * chunk) = *reinterpret_cast<const uint4*>(s_panel + tile::swizzled_offset_bytes(row, chunk % 8));
  }
}

}  // namespace fa::sm90
