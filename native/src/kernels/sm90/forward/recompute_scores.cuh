// The slow path of the optimistic softmax: one warp forms its 16 rows of S = Q K^T again, with warp-level products from the tiles in shared memory. wgmma would
// need all four warps of the warpgroup, but only the warp whose rows left the range comes here.
#pragma once

#include "ptx/ldmatrix.cuh"
#include "ptx/mma_sync.cuh"
#include "ptx/special_registers.cuh"
#include "tile/wgmma_descriptor.cuh"

namespace fa::sm90 {

/// s: the fragment as wgmma would have left it, of 2 * kScores keys. s_q, s_k: panels of kTileQ and kTileKv rows, s_k from the first of those keys on, which is
/// a multiple of 8 rows into its panel; first_row: the warp's first row in the q tile.
template <typename Config, int kScores>
__device__ __forceinline__ void recompute_scores(float (&s)[kScores], const void* s_q, const void* s_k, int first_row) {
  const int lane = ptx::thread_index_anew() % 32;
  // ldmatrix.x4 of A takes rows 0-15 at two chunks; of B, keys 0-7 at two chunks and then keys 8-15.
  const int row = first_row + lane % 16, row_chunk = lane / 16;
  const int key = lane % 8 + lane / 16 * 8, key_chunk = lane / 8 % 2;
  const uint32_t s_q_address = ptx::shared_address(s_q), s_k_address = ptx::shared_address(s_k);
#pragma unroll
  for (int i = 0; i < kScores; ++i) {
    s[i] = 0.0f;
  }
#pragma unroll 1
  for (int step = 0; step < Config::kHeadDim / 16; ++step) {
    const int chunk = step % 4 * 2;
    uint32_t a[4];
    ptx::ldmatrix_x4(a, s_q_address + step / 4 * (Config::kTileQ * tile::kPanelRowBytes) + tile::swizzled_offset_bytes(row, chunk + row_chunk));
    const uint32_t s_keys = s_k_address + step / 4 * (Config::kTileKv * tile::kPanelRowBytes) + tile::swizzled_offset_bytes(key, chunk + key_chunk);
#pragma unroll
    for (int block = 0; block < kScores / 8; ++block) {
      uint32_t b[4];
      ptx::ldmatrix_x4(b, s_keys + block * 16 * tile::kPanelRowBytes);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float c[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          c[i] = s[8 * block + 4 * half + i];
        }
        ptx::mma_m16n8k16<typename Config::Element>(c, a, b[2 * half], b[2 * half + 1]);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          s[8 * block + 4 * half + i] = c[i];
        }
      }
    }
  }
}

}  // namespace fa::sm90
