// Rounding the sums of grad_q, and the warps of the main kernel that do so for heads that are complete, beside the work on others.
#pragma once

#include <cstdint>

#include "kernels/sm90/backward/params.h"
#include "kernels/sm90/backward/steps.cuh"
#include "ptx/fence_proxy.cuh"
#include "ptx/mma_sync.cuh"
#include "ptx/reduce.cuh"

namespace fa::sm90 {

/// Rows that are rounded together: a warp's in the order of kGradQBlock.
inline constexpr int kFinishRows = 16;

/// Where a head's sums are, and where they go.
struct FinishHead {
  const float* g_sums;
  uint16_t* g_grad_q;
  int64_t row_stride;
  int len_q;
  int head_dim;
  float scale;
};

/// A warp writes scale * sums of 16 rows and 32 columns: a lane eight columns of two rows, row and row + 8, four neighbouring float4 of the sums (kGradQBlock),
/// so that 64 contiguous bytes of a row are written at a time.
template <typename Element, int kPaddedDim>
__device__ __forceinline__ void finish_rows(const FinishHead& head, int slice, int column_group) {
  const int lane = threadIdx.x % 32, row = kFinishRows * slice + lane / 4, column = 32 * column_group + 8 * (lane % 4);
  if (column >= head.head_dim) {
    return;
  }
  const int block = slice / 4 * (kPaddedDim / 64) + column / 64;
  const float* g_piece = head.g_sums + static_cast<int64_t>(block) * kGradQBlock + 4 * (128 * (column % 64 / 8) + slice % 4 * 32 + lane / 4 * 4);
  uint4 upper, lower;
  uint32_t* words[2] = {reinterpret_cast<uint32_t*>(&upper), reinterpret_cast<uint32_t*>(&lower)};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    float4 values;
    ptx::load_v4(g_piece + 4 * i, values.x, values.y, values.z, values.w);
    words[0][i] = ptx::pack2<Element>(values.x * head.scale, values.y * head.scale);
    words[1][i] = ptx::pack2<Element>(values.z * head.scale, values.w * head.scale);
  }
  uint16_t* g_row = head.g_grad_q + row * head.row_stride + column;
  if (row < head.len_q) {
    *reinterpret_cast<uint4*>(g_row) = upper;
  }
  if (row + 8 < head.len_q) {
    *reinterpret_cast<uint4*>(g_row + 8 * head.row_stride) = lower;
  }
}

/// Rounds the block's share of a head finish_distance in front of its own, which other blocks have long completed, if all goes well; blocks are launched in the
/// order of the heads' sections, so nobody waits for a block behind its own. Runs in kFinishingWarps warps, of which this is number `warp`.
template <typename Config>
__device__ __forceinline__ void finish_earlier_head(const BackwardParams& params, int warp) {
  constexpr int kColumnGroups = Config::kHeadDim / 32;
  const TileOrder::Work work = params.order.work(blockIdx.x);
  const int kv_head = work.head - params.finish_distance;
  if (kv_head < 0) {
    return;
  }
  if (threadIdx.x % 32 == 0) {
    while (ptx::load_acquire(params.tiles_done + kv_head) < Config::kAdders * params.order.num_tiles) {
    }
  }
  __syncwarp();
  const int slices = (params.len_q + kFinishRows - 1) / kFinishRows, unseen = params.unseen_rows / kFinishRows;
  const int first = max(unseen, static_cast<int>(static_cast<int64_t>(slices) * work.tile / params.order.num_tiles));
  const int end = static_cast<int>(static_cast<int64_t>(slices) * (work.tile + 1) / params.order.num_tiles);
  for (int group_head = 0; group_head < params.group_size; ++group_head) {
    const int flat_head = kv_head * params.group_size + group_head, batch = flat_head / params.heads_q;
    FinishHead head;
    head.g_sums = params.grad_q_accumulator + flat_head * params.padded_rows * Config::kHeadDim;
    head.g_grad_q = params.grad_q + batch * params.grad_q_strides.batch + (flat_head - batch * params.heads_q) * params.grad_q_strides.head;
    head.row_stride = params.grad_q_strides.seq;
    head.len_q = params.len_q;
    head.head_dim = params.head_dim;
    head.scale = params.scale;
#pragma unroll 1
    for (int i = first * kColumnGroups + warp; i < end * kColumnGroups; i += Config::kFinishingWarps) {
      finish_rows<typename Config::Element, Config::kHeadDim>(head, i / kColumnGroups, i % kColumnGroups);
    }
  }
}

/// Clears the block's part of the sums of the head finish_distance behind its own, whose blocks wait for that; prepare clears those of the first heads.
template <typename Config>
__device__ __forceinline__ void clear_later_head(const BackwardParams& params, int warp) {
  constexpr int kPieces = kFinishRows * Config::kHeadDim / 4;
  const TileOrder::Work work = params.order.work(blockIdx.x);
  const int kv_head = work.head + params.finish_distance;
  if (kv_head >= params.order.num_heads) {
    return;
  }
  const int64_t slices = params.padded_rows / kFinishRows;
  const int64_t first = slices * work.tile / params.order.num_tiles, end = slices * (work.tile + 1) / params.order.num_tiles;
  for (int head = kv_head * params.group_size; head < (kv_head + 1) * params.group_size; ++head) {
    auto* g_sums = reinterpret_cast<float4*>(params.grad_q_accumulator + head * params.padded_rows * Config::kHeadDim);
#pragma unroll 4
    for (int64_t i = first * kPieces + 32 * warp + threadIdx.x % 32; i < end * kPieces; i += 32 * Config::kFinishingWarps) {
      g_sums[i] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    }
    ptx::fence_proxy_async_global();  // additions come by the asynchronous proxy
    __syncwarp();
    if (threadIdx.x % 32 == 0) {
      ptx::increment_release(params.grad_q_counters + head);
    }
  }
}

/// Where clear_later_head clears: returns when all blocks have done so for a query head.
template <typename Config>
__device__ __forceinline__ void wait_for_cleared_head(const BackwardParams& params, int kv_head, int query_head) {
  if (kv_head >= params.finish_distance) {
    while (ptx::load_acquire(params.grad_q_counters + query_head) < Config::kFinishingWarps * params.order.num_tiles) {
    }
  }
}

}  // namespace fa::sm90
