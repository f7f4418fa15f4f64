// Zeros in the gradient of a bias where a mask hides whole tiles. The main kernel stores dS of every tile it goes through, and of those alone.
#include <algorithm>

#include "attention/pair_range.cuh"
#include "kernels/sm90/backward_modified/launch.h"
#include "kernels/sm90/backward_modified/work.cuh"
#include "runtime/cuda_check.h"

namespace fa::sm90 {

namespace {

constexpr int kZeroThreads = 256;
constexpr int kZeroSteps = 16;  ///< query tiles of a block

/// Zeros into eight elements, or so many if they are fewer.
__device__ __forceinline__ void write_zeros(uint16_t* g_chunk, int elements) {
  if (elements >= 8) {
    *reinterpret_cast<uint4*>(g_chunk) = make_uint4(0, 0, 0, 0);
  } else {
    for (int i = 0; i < elements; ++i) {
      g_chunk[i] = 0;
    }
  }
}

/// Block: tile of keys; query tiles kZeroSteps * y …; head and batch of the bias. Blocks take more than one of the latter two where the grid's limits ask for
/// it.
__global__ void __launch_bounds__(kZeroThreads) modified_grad_bias_zeros_kernel(const __grid_constant__ GradBiasZerosParams p) {
  const int first_key = static_cast<int>(blockIdx.x) * p.tile_kv, keys = min(p.tile_kv, p.range.len_kv - first_key);
  const StepRange visited = visited_steps(p.range, first_key, p.tile_q, p.tile_kv);
  const int chunks = (keys + 7) / 8, num_groups = (p.range.len_q + kZeroSteps * p.tile_q - 1) / (kZeroSteps * p.tile_q);
#pragma unroll 1
  for (int head = static_cast<int>(blockIdx.z); head < p.batches * p.heads; head += static_cast<int>(gridDim.z)) {
    uint16_t* g_head = p.grad_bias + head / p.heads * p.batch_stride + head % p.heads * p.head_stride + first_key;
#pragma unroll 1
    for (int group = static_cast<int>(blockIdx.y); group < num_groups; group += static_cast<int>(gridDim.y)) {
      const int first_row = group * kZeroSteps * p.tile_q, end_row = min(first_row + kZeroSteps * p.tile_q, p.range.len_q);
#pragma unroll 1
      for (int i = static_cast<int>(threadIdx.x); i < (end_row - first_row) * chunks; i += kZeroThreads) {
        const int row = first_row + i / chunks, column = i % chunks * 8, step = row / p.tile_q;
        if (step < visited.first || step >= visited.end) {
          write_zeros(g_head + row * p.row_stride + column, keys - column);
        }
      }
    }
  }
}

}  // namespace

void launch_modified_grad_bias_zeros(const GradBiasZerosParams& params, cudaStream_t stream) {
  const auto tiles = [](int length, int tile) { return (length + tile - 1) / tile; };
  const auto within_grid = [](int blocks) { return static_cast<unsigned>(std::min(blocks, 65535)); };  // of y and z
  const dim3 blocks(static_cast<unsigned>(tiles(params.range.len_kv, params.tile_kv)), within_grid(tiles(params.range.len_q, kZeroSteps * params.tile_q)),
                    within_grid(params.batches * params.heads));
  void* arguments[] = {const_cast<GradBiasZerosParams*>(&params)};
  cuda_check(cudaLaunchKernel(reinterpret_cast<const void*>(modified_grad_bias_zeros_kernel), blocks, dim3(kZeroThreads), arguments, 0, stream),
             "launch of the sm90 kernel for zeros in the gradient of a bias");
}

}  // namespace fa::sm90
