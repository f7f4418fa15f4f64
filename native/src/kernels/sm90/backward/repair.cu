// NaN and infinity in causal problems. The tensor core multiplies what a mask hides with zero, and 0 * NaN is NaN: a NaN in q or grad_o may reach keys that its
// row does not see, one in k rows that do not see its key. The main kernel flags the keys where that may have happened; this pass computes their gradients, and
// those of the rows around them, again by ordinary arithmetic from the definition. Without flags, the usual case, it reads a few kilobytes and ends.
#include "kernels/sm90/backward/launch.h"
#include "kernels/sm90/backward/pairs.cuh"
#include "ptx/exp2.cuh"
#include "ptx/grid_dependency.cuh"
#include "runtime/launch_dependent.h"

namespace fa::sm90 {

namespace {

constexpr int kRepairThreads = 256;
constexpr int kWarps = kRepairThreads / 32;
/// Columns of a row that a lane holds, in pairs: 2 lane + 64 c.
constexpr int kMaxPairs = 4;

/// A lane's part of a row.
struct Row {
  float2 pairs[kMaxPairs];
};

template <typename Element>
class Repair {
  using Pair = typename PairOf<Element>::Type;

 public:
  __device__ __forceinline__ Repair(const BackwardRepairParams& params, int64_t slice) : p_(params) {
    const TileOrder::Work work = params.main.order.work(static_cast<int>(slice / params.slices));
    batch_ = work.head / params.main.heads_kv;
    kv_head_ = work.head - batch_ * params.main.heads_kv;
    first_tile_key_ = work.tile * params.tile_kv;
    first_key_ = first_tile_key_ + static_cast<int>(slice % params.slices) * kRepairKeys;
  }

  __device__ __forceinline__ void run(int flags) {
    const int warp = threadIdx.x / 32, offset = p_.main.causal_offset;
    // Keys that no query sees as well: the last query tile may have been multiplied with them.
#pragma unroll 1
    for (int key = first_key_ + warp; key < min(first_key_ + kRepairKeys, p_.main.len_kv); key += kWarps) {
      repair_key(key);
    }
    if (!(flags & kRepairGradQ)) {
      return;
    }
    // Rows of the query tiles that were multiplied with the keys although some of them do not see them.
    const int first_row = max(0, first_tile_key_ - offset) / p_.step_rows * p_.step_rows;
    const int end_row = min(p_.main.len_q, max(0, first_tile_key_ + p_.tile_kv - 1 - offset) / p_.step_rows * p_.step_rows + p_.step_rows);
#pragma unroll 1
    for (int i = warp; i < (end_row - first_row) * p_.main.group_size; i += kWarps) {
      repair_row(first_row + i / p_.main.group_size, kv_head_ * p_.main.group_size + i % p_.main.group_size);
    }
  }

 private:
  __device__ __forceinline__ static const uint16_t* row_of(const uint16_t* data, const Strides& strides, int batch, int row, int head) {
    return data + batch * strides.batch + row * strides.seq + head * strides.head;
  }

  __device__ __forceinline__ static Row load(const uint16_t* g_row, int columns) {
    Row row;
#pragma unroll
    for (int c = 0; c < kMaxPairs; ++c) {
      const int column = 2 * (threadIdx.x % 32) + 64 * c;
      row.pairs[c] = column < columns ? to_float2(*reinterpret_cast<const Pair*>(g_row + column)) : float2{0.0f, 0.0f};
    }
    return row;
  }

  __device__ __forceinline__ static void store(uint16_t* g_row, int columns, const Row& row, float factor) {
#pragma unroll
    for (int c = 0; c < kMaxPairs; ++c) {
      const int column = 2 * (threadIdx.x % 32) + 64 * c;
      if (column < columns) {
        reinterpret_cast<Element*>(g_row)[column] = static_cast<Element>(row.pairs[c].x * factor);
        reinterpret_cast<Element*>(g_row)[column + 1] = static_cast<Element>(row.pairs[c].y * factor);
      }
    }
  }

  /// Sum over all columns, in every lane.
  __device__ __forceinline__ static float dot(const Row& a, const Row& b) {
    float sum = 0.0f;
#pragma unroll
    for (int c = 0; c < kMaxPairs; ++c) {
      sum = fmaf(a.pairs[c].x, b.pairs[c].x, fmaf(a.pairs[c].y, b.pairs[c].y, sum));
    }
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) {
      sum += __shfl_xor_sync(0xFFFFFFFF, sum, distance);
    }
    return sum;
  }

  __device__ __forceinline__ static void add(Row& sum, float factor, const Row& row) {
    const float rounded = static_cast<float>(static_cast<Element>(factor));
#pragma unroll
    for (int c = 0; c < kMaxPairs; ++c) {
      sum.pairs[c].x = fmaf(rounded, row.pairs[c].x, sum.pairs[c].x);
      sum.pairs[c].y = fmaf(rounded, row.pairs[c].y, sum.pairs[c].y);
    }
  }

  /// P and dS of one pair.
  struct Weights {
    float p;
    float ds;
  };
  __device__ __forceinline__ Weights weights(const Row& q, const Row& k, const Row& v, const Row& grad_o, int64_t workspace_row) const {
    const float p = ptx::exp2_approx(fmaf(dot(q, k), p_.main.scale_log2, -p_.main.lse_log2[statistics_row(workspace_row)]));
    return {p, p * (dot(grad_o, v) - p_.main.delta[statistics_row(workspace_row)])};
  }

  __device__ __forceinline__ int64_t workspace_row(int row, int head) const {
    return (static_cast<int64_t>(batch_) * p_.main.heads_q + head) * p_.main.padded_rows + row;
  }

  __device__ __forceinline__ void repair_key(int key) const {
    const Row k = load(row_of(p_.k, p_.k_strides, batch_, key, kv_head_), p_.head_dim);
    const Row v = load(row_of(p_.v, p_.v_strides, batch_, key, kv_head_), p_.head_dim_v);
    Row grad_k{}, grad_v{};
#pragma unroll 1
    for (int head = kv_head_ * p_.main.group_size; head < (kv_head_ + 1) * p_.main.group_size; ++head) {
#pragma unroll 1
      for (int row = max(0, key - p_.main.causal_offset); row < p_.main.len_q; ++row) {
        const Row q = load(row_of(p_.q, p_.q_strides, batch_, row, head), p_.head_dim);
        const Row grad_o = load(row_of(p_.grad_o, p_.grad_o_strides, batch_, row, head), p_.head_dim_v);
        const Weights w = weights(q, k, v, grad_o, workspace_row(row, head));
        add(grad_v, w.p, grad_o);
        add(grad_k, w.ds, q);
      }
    }
    store(const_cast<uint16_t*>(row_of(p_.grad_k, p_.grad_k_strides, batch_, key, kv_head_)), p_.head_dim, grad_k, p_.main.scale);
    store(const_cast<uint16_t*>(row_of(p_.grad_v, p_.grad_v_strides, batch_, key, kv_head_)), p_.head_dim_v, grad_v, 1.0f);
  }

  __device__ __forceinline__ void repair_row(int row, int head) const {
    const Row q = load(row_of(p_.q, p_.q_strides, batch_, row, head), p_.head_dim);
    const Row grad_o = load(row_of(p_.grad_o, p_.grad_o_strides, batch_, row, head), p_.head_dim_v);
    const int64_t in_workspace = workspace_row(row, head);
    Row grad_q{};
#pragma unroll 1
    for (int key = 0; key < min(p_.main.visible_len_kv, row + p_.main.causal_offset + 1); ++key) {
      const Row k = load(row_of(p_.k, p_.k_strides, batch_, key, kv_head_), p_.head_dim);
      const Row v = load(row_of(p_.v, p_.v_strides, batch_, key, kv_head_), p_.head_dim_v);
      add(grad_q, weights(q, k, v, grad_o, in_workspace).ds, k);
    }
    store(const_cast<uint16_t*>(row_of(p_.grad_q, p_.grad_q_strides, batch_, row, head)), p_.head_dim, grad_q, p_.main.scale);
  }

  const BackwardRepairParams& p_;
  int batch_, kv_head_, first_tile_key_, first_key_;
};

/// A block looks at as many flags as it has threads.
template <typename Element>
__global__ void __launch_bounds__(kRepairThreads) backward_repair_kernel(const __grid_constant__ BackwardRepairParams params) {
  __shared__ int s_flags[kRepairThreads];
  ptx::wait_for_previous_kernel();
  const int64_t num_slices = int64_t{params.slices} * params.main.order.num_tiles * params.main.order.num_heads;
  const int64_t first_slice = static_cast<int64_t>(blockIdx.x) * kRepairThreads;
  const int mine = first_slice + threadIdx.x < num_slices ? params.main.repair_flags[first_slice + threadIdx.x] : 0;
  s_flags[threadIdx.x] = mine;
  if (!__syncthreads_or(mine)) {
    return;
  }
#pragma unroll 1
  for (int i = 0; i < kRepairThreads; ++i) {
    if (s_flags[i] != 0) {
      Repair<Element>(params, first_slice + i).run(s_flags[i]);
    }
  }
}

}  // namespace

void launch_backward_repair(const BackwardRepairParams& params, DType dtype, cudaStream_t stream) {
  const int64_t slices = int64_t{params.slices} * params.main.order.num_tiles * params.main.order.num_heads;
  void* arguments[] = {const_cast<BackwardRepairParams*>(&params)};
  const void* kernel = dtype == DType::kFloat16 ? reinterpret_cast<const void*>(backward_repair_kernel<__half>)
                                                : reinterpret_cast<const void*>(backward_repair_kernel<__nv_bfloat16>);
  const auto blocks = static_cast<unsigned>((slices + kRepairThreads - 1) / kRepairThreads);
  launch_dependent(kernel, blocks, kRepairThreads, arguments, 0, stream, "launch of the sm90 backward repair kernel");
}

}  // namespace fa::sm90
