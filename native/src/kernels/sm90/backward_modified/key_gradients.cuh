// What a sequence that ends inside a tile asks for: zeros in place of rows of others, and the way of grad_k and grad_v from shared memory to where TMA cannot
// store them, beside ../backward/stage_gradient.cuh.
#pragma once

#include "kernels/sm90/backward/stage_gradient.cuh"
#include "kernels/sm90/backward_modified/work.cuh"
#include "ptx/fence_proxy.cuh"
#include "ptx/named_barrier.cuh"
#include "tile/wgmma_descriptor.cuh"

namespace fa::sm90 {

/// Sets the rows of a tile from first_row on to zero. By all consumers, who may read it afterwards.
template <typename Config, int kRows>
__device__ __forceinline__ void clean_rows(typename Config::Element (&s_tile)[Config::kPanels][kRows][64], int first_row, int warpgroup) {
  constexpr int kChunks = tile::kPanelRowBytes / 16;
#pragma unroll
  for (int panel = 0; panel < Config::kPanels; ++panel) {
    for (int i = first_row * kChunks + 128 * warpgroup + threadIdx.x % 128; i < kRows * kChunks; i += Config::kConsumerThreads) {
      reinterpret_cast<uint4*>(s_tile[panel])[i] = uint4{0, 0, 0, 0};
    }
  }
  ptx::fence_proxy_async_shared();
  ptx::named_barrier_sync(Config::kBarrierConsumers, Config::kConsumerThreads);
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
