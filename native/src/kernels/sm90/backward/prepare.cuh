// delta and the log-sum-exp of rows, and the warps of the main kernel that prepare them for heads that come later, beside the work on others.
#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/sm90/backward/pairs.cuh"
#include "kernels/sm90/backward/params.h"
#include "kernels/sm90/backward/steps.cuh"
#include "ptx/reduce.cuh"

namespace fa::sm90 {

/// sum + the products of eight elements.
template <typename Element>
__device__ __forceinline__ float dot8(const uint4& a, const uint4& b, float sum) {
  using Type = typename PairOf<Element>::Type;
  const auto* pairs_a = reinterpret_cast<const Type*>(&a);
  const auto* pairs_b = reinterpret_cast<const Type*>(&b);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 x = to_float2(pairs_a[i]), y = to_float2(pairs_b[i]);
    sum = fmaf(x.x, y.x, fmaf(x.y, y.y, sum));
  }
  return sum;
}

/// Lanes that prepare a row of the padded workspace together: a power of two, eight columns each.
constexpr int prepare_lanes(int padded_dim) {
  return padded_dim > 128 ? 32 : padded_dim / 8;
}

/// A row of the padded workspace. Source: BackwardPassParams, or the fields of that name.
struct PrepareRow {
  int64_t flat_head;
  int i;        ///< in its head
  bool counts;  ///< is a query that sees keys

  template <typename Source>
  __device__ __forceinline__ PrepareRow(const Source& p, int64_t row, bool in_workspace) {
    flat_head = row / p.padded_rows;
    i = static_cast<int>(row - flat_head * p.padded_rows);
    const bool sees_keys = p.causal ? i + p.causal_offset >= 0 && p.visible_len_kv > 0 : p.visible_len_kv > 0;
    counts = in_workspace && i < p.len_q && sees_keys;
  }

  /// The lane's part of rowsum(grad_o * o).
  template <typename Element, typename Source>
  __device__ __forceinline__ float dot(const Source& p, int lane) const {
    if (!counts || 8 * lane >= p.head_dim_v) {
      return 0.0f;
    }
    const int64_t batch = flat_head / p.heads_q, head = flat_head - batch * p.heads_q;
    const auto o = *reinterpret_cast<const uint4*>(p.o + batch * p.o_strides.batch + head * p.o_strides.head + i * p.o_strides.seq + 8 * lane);
    const auto grad_o =
        *reinterpret_cast<const uint4*>(p.grad_o + batch * p.grad_o_strides.batch + head * p.grad_o_strides.head + i * p.grad_o_strides.seq + 8 * lane);
    return dot8<Element>(o, grad_o, 0.0f);
  }

  template <typename Source>
  __device__ __forceinline__ void write(const Source& p, float sum) const {
    const int64_t g_row = flat_head * p.len_q + i, row = statistics_row(flat_head * p.padded_rows + i);
    p.lse_log2[row] = counts ? p.lse[g_row] * 1.4426950408889634f : INFINITY;
    p.delta[row] = counts ? sum - (p.grad_lse != nullptr ? p.grad_lse[g_row] : 0.0f) : 0.0f;
  }
};

/// Sum over the kLanes lanes of a row.
template <int kLanes>
__device__ __forceinline__ float sum_of_lanes(float sum) {
#pragma unroll
  for (int distance = kLanes / 2; distance > 0; distance /= 2) {
    sum += __shfl_xor_sync(0xFFFFFFFF, sum, distance);
  }
  return sum;
}

/// Prepares the block's share of the rows of a head prepare_distance behind its own. Runs in `warps` warps, of which this is number `warp`; each counts.
template <typename Config>
__device__ __forceinline__ void prepare_later_head(const BackwardParams& params, int warp, int warps) {
  constexpr int kLanes = prepare_lanes(Config::kHeadDim), kRows = 32 / kLanes, kUnit = 32;
  constexpr int kAtATime = Config::kTile.producer_registers() < 32 ? 1 : 2;  ///< loads in flight
  const BlockPart of = block_part<Config>(params);
  const TileOrder::Work work = params.order.work(of.tile);
  const int kv_head = work.head + params.prepare_distance;
  if (kv_head >= params.order.num_heads || of.part > 0) {
    return;
  }
  const RowSource& p = params.rows;
  const int units = params.group_size * static_cast<int>(p.padded_rows / kUnit);
  const int first = kUnit / kRows * static_cast<int>(static_cast<int64_t>(units) * work.tile / params.order.num_tiles);
  const int end = kUnit / kRows * static_cast<int>(static_cast<int64_t>(units) * (work.tile + 1) / params.order.num_tiles);
  const int lane = threadIdx.x % 32;
  const int64_t first_row = kv_head * params.group_size * p.padded_rows + lane / kLanes;
#pragma unroll 1
  for (int group = first + kAtATime * warp; group < end; group += kAtATime * warps) {
    float sums[kAtATime];
#pragma unroll
    for (int a = 0; a < kAtATime; ++a) {
      sums[a] = PrepareRow(p, first_row + kRows * (group + a), true).template dot<typename Config::Element>(p, lane % kLanes);
    }
#pragma unroll
    for (int a = 0; a < kAtATime; ++a) {
      const float sum = sum_of_lanes<kLanes>(sums[a]);
      if (lane % kLanes == 0) {
        PrepareRow(p, first_row + kRows * (group + a), true).write(p, sum);
      }
    }
  }
  __syncwarp();
  if (lane == 0) {
    ptx::increment_release(params.warps_prepared + kv_head);
  }
}

}  // namespace fa::sm90
