// Deterministic mode: additions to the fp32 accumulator in the order of the keys, and the accumulator's way to the caller's tensor. One thread keeps the books,
// two warps finish tiles that are complete.
//
// Nobody waits for a block of the grid behind its own: key tiles are added in the order in which their blocks are launched, and a slot of the ring is taken
// from a head of an earlier section.
#pragma once

#include "kernels/sm90/backward/config.h"
#include "ptx/fence_proxy.cuh"
#include "ptx/mbarrier.cuh"
#include "ptx/mma_sync.cuh"
#include "ptx/reduce.cuh"
#include "ptx/tma.cuh"

namespace fa::sm90 {

/// The block's key tile, read again wherever it is needed: these roles have 24 registers.
template <typename Config>
__device__ __forceinline__ const volatile KeyTile& tile_of(const typename Config::SharedStorage& smem) {
  return smem.tile;
}

/// Tiles of one slot of the accumulators' ring, and so its counters.
template <typename Config>
__device__ __forceinline__ int tiles_per_slot(const BackwardParams& params) {
  return static_cast<int>(params.padded_rows / Config::kTileQ);
}

/// Key tiles that come to a query tile: the first ones.
template <typename Config>
__device__ __forceinline__ int visitors(const BackwardParams& params, int query_tile) {
  if (!params.causal) {
    return params.order.num_tiles;
  }
  const int end_key = (query_tile + 1) * Config::kTileQ + params.causal_offset;
  return min(max((end_key + Config::kTileKv - 1) / Config::kTileKv, 0), params.order.num_tiles);
}

/// For every step, in one thread: lets the consumers add to the accumulator when the tile's slot is this head's and the key tiles in front have been added;
/// counts the addition; orders a tile that is complete to be finished.
template <typename Config>
__device__ __forceinline__ void keep_books(const BackwardParams& params, typename Config::SharedStorage& smem) {
  uint32_t phase = 0, order_phase = 1;
#pragma unroll 1
  for (int group_head = 0; group_head < params.group_size; ++group_head) {
#pragma unroll 1
    for (int query_tile = params.num_q_tiles - 1; query_tile >= tile_of<Config>(smem).first_step; --query_tile) {
      int* g_counter = params.grad_q_counters + (tile_of<Config>(smem).slot + group_head) * tiles_per_slot<Config>(params) + query_tile;
      const int complete = visitors<Config>(params, query_tile);
      const int first_count = tile_of<Config>(smem).round * (complete + Config::kWarpgroups);
      const int wanted = first_count + tile_of<Config>(smem).first_key / Config::kTileKv;
      while (wanted > 0 && ptx::load_acquire(g_counter) < wanted) {
      }
      ptx::mbarrier_arrive(&smem.grad_q_open);
      ptx::mbarrier_wait(&smem.grad_q_added, phase);
      phase ^= 1;
      if (ptx::atomic_increment_acq_rel(g_counter) + 1 == first_count + complete) {
        ptx::mbarrier_wait(&smem.order_empty, order_phase);
        order_phase ^= 1;
        smem.order.group_head = group_head;
        smem.order.query_tile = query_tile;
        ptx::mbarrier_arrive(&smem.order_full);
      }
    }
  }
  ptx::mbarrier_wait(&smem.order_empty, order_phase);
  smem.order.query_tile = -1;
  ptx::mbarrier_arrive(&smem.order_full);
}

/// A warp that turns block `part` (64 x 64) of complete tiles into grad_q = scale * block, rounded, and clears it for the next head of the ring.
template <typename Config>
class GradQFinisher {
  using Element = typename Config::Element;
  using SharedStorage = typename Config::SharedStorage;

 public:
  __device__ __forceinline__ GradQFinisher(const BackwardParams& params, SharedStorage& smem, int part) : params_(params), smem_(smem), part_(part) {}

  __device__ __forceinline__ void run() const {
#pragma unroll 1
    for (uint32_t phase = 0;; phase ^= 1) {
      ptx::mbarrier_wait(&smem_.order_full, phase);
      // One lane reads, since one lane says that the order may be overwritten.
      FinishOrder order{};
      if (threadIdx.x % 32 == 0) {
        order = smem_.order;
      }
      const int group_head = __shfl_sync(0xFFFFFFFF, order.group_head, 0), query_tile = __shfl_sync(0xFFFFFFFF, order.query_tile, 0);
      if (query_tile < 0) {
        return;
      }
      load(group_head, query_tile);
      ptx::mbarrier_wait(&smem_.grad_q_loaded[part_], phase);
      if (tile_of<Config>(smem_).first_head + params_.ring_heads < params_.order.num_heads * params_.group_size) {
        clear(group_head, query_tile);
      }
      write(group_head, query_tile);
      __syncwarp();
      if (threadIdx.x % 32 == 0) {
        ptx::mbarrier_arrive(&smem_.order_empty);
      }
    }
  }

 private:
  __device__ __forceinline__ int tile_in_ring(int group_head, int query_tile) const {
    return (tile_of<Config>(smem_).slot + group_head) * tiles_per_slot<Config>(params_) + query_tile;
  }

  __device__ __forceinline__ void load(int group_head, int query_tile) const {
    if (threadIdx.x % 32 == 0) {
      const int block = tile_in_ring(group_head, query_tile) * Config::kWarpgroups + part_;
      ptx::fence_proxy_async_global();
      ptx::mbarrier_arrive_expect_tx(&smem_.grad_q_loaded[part_], kGradQBlock * sizeof(float));
      ptx::tma_load_2d(&params_.map_accumulator, &smem_.grad_q_loaded[part_], smem_.grad_q[part_], 0, block * (kGradQBlock / 256));
    }
  }

  __device__ __forceinline__ void clear(int group_head, int query_tile) const {
    const int lane = threadIdx.x % 32, tile = tile_in_ring(group_head, query_tile);
    auto* g_block = reinterpret_cast<float4*>(params_.grad_q_accumulator + (static_cast<int64_t>(tile) * Config::kWarpgroups + part_) * kGradQBlock) + lane;
#pragma unroll 8
    for (int i = 0; i < kGradQBlock / 4 / 32; ++i) {
      g_block[32 * i] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    }
    __syncwarp();
    if (lane == 0) {
      ptx::increment_release(params_.grad_q_counters + tile);
    }
  }

  /// A lane takes eight columns of a row at a time: halves of four neighbouring float4 (kGradQBlock). The order in which it reads them, and which of the two
  /// rows of the float4 comes first, differ between lanes so that each sixteen touch all banks.
  __device__ __forceinline__ void write(int group_head, int query_tile) const {
    const int lane = threadIdx.x % 32, quarter = lane % 4;
    const float2* s_lane = reinterpret_cast<const float2*>(smem_.grad_q[part_]) + 2 * (128 * quarter + lane / 4 * 4);
    const int first_row = query_tile * Config::kTileQ + 64 * (part_ / Config::kPanels) + lane / 4;
    const int first_column = 64 * (part_ % Config::kPanels) + 8 * quarter;
    uint16_t* g_first = params_.grad_q + tile_of<Config>(smem_).batch * params_.grad_q_strides.batch +
                        (tile_of<Config>(smem_).kv_head * params_.group_size + group_head) * params_.grad_q_strides.head + first_column;
#pragma unroll 1
    for (int i = 0; i < 16; ++i) {
      const int half = (i + lane / 8) % 2, slice = i / 4, columns = i / 2 % 2;
      const float2* s_piece = s_lane + 2 * (512 * columns + 32 * slice) + half;
      uint32_t words[4];
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        const float2 values = s_piece[2 * ((c + quarter) % 4)];
        words[c] = ptx::pack2<Element>(values.x * params_.scale, values.y * params_.scale);
      }
      rotate(words, quarter);
      const int row = first_row + 16 * slice + 8 * half;
      if (row < params_.len_q && first_column + 32 * columns < params_.head_dim) {
        *reinterpret_cast<uint4*>(g_first + row * params_.grad_q_strides.seq + 32 * columns) = make_uint4(words[0], words[1], words[2], words[3]);
      }
    }
  }

  /// words[c] moves to words[(c + distance) % 4].
  __device__ __forceinline__ static void rotate(uint32_t (&words)[4], int distance) {
    const uint32_t a = words[0], b = words[1], c = words[2], d = words[3];
    const bool one = distance & 1, two = distance & 2;
    const uint32_t e = one ? d : a, f = one ? a : b, g = one ? b : c, h = one ? c : d;
    words[0] = two ? g : e;
    words[1] = two ? h : f;
    words[2] = two ? e : g;
    words[3] = two ? f : h;
  }

  const BackwardParams& params_;
  SharedStorage& smem_;
  const int part_;
};

}  // namespace fa::sm90
