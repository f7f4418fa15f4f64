// The memory-bound passes around the main kernel: prepare (delta, log-sum-exp in base 2, cleared counters) and finish (accumulator to grad_q).
#include <algorithm>
#include <cmath>

#include "kernels/sm90/backward/finish.cuh"
#include "kernels/sm90/backward/launch.h"
#include "kernels/sm90/backward/pairs.cuh"
#include "plan/error.h"
#include "ptx/grid_dependency.cuh"
#include "ptx/mma_sync.cuh"
#include "runtime/cuda_check.h"
#include "runtime/launch_dependent.h"

namespace fa::sm90 {

namespace {

constexpr int kPassThreads = 256;

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

template <typename Element, int kPaddedDim>
__global__ void __launch_bounds__(kPassThreads) backward_prepare_kernel(const __grid_constant__ BackwardPassParams p) {
  constexpr int kLanes = prepare_lanes(kPaddedDim);
  ptx::launch_dependents();
  const int lane = threadIdx.x % kLanes;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * (kPassThreads / kLanes) + threadIdx.x / kLanes;
  const bool in_workspace = row < p.num_rows;
  const int64_t flat_head = row / p.padded_rows;
  const int i = static_cast<int>(row - flat_head * p.padded_rows);
  const int64_t batch = flat_head / p.heads_q, head = flat_head - batch * p.heads_q;
  const bool sees_keys = p.causal ? i + p.causal_offset >= 0 && p.visible_len_kv > 0 : p.visible_len_kv > 0;
  const bool counts = in_workspace && i < p.len_q && sees_keys;
  float sum = 0.0f;
  if (counts && 8 * lane < p.head_dim_v) {
    const auto o = *reinterpret_cast<const uint4*>(p.o + batch * p.o_strides.batch + head * p.o_strides.head + i * p.o_strides.seq + 8 * lane);
    const auto grad_o =
        *reinterpret_cast<const uint4*>(p.grad_o + batch * p.grad_o_strides.batch + head * p.grad_o_strides.head + i * p.grad_o_strides.seq + 8 * lane);
    sum = dot8<Element>(o, grad_o, 0.0f);
  }
#pragma unroll
  for (int distance = kLanes / 2; distance > 0; distance /= 2) {
    sum += __shfl_xor_sync(0xFFFFFFFF, sum, distance);
  }
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * kPassThreads + threadIdx.x;
  if (thread < p.num_counters) {
    p.counters[thread] = 0;
  }
  if (!in_workspace) {
    return;
  }
  if (i < min(p.unseen_rows, p.len_q) && 8 * lane < p.head_dim) {
    uint16_t* g_row = p.grad_q + batch * p.grad_q_strides.batch + head * p.grad_q_strides.head + i * p.grad_q_strides.seq;
    *reinterpret_cast<uint4*>(g_row + 8 * lane) = make_uint4(0, 0, 0, 0);
  }
  if (lane == 0) {
    const int64_t g_row = flat_head * p.len_q + i;
    p.lse_log2[statistics_row(row)] = counts ? p.lse[g_row] * 1.4426950408889634f : INFINITY;
    p.delta[statistics_row(row)] = counts ? sum - (p.grad_lse != nullptr ? p.grad_lse[g_row] : 0.0f) : 0.0f;
  }
  // Which of the accumulator's elements a lane clears does not matter: together the rows of a block of 64 clear it all.
  if (row < p.clear_rows) {
    auto* g_zero = reinterpret_cast<float4*>(p.grad_q_accumulator + row * kPaddedDim);
#pragma unroll
    for (int i = lane; i < kPaddedDim / 4; i += kLanes) {
      g_zero[i] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    }
  }
}

/// grad_q = scale * accumulator.
template <typename Element, int kPaddedDim>
__global__ void __launch_bounds__(kPassThreads) backward_finish_kernel(const __grid_constant__ BackwardPassParams p) {
  constexpr int kColumnGroups = kPaddedDim / 32;
  ptx::wait_for_previous_kernel();
  ptx::launch_dependents();
  const int64_t warp = (static_cast<int64_t>(blockIdx.x) * kPassThreads + threadIdx.x) / 32;
  const int64_t row = p.first_finish_row + warp / kColumnGroups * kFinishRows;  // of all heads
  if (row >= p.num_rows) {
    return;
  }
  const int64_t flat_head = row / p.padded_rows;
  const int slice = static_cast<int>(row - flat_head * p.padded_rows) / kFinishRows;
  if (kFinishRows * slice < p.unseen_rows || kFinishRows * slice >= p.len_q) {  // the main kernel may not have written there
    return;
  }
  const int64_t batch = flat_head / p.heads_q, head = flat_head - batch * p.heads_q;
  const FinishHead finish{p.grad_q_accumulator + flat_head * p.padded_rows * kPaddedDim,
                          p.grad_q + batch * p.grad_q_strides.batch + head * p.grad_q_strides.head,
                          p.grad_q_strides.seq,
                          p.len_q,
                          p.head_dim,
                          p.scale};
  finish_rows<Element, kPaddedDim>(finish, slice, static_cast<int>(warp % kColumnGroups));
}

using PassKernel = void (*)(BackwardPassParams);

/// dependent: it may begin before the kernel in front has ended.
void launch_pass(PassKernel kernel, const BackwardPassParams& params, int64_t threads, bool dependent, cudaStream_t stream, const char* what) {
  void* arguments[] = {const_cast<BackwardPassParams*>(&params)};
  const auto blocks = static_cast<unsigned>((threads + kPassThreads - 1) / kPassThreads);
  if (dependent) {
    launch_dependent(reinterpret_cast<const void*>(kernel), blocks, kPassThreads, arguments, 0, stream, what);
  } else {
    cuda_check(cudaLaunchKernel(reinterpret_cast<const void*>(kernel), dim3(blocks), dim3(kPassThreads), arguments, 0, stream), what);
  }
}

/// The instantiation for a padded head_dim, of those for 64, 128, 192 and 256, or an error that names it.
PassKernel pick(const PassKernel (&kernels)[4], int padded_dim) {
  if (padded_dim % 64 != 0 || padded_dim < 64 || padded_dim > 256) {
    fail(FA_STATUS_UNSUPPORTED, "sm90 backward passes: expected a padded head_dim of 64, 128, 192 or 256, got %d", padded_dim);
  }
  return kernels[padded_dim / 64 - 1];
}

template <typename Element>
PassKernel prepare_kernel(int padded_dim) {
  return pick({backward_prepare_kernel<Element, 64>, backward_prepare_kernel<Element, 128>, backward_prepare_kernel<Element, 192>,
               backward_prepare_kernel<Element, 256>},
              padded_dim);
}

template <typename Element>
PassKernel finish_kernel(int padded_dim) {
  return pick(
      {backward_finish_kernel<Element, 64>, backward_finish_kernel<Element, 128>, backward_finish_kernel<Element, 192>, backward_finish_kernel<Element, 256>},
      padded_dim);
}

}  // namespace

void launch_backward_prepare(const BackwardPassParams& params, DType dtype, int padded_dim, cudaStream_t stream) {
  const PassKernel kernel = dtype == DType::kFloat16 ? prepare_kernel<__half>(padded_dim) : prepare_kernel<__nv_bfloat16>(padded_dim);
  const int64_t threads = std::max(params.num_rows * prepare_lanes(padded_dim), params.num_counters);
  launch_pass(kernel, params, threads, false, stream, "launch of the sm90 backward prepare kernel");
}

void launch_backward_finish(const BackwardPassParams& params, DType dtype, int padded_dim, cudaStream_t stream) {
  const PassKernel kernel = dtype == DType::kFloat16 ? finish_kernel<__half>(padded_dim) : finish_kernel<__nv_bfloat16>(padded_dim);
  launch_pass(kernel, params, (params.num_rows - params.first_finish_row) / kFinishRows * padded_dim, true, stream,
              "launch of the sm90 backward finish kernel");
}

}  // namespace fa::sm90
