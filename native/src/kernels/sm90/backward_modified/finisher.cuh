// The spare warps of the producer's warpgroup: one thread stores grad_k and grad_v; two warps turn the accumulator into grad_q, each query tile when all key
// tiles that visit it are done, while it is still in the second-level cache (not with sequences, where heads are done only at the end).
#pragma once

#include "kernels/sm90/backward_modified/config.h"
#include "kernels/sm90/backward_modified/producer.cuh"
#include "ptx/bulk_copy.cuh"
#include "ptx/mbarrier.cuh"
#include "ptx/mma_sync.cuh"
#include "ptx/reduce.cuh"
#include "ptx/tma.cuh"

namespace fa::sm90 {

/// Runs in one thread: goes through the block's items behind the consumers, stores grad_k and grad_v by TMA, which clips what lies outside the tensors, and
/// gives the buffers back.
template <typename Config>
__device__ __forceinline__ void store_items(const ModifiedBackwardParams& params, typename Config::SharedStorage& smem) {
#pragma unroll 1
  for (RingCursor buffer;; buffer.advance()) {
    const int stage = buffer.stage;
    ptx::mbarrier_wait(&smem.k_full[stage], buffer.phase);
    const KeyWork& work = smem.work[stage];
    if (work.kind == KeyWork::kNone) {
      break;
    }
    ptx::mbarrier_wait(&smem.done[stage], buffer.phase);
    if (!work.has_foreign_keys(params, Config::kTileKv)) {
#pragma unroll 1
      for (int row = 0; row < min(work.len_kv - work.first_key, Config::kTileKv); row += 64) {
#pragma unroll
        for (int panel = 0; panel < Config::kPanels; ++panel) {
          ptx::tma_store_4d(&params.map_grad_k, smem.k[stage][panel][row], 64 * panel, work.kv_begin + work.first_key + row, work.kv_head, work.batch);
          ptx::tma_store_4d(&params.map_grad_v, smem.v[stage][panel][row], 64 * panel, work.kv_begin + work.first_key + row, work.kv_head, work.batch);
        }
      }
      ptx::tma_store_commit();
    }
    if (params.finish_inside) {
      // What the consumers added before they arrived comes before this for everybody who acquires it.
      ptx::increment_release(added_tiles(params, work, Config::kTileKv));
    }
    ptx::bulk_wait_read();
    ptx::mbarrier_arrive(&smem.kv_empty[stage]);
  }
  ptx::bulk_wait();  // shared memory must outlive the copies
}

/// grad_q = scale * accumulator, rounded, for a 64 x 64 block (kGradQBlock). By one warp: a thread takes eight columns of two rows, row and row + 8, at a time,
/// four neighbouring float4 of the accumulator; four lanes write 64 contiguous bytes of a row. With lists, of rows to which nobody came there is no sum.
template <typename Config>
__device__ __forceinline__ void finish_block(const ModifiedBackwardParams& params, int flat_head, int first_row, int first_column, const float* g_block) {
  bool seen = true;
  if constexpr (Config::Policy::kMask) {
    seen = ptx::load_relaxed(params.tiles_stored + flat_head * static_cast<int>(params.padded_rows / Config::kTileQ) + first_row / Config::kTileQ) != 0;
  }
  const int lane = threadIdx.x % 32, batch = flat_head / params.scores.heads_q, head = flat_head - batch * params.scores.heads_q;
  uint16_t* g_head = params.grad_q + batch * params.grad_q_strides.batch + head * params.grad_q_strides.head + first_column + 8 * (lane % 4);
  const auto* g_lane = reinterpret_cast<const float4*>(g_block) + 128 * (lane % 4) + lane / 4 * 4;
#pragma unroll 1
  for (int i = 0; i < 8; ++i) {
    const int slice = i / 2, half = i % 2;  // of 16 rows, of 32 columns
    const int row = first_row + 16 * slice + lane / 4;
    if (first_column + 32 * half + 8 * (lane % 4) >= params.head_dim || row >= params.scores.range.len_q) {
      continue;
    }
    const float4* g_piece = g_lane + 512 * half + 32 * slice;
    float4 values[4];
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      values[c] = seen ? __ldcg(g_piece + c) : float4{0.0f, 0.0f, 0.0f, 0.0f};
    }
    uint16_t* g_row = g_head + row * params.grad_q_strides.seq + 32 * half;
    const float scale = params.scale;
    using Element = typename Config::Element;
    *reinterpret_cast<uint4*>(g_row) =
        make_uint4(ptx::pack2<Element>(values[0].x * scale, values[0].y * scale), ptx::pack2<Element>(values[1].x * scale, values[1].y * scale),
                   ptx::pack2<Element>(values[2].x * scale, values[2].y * scale), ptx::pack2<Element>(values[3].x * scale, values[3].y * scale));
    if (row + 8 < params.scores.range.len_q) {
      *reinterpret_cast<uint4*>(g_row + 8 * params.grad_q_strides.seq) =
          make_uint4(ptx::pack2<Element>(values[0].z * scale, values[0].w * scale), ptx::pack2<Element>(values[1].z * scale, values[1].w * scale),
                     ptx::pack2<Element>(values[2].z * scale, values[2].w * scale), ptx::pack2<Element>(values[3].z * scale, values[3].w * scale));
    }
  }
}

/// Returns, in a whole warp, when all key tiles that visit the row's query tile of a key head are done.
template <typename Config>
__device__ __forceinline__ void wait_for_key_tiles(const ModifiedBackwardParams& params, int key_head, int row) {
  const StepRange visiting = visiting_key_tiles(params.scores.range, row / Config::kTileQ, Config::kTileQ, Config::kTileKv);
  const int first_group = visiting.first >> params.count_shift, last_group = (visiting.end - 1) >> params.count_shift;
  const int* g_added = params.tiles_added + key_head * params.count_groups;
  // A lane per group.
  const auto all_done = [&](auto&& load) {
    bool done = true;
#pragma unroll 1
    for (int group = first_group + static_cast<int>(threadIdx.x % 32); group <= last_group; group += 32) {
      done = done && load(g_added + group) >= min(params.order.num_tiles - (group << params.count_shift), 1 << params.count_shift);
    }
    return __all_sync(0xFFFFFFFF, done) != 0;
  };
  // Relaxed: an acquiring load empties the first-level cache.
  while (!all_done([](const int* g_counter) { return ptx::load_relaxed(g_counter); })) {
    __nanosleep(500);
  }
  all_done([](const int* g_counter) { return ptx::load_acquire(g_counter); });
  __syncwarp();
}

/// Runs in a whole warp, until all rows of all heads are handed out, 64 at a time, in the order in which key tiles are. Nobody waits for a block of the grid
/// that has not begun: what an item needs depends on no other, and items are taken up in the order of their heads.
template <typename Config>
__device__ __forceinline__ void finish_blocks(const ModifiedBackwardParams& params) {
  const int head_jobs = static_cast<int>(params.padded_rows / 64), num_jobs = head_jobs * params.num_heads;
  const TileOrder order{head_jobs, params.num_heads, params.order.section_heads * params.group_size};
#pragma unroll 1
  while (true) {
    int job = threadIdx.x % 32 == 0 ? atomicAdd(params.finish_counter, 1) : 0;
    job = __shfl_sync(0xFFFFFFFF, job, 0);
    if (job >= num_jobs) {
      return;
    }
    TileOrder::Work place;  // 64 rows of a head
    if constexpr (Config::Policy::kBias) {
      // The batch entries of a head one behind the other.
      const int entry = job / head_jobs, head = entry / params.batch_inside;
      place = {job - entry * head_jobs, (entry - head * params.batch_inside) * (params.num_heads / params.batch_inside) + head};
    } else {
      place = order.work(job);
    }
    wait_for_key_tiles<Config>(params, place.head / params.group_size, 64 * place.tile);
    const int64_t first_block = (int64_t{place.head} * head_jobs + place.tile) * Config::kPanels;
#pragma unroll 1
    for (int panel = 0; panel < Config::kPanels; ++panel) {
      finish_block<Config>(params, place.head, 64 * place.tile, 64 * panel, params.grad_q_accumulator + (first_block + panel) * kGradQBlock);
    }
  }
}

}  // namespace fa::sm90
