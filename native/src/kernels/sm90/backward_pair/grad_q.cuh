// A warpgroup's 64 x 64 block of the block's own tile of grad_q = dS K over the keys of the cluster, and its way into the fp32 accumulator in global memory.
#pragma once

#include "kernels/sm90/backward_pair/config.h"
#include "ptx/mma_sync.cuh"
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

  /// Adds to the accumulator, whose part for the tile is g_tile.
  __device__ __forceinline__ void add(const float (&grad_q)[Config::kGradQ], float* g_tile) {
    float* g_block = g_tile + offset_;
#pragma unroll
    for (int j = 0; j < Config::kGradQ / 4; ++j) {
      ptx::reduce_add_v4(g_block + 512 * j, grad_q[4 * j], grad_q[4 * j + 1], grad_q[4 * j + 2], grad_q[4 * j + 3]);
    }
  }

  /// Where nothing was added yet.
  __device__ __forceinline__ void store(const float (&grad_q)[Config::kGradQ], float* g_tile) {
    float* g_block = g_tile + offset_;
#pragma unroll
    for (int j = 0; j < Config::kGradQ / 4; ++j) {
      *reinterpret_cast<float4*>(g_block + 512 * j) = make_float4(grad_q[4 * j], grad_q[4 * j + 1], grad_q[4 * j + 2], grad_q[4 * j + 3]);
    }
  }

  /// Where nothing will be added any more: grad_q becomes the sum.
  __device__ __forceinline__ void add_to_registers(float (&grad_q)[Config::kGradQ], const float* g_tile) {
    const float* g_block = g_tile + offset_;
    float sum[Config::kGradQ];
#pragma unroll
    for (int j = 0; j < Config::kGradQ / 4; ++j) {
      ptx::load_v4(g_block + 512 * j, sum[4 * j], sum[4 * j + 1], sum[4 * j + 2], sum[4 * j + 3]);
    }
#pragma unroll
    for (int i = 0; i < Config::kGradQ; ++i) {
      grad_q[i] += sum[i];
    }
  }

  /// Writes scale * grad_q, rounded, to the rows of a tile of the caller's tensor. g_head: its (batch, head).
  __device__ __forceinline__ static void round_and_write(const float (&grad_q)[Config::kGradQ], const BackwardParams& params, uint16_t* g_head,
                                                         int query_tile) {
    const int warpgroup = threadIdx.x / 128 - 1, thread = threadIdx.x % 128, lane = thread % 32;
    const int first_row = query_tile * Config::kTileQ + 64 * (warpgroup / Config::kPanels) + thread / 32 * 16 + lane / 4;
    const int first_column = 64 * (warpgroup % Config::kPanels) + lane % 4 * 2;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int row = first_row + 8 * r;
      uint16_t* g_row = g_head + row * params.grad_q_strides.seq + first_column;
#pragma unroll
      for (int j = 0; j < Config::kGradQ / 4; ++j) {
        if (row < params.len_q && first_column + 8 * j < params.head_dim) {
          *reinterpret_cast<uint32_t*>(g_row + 8 * j) =
              ptx::pack2<typename Config::Element>(grad_q[4 * j + 2 * r] * params.scale, grad_q[4 * j + 2 * r + 1] * params.scale);
        }
      }
    }
  }

 private:
  const tile::Descriptor desc_ds_;
  const tile::Descriptor desc_k_rows_;
  const int offset_;  // of the thread's first float in a tile of the accumulator
};

}  // namespace fa::sm90
