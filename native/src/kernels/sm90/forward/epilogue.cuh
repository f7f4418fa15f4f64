// From accumulators to memory: O / sum and the log-sum-exp of a warpgroup's 64 rows.
#pragma once

#include "kernels/sm90/forward/schedule.cuh"
#include "kernels/sm90/forward/softmax.cuh"
#include "ptx/fence_proxy.cuh"
#include "ptx/mbarrier.cuh"
#include "ptx/mma_sync.cuh"
#include "ptx/named_barrier.cuh"
#include "ptx/special_registers.cuh"
#include "ptx/stmatrix.cuh"
#include "ptx/tma.cuh"
#include "tile/wgmma_descriptor.cuh"

namespace fa::sm90 {

/// The rows' sums over the lanes that share them, and what O is multiplied with: 1 / sum, 0 for a row that sees no key, NaN for a row that sees only scores of
/// -infinity (0 / 0 in the unfused form). A sum is 0, NaN or at least about 1, so the approximate reciprocal (1 ulp) is safe. row: of the query, the thread's
/// first; the second is row + 8.
__device__ __forceinline__ void total_sums(const ForwardParams& params, int row, const RowState& rows, float (&sum)[2], float (&inverse_sum)[2]) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    sum[r] = rows.sum[r];
    sum[r] += __shfl_xor_sync(0xFFFFFFFF, sum[r], 1);
    sum[r] += __shfl_xor_sync(0xFFFFFFFF, sum[r], 2);
    const bool sees_keys = visible_keys(params, row + 8 * r) > 0;
    inverse_sum[r] = sees_keys ? (sum[r] == 0.0f ? NAN : __fdividef(1.0f, sum[r])) : 0.0f;
  }
}

/// After O is on its way: the fence in front of its store waits for all earlier stores of the thread. kKnown: sum is the log-sum-exp itself.
template <bool kKnown>
__device__ __forceinline__ void store_log_sum_exp(const ForwardParams& params, const TilePlace& place, int row, const RowState& rows, const float (&sum)[2]) {
  if (params.lse == nullptr || ptx::thread_index_anew() % 4 != 0) {
    return;
  }
  const int64_t flat_head = static_cast<int64_t>(place.batch) * params.heads_q + place.head;
  float* g_lse = params.lse + flat_head * params.len_q + place.first_query;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    if (row + 8 * r < place.queries) {
      g_lse[row + 8 * r] = kKnown ? sum[r] : sum[r] == 0.0f ? kMinusInfinity : rows.reference[r] * params.scale + __logf(sum[r]);
    }
  }
}

/// Two accumulators of one row, scaled and rounded.
template <typename Config>
__device__ __forceinline__ uint32_t output_pair(const float (&o)[Config::kOutputs], const float (&inverse_sum)[2], int element) {
  const float factor = inverse_sum[fragment_row(element)];
  return ptx::pack2<typename Config::Element>(o[element] * factor, o[element + 1] * factor);
}

/// Stages a warp's 16 rows of O and sends them off by TMA, which clips what lies outside the tensor. Each warp by itself: the others may be behind.
template <typename Config>
__device__ __forceinline__ void store_output_by_tma(const ForwardParams& params, typename Config::Element (&s_o)[Config::kPanels][Config::kTileQ][64],
                                                    const TilePlace& place, int first_row, int warpgroup, const float (&o)[Config::kOutputs],
                                                    const float (&inverse_sum)[2]) {
  using namespace ptx;
  const int lane = ptx::thread_index_anew() % 32;
  const int warp_row = 64 * warpgroup + ptx::thread_index_anew() % 128 / 32 * 16;
  if (lane == 0) {
    tma_store_wait_read();  // the previous tile's store has read these rows
  }
  __syncwarp();
  const int row = warp_row + lane % 16;
#pragma unroll
  for (int panel = 0; panel < Config::kPanels; ++panel) {
    const uint32_t s_panel = shared_address(s_o[panel]);
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      const int element = 32 * panel + 8 * step;
      stmatrix_x4(s_panel + tile::swizzled_offset_bytes(row, 2 * step + lane / 16), output_pair<Config>(o, inverse_sum, element),
                  output_pair<Config>(o, inverse_sum, element + 2), output_pair<Config>(o, inverse_sum, element + 4),
                  output_pair<Config>(o, inverse_sum, element + 6));
    }
  }
  fence_proxy_async_shared();
  __syncwarp();
  if (lane == 0 && first_row + warp_row < place.queries) {
#pragma unroll
    for (int panel = 0; panel < Config::kPanels; ++panel) {
      tma_store_4d(&params.map_o, s_o[panel][warp_row], 64 * panel, place.first_query + first_row + warp_row, place.head, place.batch);
    }
    tma_store_commit();
  }
}

/// Stores O from registers. The four lanes that share a row hold two columns of each group of eight; they exchange until each has one group of four whole, and
/// write 64 contiguous bytes together.
template <typename Config>
__device__ __forceinline__ void store_output_from_registers(const ForwardParams& params, const TilePlace& place, int row, const float (&o)[Config::kOutputs],
                                                            const float (&inverse_sum)[2]) {
  const int quad_lane = ptx::thread_index_anew() % 4;
  const bool odd = quad_lane & 1, upper = quad_lane & 2;
  auto* g_o = static_cast<uint16_t*>(params.o.data) + place.batch * params.o.batch_stride + place.head * params.o.head_stride;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int query = row + 8 * r;
    uint16_t* g_row = g_o + (place.first_query + query) * params.o.seq_stride + 8 * quad_lane;
#pragma unroll
    for (int group = 0; group < Config::kHeadDim / 32; ++group) {
      // piece[j]: this lane's columns of group of eight 4 group + j. Transposes the 4 x 4 pieces of the four lanes, first in 2 x 2 blocks, then the blocks.
      uint32_t piece[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        piece[j] = output_pair<Config>(o, inverse_sum, 16 * group + 4 * j + 2 * r);
      }
#pragma unroll
      for (int j = 0; j < 4; j += 2) {
        const uint32_t received = __shfl_xor_sync(0xFFFFFFFF, odd ? piece[j] : piece[j + 1], 1);
        (odd ? piece[j] : piece[j + 1]) = received;
      }
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const uint32_t received = __shfl_xor_sync(0xFFFFFFFF, upper ? piece[j] : piece[j + 2], 2);
        (upper ? piece[j] : piece[j + 2]) = received;
      }
      if (query < place.queries && 32 * group + 8 * quad_lane < params.head_dim_v) {
        *reinterpret_cast<uint4*>(g_row + 32 * group) = make_uint4(piece[0], piece[1], piece[2], piece[3]);
      }
    }
  }
}

/// The log-sum-exp of a row that sees no key: that of its sink, if there is one.
__device__ __forceinline__ float log_sum_exp_without_keys(const ForwardParams&, int) {
  return kMinusInfinity;
}
__device__ __forceinline__ float log_sum_exp_without_keys(const ModifiedForwardParams& params, int head) {
  return params.scores.sinks != nullptr ? params.scores.sinks[head] : kMinusInfinity;
}

/// A warpgroup's rows of a query tile that sees no key at all: O = 0.
template <typename Config>
__device__ __forceinline__ void store_rows_without_keys(const typename Config::Params& params, const TilePlace& place, int tile_row, int warpgroup) {
  const int thread = ptx::thread_index_anew() % 128;
  const int first_row = tile_row + 64 * warpgroup;
  const int rows = first_row < 0 ? 0 : min(64, place.queries - first_row);
  const int first_place = place.first_query + first_row;
  auto* g_o = static_cast<uint16_t*>(params.o.data) + place.batch * params.o.batch_stride + place.head * params.o.head_stride;
  const int chunks = params.head_dim_v / 8;  // of 16 bytes
  for (int i = thread; i < rows * chunks; i += 128) {
    *reinterpret_cast<uint4*>(g_o + (first_place + i / chunks) * params.o.seq_stride + i % chunks * 8) = make_uint4(0, 0, 0, 0);
  }
  if (params.lse != nullptr && thread < rows) {
    const int64_t flat_head = static_cast<int64_t>(place.batch) * params.heads_q + place.head;
    params.lse[flat_head * params.len_q + first_place + thread] = log_sum_exp_without_keys(params, place.head);
  }
}

}  // namespace fa::sm90
