// From accumulators to memory: O / sum and the log-sum-exp of a warpgroup's 64 rows.
#pragma once

#include "kernels/sm90/forward/schedule.cuh"
#include "kernels/sm90/forward/softmax.cuh"
#include "ptx/fence_proxy.cuh"
#include "ptx/mbarrier.cuh"
#include "ptx/mma_sync.cuh"
#include "ptx/named_barrier.cuh"
#include "ptx/stmatrix.cuh"
#include "ptx/tma.cuh"
#include "tile/wgmma_descriptor.cuh"

namespace fa::sm90 {

/// Sums the rows over the lanes that share them, writes their log-sum-exp, and returns what O is multiplied with: 1 / sum, 0 for a row that sees no key, NaN for
/// a row that sees only scores of -infinity (0 / 0 in the unfused form).
/// row: of the query, the thread's first; the second is row + 8.
__device__ __forceinline__ void finish_rows(const ForwardParams& params, const WorkTile& tile, int row, RowState& rows, float (&inverse_sum)[2]) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float sum = rows.sum[r];
    sum += __shfl_xor_sync(0xFFFFFFFF, sum, 1);
    sum += __shfl_xor_sync(0xFFFFFFFF, sum, 2);
    const int query = row + 8 * r;
    const bool sees_keys = visible_keys(params, query) > 0;
    inverse_sum[r] = sees_keys ? (sum == 0.0f ? NAN : 1.0f / sum) : 0.0f;
    if (params.lse != nullptr && threadIdx.x % 4 == 0 && query < params.len_q) {
      const int64_t flat_head = static_cast<int64_t>(tile.batch) * params.heads_q + tile.head;
      params.lse[flat_head * params.len_q + query] = sum == 0.0f ? kMinusInfinity : rows.reference[r] * params.scale + logf(sum);
    }
  }
}

/// Writes a warpgroup's O to its rows of the staging tile and sends them off. Called by the whole warpgroup; the staging rows are free when the warpgroup's
/// thread 0 has returned from tma_store_wait_read.
template <typename Config>
__device__ __forceinline__ void store_output(const ForwardParams& params, typename Config::SharedStorage& smem, const WorkTile& tile, int warpgroup,
                                             const float (&o)[Config::kOutputs], const float (&inverse_sum)[2]) {
  using namespace ptx;
  const int thread = threadIdx.x % 128, lane = threadIdx.x % 32;
  const int barrier = Config::kBarrierConsumer + warpgroup;
  if constexpr (Config::kSeparateO) {
    if (thread == 0) {
      tma_store_wait_read();  // of the previous tile
    }
  }
  // The rows are free: q's rows of this warpgroup are read by nobody else, but by all of its four warps.
  named_barrier_sync(barrier, 128);
  const int row = 64 * warpgroup + thread / 32 * 16 + lane % 16;
#pragma unroll
  for (int panel = 0; panel < Config::kPanels; ++panel) {
    const uint32_t s_panel = shared_address(smem.o()[panel]);
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      uint32_t packed[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int element = 32 * panel + 8 * step + 2 * i;
        packed[i] = pack2<typename Config::Element>(o[element] * inverse_sum[i & 1], o[element + 1] * inverse_sum[i & 1]);
      }
      stmatrix_x4(s_panel + tile::swizzled_offset_bytes(row, 2 * step + lane / 16), packed[0], packed[1], packed[2], packed[3]);
    }
  }
  fence_proxy_async_shared();
  named_barrier_sync(barrier, 128);
  if (thread == 0) {
    const int first_row = tile.q_tile * Config::kTileQ + 64 * warpgroup;
    if (first_row < params.len_q) {
#pragma unroll
      for (int panel = 0; panel < Config::kPanels; ++panel) {
        tma_store_4d(&params.map_o, smem.o()[panel][64 * warpgroup], 64 * panel, first_row, tile.head, tile.batch);
      }
    }
    tma_store_commit();
    if constexpr (!Config::kSeparateO) {
      tma_store_wait_read();
      mbarrier_arrive(&smem.q_empty);
    }
  }
}

/// A warpgroup's rows of a query tile that sees no key at all: O = 0, log-sum-exp = -infinity, by ordinary stores, since shared memory may already be taken.
template <typename Config>
__device__ __forceinline__ void store_rows_without_keys(const ForwardParams& params, const WorkTile& tile, int warpgroup) {
  const int thread = threadIdx.x % 128;
  const int first_row = tile.q_tile * Config::kTileQ + 64 * warpgroup;
  const int rows = min(64, params.len_q - first_row);
  auto* g_o = static_cast<uint16_t*>(params.o.data) + tile.batch * params.o.batch_stride + tile.head * params.o.head_stride;
  const int chunks = params.head_dim_v / 8;  // of 16 bytes
  for (int i = thread; i < rows * chunks; i += 128) {
    *reinterpret_cast<uint4*>(g_o + (first_row + i / chunks) * params.o.seq_stride + i % chunks * 8) = make_uint4(0, 0, 0, 0);
  }
  if (params.lse != nullptr && thread < rows) {
    const int64_t flat_head = static_cast<int64_t>(tile.batch) * params.heads_q + tile.head;
    params.lse[flat_head * params.len_q + first_row + thread] = kMinusInfinity;
  }
}

}  // namespace fa::sm90
