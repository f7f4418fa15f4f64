// NaN and infinity in v at keys that only some rows of a tile see. The tensor core multiplies them with the zero weights of the other rows, and 0 * NaN is NaN.
// A row must not be touched by keys that it does not see, so where an output is not finite and such a value lies in the partly visible keys, the warp computes
// its rows again by ordinary arithmetic. Milliseconds for a long sequence, but only the few warps beside such a key come here, and none without one.
#pragma once

#include "kernels/sm90/forward/schedule.cuh"
#include "kernels/sm90/forward/softmax.cuh"
#include "ptx/exp2.cuh"
#include "ptx/mma_sync.cuh"
#include "ptx/thread_index.cuh"

namespace fa::sm90 {

namespace detail {

__device__ __forceinline__ float2 unpack2(__half2 pair) {
  return __half22float2(pair);
}
__device__ __forceinline__ float2 unpack2(__nv_bfloat162 pair) {
  return __bfloat1622float2(pair);
}
template <typename Element>
struct PairOf;
template <>
struct PairOf<__half> {
  using Type = __half2;
};
template <>
struct PairOf<__nv_bfloat16> {
  using Type = __nv_bfloat162;
};

/// Two neighbouring elements of a row.
template <typename Element>
__device__ __forceinline__ float2 load_pair(const GlobalView& view, int batch, int row, int head, int column) {
  const auto* g_row = static_cast<const Element*>(view.data) + batch * view.batch_stride + row * view.seq_stride + head * view.head_stride;
  return unpack2(*reinterpret_cast<const typename PairOf<Element>::Type*>(g_row + column));
}

}  // namespace detail

/// True, in the whole warp, if some accumulator is NaN or infinite.
template <int kNum>
__device__ __forceinline__ bool any_nonfinite(const float (&o)[kNum]) {
  float probe[4] = {0.0f, 0.0f, 0.0f, 0.0f};  // four short chains instead of a long one
#pragma unroll
  for (int i = 0; i < kNum; ++i) {
    probe[i % 4] = fmaf(o[i], 0.0f, probe[i % 4]);
  }
  return __any_sync(0xFFFFFFFF, !((probe[0] + probe[1]) + (probe[2] + probe[3]) == 0.0f));
}

/// True, in the whole warp, if v has NaN or infinity at keys [first, end).
template <typename Element>
__device__ __forceinline__ bool nonfinite_values(const ForwardParams& params, const WorkTile& tile, int first, int end) {
  const int kv_head = params.group_size.quotient(tile.head), pairs = params.head_dim_v / 2;
  bool found = false;
  for (int i = ptx::fresh_thread_index() % 32; i < (end - first) * pairs; i += 32) {
    const float2 value = detail::load_pair<Element>(params.v, tile.batch, first + i / pairs, kv_head, i % pairs * 2);
    found = found || !(value.x * 0.0f + value.y * 0.0f == 0.0f);
  }
  return __any_sync(0xFFFFFFFF, found);
}

/// True, in the whole warp, if v at this key is NaN in every column.
template <typename Element>
__device__ __forceinline__ bool all_nan(const ForwardParams& params, const WorkTile& tile, int key) {
  const int kv_head = params.group_size.quotient(tile.head);
  bool all = true;
  for (int column = ptx::fresh_thread_index() % 32 * 2; column < params.head_dim_v; column += 64) {
    const float2 value = detail::load_pair<Element>(params.v, tile.batch, key, kv_head, column);
    all = all && isnan(value.x) && isnan(value.y);
  }
  return __all_sync(0xFFFFFFFF, all);
}

/// o: the thread's two rows (row, row + 8) of O before the division by the row sums, from the definition: each key only where it is visible.
template <typename Element, int kOutputs>
__device__ __forceinline__ void recompute_output(const ForwardParams& params, const WorkTile& tile, int row, const RowState& rows, float (&o)[kOutputs]) {
  const int kv_head = params.group_size.quotient(tile.head), quad_column = ptx::fresh_thread_index() % 4 * 2;
  const int query[2] = {min(row, params.len_q - 1), min(row + 8, params.len_q - 1)};
  const int visible[2] = {visible_keys(params, query[0]), visible_keys(params, query[1])};
  float offset[2];
  guarded_offsets(rows, params.scale_log2, offset);
#pragma unroll
  for (int i = 0; i < kOutputs; ++i) {
    o[i] = 0.0f;
  }
  // The number of keys must be the same in the whole warp, since the lanes of a row exchange partial products.
  const int end = __reduce_max_sync(0xFFFFFFFF, visible[1]);
#pragma unroll 1
  for (int key = 0; key < end; ++key) {
    float score[2] = {0.0f, 0.0f};
#pragma unroll 1
    for (int column = quad_column; column < params.head_dim; column += 8) {
      const float2 k = detail::load_pair<Element>(params.k, tile.batch, key, kv_head, column);
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const float2 q = detail::load_pair<Element>(params.q, tile.batch, query[r], tile.head, column);
        score[r] = fmaf(q.x, k.x, fmaf(q.y, k.y, score[r]));
      }
    }
    float weight[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      score[r] += __shfl_xor_sync(0xFFFFFFFF, score[r], 1);
      score[r] += __shfl_xor_sync(0xFFFFFFFF, score[r], 2);
      weight[r] = static_cast<float>(static_cast<Element>(ptx::exp2_approx(fmaf(score[r], params.scale_log2, offset[r]))));
    }
#pragma unroll
    for (int group = 0; group < kOutputs / 4; ++group) {
      const int column = 8 * group + quad_column;
      if (column < params.head_dim_v) {
        const float2 v = detail::load_pair<Element>(params.v, tile.batch, key, kv_head, column);
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          if (key < visible[r]) {
            o[4 * group + 2 * r] = fmaf(weight[r], v.x, o[4 * group + 2 * r]);
            o[4 * group + 2 * r + 1] = fmaf(weight[r], v.y, o[4 * group + 2 * r + 1]);
          }
        }
      }
    }
  }
}

/// Repairs O where values at invisible keys may have reached it. first_row: the warp's first query; end: keys below it took part in the products.
template <typename Element, int kOutputs>
__device__ __forceinline__ void remove_masked_values(const ForwardParams& params, const WorkTile& tile, int first_row, int row, int end, const RowState& rows,
                                                     float (&o)[kOutputs]) {
  const int common_keys = visible_keys(params, first_row);
  if (!any_nonfinite(o) || !nonfinite_values<Element>(params, tile, common_keys, min(end, params.len_kv))) {
    return;
  }
  // Where v is NaN altogether (a training run that diverged), nothing can be repaired, and every warp would try.
  if (common_keys == 0 || !all_nan<Element>(params, tile, 0)) {
    recompute_output<Element>(params, tile, row, rows, o);
  }
}

}  // namespace fa::sm90
