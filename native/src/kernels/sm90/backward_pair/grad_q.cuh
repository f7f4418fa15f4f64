// A warpgroup's 64 x 64 block of the block's own tile of grad_q = dS K over the keys of the cluster, and its way into the fp32 accumulator in global memory.
#pragma once

#include "kernels/sm90/backward_pair/config.h"
#include "ptx/reduce.cuh"
#include "ptx/wgmma.cuh"
#include "tile/wgmma_descriptor.cuh"

namespace fa::sm90 {

/// Block w of a tile is its rows 64w … (64 columns) or its columns 64w … (64 rows): kGradQBlock's order either way.
template <typename Config>
class PairGradQ {
  using SharedStorage = typename Config::SharedStorage;
  using Product = ptx::Wgmma<typename Config::Element, 64>;

 public:
  __device__ __forceinline__ PairGradQ(SharedStorage& smem, int warpgroup)
      : desc_ds_(tile::k_major_descriptor(smem.own_ds[0][64 * (warpgroup / Config::kPanels)])),
        desc_k_rows_(tile::mn_major_descriptor(smem.k[warpgroup % Config::kPanels], Config::kTileKv)),
        offset_(warpgroup * kGradQBlock + 4 * (threadIdx.x % 128)) {}

  /// Issues the products with the block's own keys, then with the other block's.
  __device__ __forceinline__ void multiply(float (&grad_q)[Config::kGradQ]) {
#pragma unroll
    for (int k = 0; k < 2 * Config::kTileKv / 16; ++k) {
      const int step = k % (Config::kTileKv / 16);
      const bool peer = k >= Config::kTileKv / 16;
      Product::ss_mn(grad_q, desc_ds_.at((peer ? SharedStorage::kToPeerDs : 0) + tile::k_major_step(step, Config::kTileQ)),
                     desc_k_rows_.at((peer ? SharedStorage::kToPeerK : 0) + tile::mn_major_step(step)), k != 0);
    }
  }

  /// g_tile: the tile's part of the accumulator.
  __device__ __forceinline__ void add(const float (&grad_q)[Config::kGradQ], float* g_tile) {
    float* g_block = g_tile + offset_;
#pragma unroll
    for (int j = 0; j < Config::kGradQ / 4; ++j) {
      ptx::reduce_add_v4(g_block + 512 * j, grad_q[4 * j], grad_q[4 * j + 1], grad_q[4 * j + 2], grad_q[4 * j + 3]);
    }
  }

 private:
  const tile::Descriptor desc_ds_;
  const tile::Descriptor desc_k_rows_;
  const int offset_;  // of the thread's first float in a tile of the accumulator
};

}  // namespace fa::sm90
