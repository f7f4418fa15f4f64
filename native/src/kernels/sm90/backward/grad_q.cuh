// A warpgroup's 64 x 64 block of a tile of grad_q = dS K, and its way into the fp32 accumulator in global memory.
#pragma once

#include "kernels/sm90/backward/config.h"
#include "ptx/reduce.cuh"
#include "ptx/wgmma.cuh"
#include "tile/wgmma_descriptor.cuh"

namespace fa::sm90 {

/// Block w of a tile is its rows 64w … (64 columns) or its columns 64w … (64 rows): kGradQBlock's order either way.
template <typename Config>
class GradQPart {
  using SharedStorage = typename Config::SharedStorage;
  using Product = ptx::Wgmma<typename Config::Element, 64>;

 public:
  __device__ __forceinline__ GradQPart(SharedStorage& smem, int warpgroup)
      : smem_(smem),
        warpgroup_(warpgroup),
        desc_ds_(tile::k_major_descriptor(smem.ds[0][0][64 * (warpgroup / Config::kPanels)])),
        desc_k_rows_(tile::mn_major_descriptor(smem.k[warpgroup % Config::kPanels], Config::kTileKv)) {}

  /// grad_q = dS K over all keys of the block.
  __device__ __forceinline__ void multiply(float (&grad_q)[Config::kGradQ], int stage) {
#pragma unroll
    for (int k = 0; k < Config::kTileKv / 16; ++k) {
      Product::ss_mn(grad_q, desc_ds_.at(stage * static_cast<uint32_t>(sizeof(smem_.ds[0]) / 16) + tile::k_major_step(k, Config::kTileQ)),
                     desc_k_rows_.at(tile::mn_major_step(k)), k != 0);
    }
  }

  /// Adds to the accumulator, whose part for the tile is g_tile, or begins its sum.
  __device__ __forceinline__ void add(const float (&grad_q)[Config::kGradQ], float* g_tile, bool begins) {
    const int thread = threadIdx.x % 128;
    float* g_block = g_tile + warpgroup_ * kGradQBlock;
    if (Config::kFirstTileStores && begins) {
#pragma unroll
      for (int j = 0; j < Config::kGradQ / 4; ++j) {
        *reinterpret_cast<float4*>(g_block + 4 * (128 * j + thread)) = make_float4(grad_q[4 * j], grad_q[4 * j + 1], grad_q[4 * j + 2], grad_q[4 * j + 3]);
      }
    } else {
#pragma unroll
      for (int j = 0; j < Config::kGradQ / 4; ++j) {
        ptx::reduce_add_v4(g_block + 4 * (128 * j + thread), grad_q[4 * j], grad_q[4 * j + 1], grad_q[4 * j + 2], grad_q[4 * j + 3]);
      }
    }
  }

  /// Into the warpgroup's part of a stage's buffer, in the accumulator's order.
  __device__ __forceinline__ void stage(const float (&grad_q)[Config::kGradQ], int stage) const {
    float4* s_pieces = reinterpret_cast<float4*>(smem_.grad_q[stage][warpgroup_]) + threadIdx.x % 128;
#pragma unroll
    for (int j = 0; j < Config::kGradQ / 4; ++j) {
      s_pieces[128 * j] = make_float4(grad_q[4 * j], grad_q[4 * j + 1], grad_q[4 * j + 2], grad_q[4 * j + 3]);
    }
  }

 private:
  SharedStorage& smem_;
  const int warpgroup_;
  const tile::Descriptor desc_ds_;
  const tile::Descriptor desc_k_rows_;
};

}  // namespace fa::sm90
