// The memory-bound passes around the main kernel: prepare (delta, log-sum-exp in base 2, zeroed accumulator) and finish (accumulator to grad_q).
#include <cmath>

#include "attention/visibility.cuh"
#include "kernels/sm80/backward/grad_sinks.cuh"
#include "kernels/sm80/backward/passes.h"
#include "kernels/sm80/backward/table.h"
#include "ptx/mma_sync.cuh"

namespace fa::sm80 {

namespace {

template <class Element>
__device__ __forceinline__ float to_float(uint16_t bits);
template <>
__device__ __forceinline__ float to_float<__half>(uint16_t bits) {
  return __half2float(__ushort_as_half(bits));
}
template <>
__device__ __forceinline__ float to_float<__nv_bfloat16>(uint16_t bits) {
  return __uint_as_float(static_cast<uint32_t>(bits) << 16);
}

/// Eight elements from g_data on.
__device__ __forceinline__ void load8(uint16_t (&values)[8], const uint16_t* g_data, bool aligned) {
  if (aligned) {
    *reinterpret_cast<uint4*>(values) = *reinterpret_cast<const uint4*>(g_data);
  } else {
#pragma unroll
    for (int i = 0; i < 8; ++i) values[i] = g_data[i];
  }
}

__device__ __forceinline__ void store8(uint16_t* g_data, const uint16_t (&values)[8], bool aligned) {
  if (aligned) {
    *reinterpret_cast<uint4*>(g_data) = *reinterpret_cast<const uint4*>(values);
  } else {
#pragma unroll
    for (int i = 0; i < 8; ++i) g_data[i] = values[i];
  }
}

/// Both passes go through the rows from the last to the first: the main kernel begins with the first heads, whose part of the workspace is then still in the
/// second-level cache, and ends with the last ones, which finish finds there.
__device__ __forceinline__ int64_t block_from_last() {
  return gridDim.x - 1 - blockIdx.x;
}

/// What a pass works on: a row of the padded workspace.
struct PassRow {
  bool in_workspace;   ///< the row is one of the workspace
  bool exists;         ///< it is a row of the tensors, no padding
  int64_t part;        ///< row of the workspace where its (batch, query head) or (sequence, query head) begins
  int i;               ///< within that part
  int64_t head_index;  ///< of the tensors: batch * heads_q + head
  int position;        ///< of the tensors
};

__device__ __forceinline__ PassRow pass_row(const BackwardParams& p, int64_t row) {
  const int64_t head_index = row / p.padded_rows;
  const int i = static_cast<int>(row - head_index * p.padded_rows);
  return {row < p.num_rows, row < p.num_rows && i < p.shape.len_q, head_index * p.padded_rows, i, head_index, i};
}

/// With sequences of different lengths: the rows of the tiles of a table, head by head.
__device__ __forceinline__ PassRow pass_row(const SequencePassParams& p, int64_t row) {
  const int64_t rows_per_head = static_cast<int64_t>(p.tiles.capacity) * p.tile_rows;
  const int64_t head = row / rows_per_head;
  const int in_head = static_cast<int>(row - head * rows_per_head), place = in_head / p.tile_rows;
  if (row >= p.num_rows || place >= p.tiles.num_tiles()) return {};
  const SequenceTile tile = p.tiles.tile(place);
  const int i = tile.tile * p.tile_rows + in_head - place * p.tile_rows;
  return {true, i < tile.len_q, head * p.padded_rows + tile.row_begin, i, static_cast<int64_t>(tile.batch) * p.shape.heads_q + head, tile.q_begin + i};
}

/// A row of the padded workspace per group of padded_dim / 8 lanes (32 from 192 on, which take 256 columns at a time). kModified: a row counts if its
/// log-sum-exp says that it saw a key or a sink; the range of keys alone does not tell.
template <class Element, bool kModified, class Params>
__device__ __forceinline__ void prepare(const Params& p) {
  const int lanes = lanes_per_row(p.padded_dim);
  const int lane = threadIdx.x % lanes;
  const PassRow at = pass_row(p, block_from_last() * (kPassThreads / lanes) + threadIdx.x / lanes);
  const int64_t row = at.part + at.i;
  const int64_t batch = at.head_index / p.shape.heads_q, head = at.head_index - batch * p.shape.heads_q;
  const int64_t g_row = at.head_index * p.shape.len_q + at.position;
  const Visibility visibility{p.shape.len_kv, p.shape.causal_offset, p.shape.causal};
  bool counts = at.exists;
  if constexpr (kModified) {
    counts = counts && p.lse[g_row] != -INFINITY;
  } else {
    counts = counts && visibility.visible_keys(at.i) > 0;
  }
  float sum = 0.0f;
#pragma unroll 1
  for (int col = 8 * lane; counts && col < p.shape.head_dim_v; col += 8 * lanes) {
    alignas(16) uint16_t o[8], grad_o[8];
    load8(o, p.o + batch * p.o_strides.batch + head * p.o_strides.head + at.position * p.o_strides.seq + col, p.shape.aligned);
    load8(grad_o, p.grad_o + batch * p.grad_o_strides.batch + head * p.grad_o_strides.head + at.position * p.grad_o_strides.seq + col, p.shape.aligned);
#pragma unroll
    for (int e = 0; e < 8; ++e) sum = fmaf(to_float<Element>(o[e]), to_float<Element>(grad_o[e]), sum);
  }
  for (int distance = lanes / 2; distance > 0; distance /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, distance);
  if (!at.in_workspace) return;
  if (lane == 0) {
    p.lse_log2[row] = counts ? p.lse[g_row] * kLog2E : INFINITY;
    p.delta[row] = counts ? sum - (p.grad_lse != nullptr ? p.grad_lse[g_row] : 0.0f) : 0.0f;
  }
  if (p.grad_q_accumulator != nullptr) {
    float4* g_zero = reinterpret_cast<float4*>(p.grad_q_accumulator + row * p.padded_dim);
    for (int e = lane; e < p.padded_dim / 4; e += lanes) g_zero[e] = float4{0.0f, 0.0f, 0.0f, 0.0f};
  }
}

template <class Element, bool kModified>
__global__ void __launch_bounds__(kPassThreads) prepare_kernel(const __grid_constant__ BackwardParams p) {
  prepare<Element, kModified>(p);
}
template <class Element>
__global__ void __launch_bounds__(kPassThreads) prepare_kernel(const __grid_constant__ SequencePassParams p) {
  prepare<Element, true>(p);
}

/// grad_q = scale * accumulator. A thread brings together 8 neighbouring columns of a row, which two fragment registers of four lanes hold.
template <class Element, class Params>
__device__ __forceinline__ void finish(const Params& p) {
  const int chunks = p.shape.head_dim / 8;
  // Neighbouring threads take four neighbouring chunks of eight rows: whole 128-byte lines of the accumulator, 64 bytes of each row of grad_q.
  const int chunk_groups = (chunks + 3) / 4;
  const int64_t unit = block_from_last() * kPassThreads + threadIdx.x;
  const int chunk = static_cast<int>(unit / 4 / 8 % chunk_groups) * 4 + static_cast<int>(unit % 4);
  const int64_t row = unit / 32 / chunk_groups * 8 + unit / 4 % 8;
  if (row >= p.num_rows || chunk >= chunks) return;
  const PassRow at = pass_row(p, row);
  if (!at.exists) return;
  const int i = at.i;
  const int64_t batch = at.head_index / p.shape.heads_q, head = at.head_index - batch * p.shape.heads_q;
  const int tile = i / p.tile_q, tile_row = i % p.tile_q;
  const int warp = tile_row / 16 % p.warps_dq_rows * p.warps_dq_cols + chunk / 2 % p.warps_dq_cols;
  const int m = tile_row / 16 / p.warps_dq_rows;
  const int n = 2 * (chunk / 2 / p.warps_dq_cols) + chunk % 2;
  const int groups = p.padded_dim / p.warps_dq_cols / 8;
  const int blocks = p.tile_q / p.warps_dq_rows / 16;
  const float* g_tile = p.grad_q_accumulator + (at.part + static_cast<int64_t>(tile) * p.tile_q) * p.padded_dim;
  const float* g_fragment =
      g_tile + static_cast<int64_t>(warp) * 32 * blocks * groups * 4 + ((m * groups + n) * 4 + tile_row / 8 % 2 * 2) * 32 + tile_row % 8 * 4;
  const float4 even = *reinterpret_cast<const float4*>(g_fragment);
  const float4 odd = *reinterpret_cast<const float4*>(g_fragment + 32);
  alignas(16) uint16_t values[8];
  uint32_t* words = reinterpret_cast<uint32_t*>(values);
  words[0] = ptx::pack2<Element>(even.x * p.shape.scale, odd.x * p.shape.scale);
  words[1] = ptx::pack2<Element>(even.y * p.shape.scale, odd.y * p.shape.scale);
  words[2] = ptx::pack2<Element>(even.z * p.shape.scale, odd.z * p.shape.scale);
  words[3] = ptx::pack2<Element>(even.w * p.shape.scale, odd.w * p.shape.scale);
  store8(p.grad_q + batch * p.grad_q_strides.batch + head * p.grad_q_strides.head + at.position * p.grad_q_strides.seq + 8 * chunk, values, p.shape.aligned);
}

template <class Element>
__global__ void __launch_bounds__(kPassThreads) finish_kernel(const __grid_constant__ BackwardParams p) {
  finish<Element>(p);
}
template <class Element>
__global__ void __launch_bounds__(kPassThreads) finish_kernel(const __grid_constant__ SequencePassParams p) {
  finish<Element>(p);
}

__global__ void __launch_bounds__(kPassThreads) grad_sinks_kernel(const __grid_constant__ ModifiedBackwardParams params) {
  __shared__ GradSinksConfig::Shared s_shared;
  GradSinksBlock<GradSinksConfig>(params, s_shared).run();
}

}  // namespace

template <>
BackwardKernel prepare_kernel_of<__half>(bool modified) {
  return modified ? prepare_kernel<__half, true> : prepare_kernel<__half, false>;
}
template <>
BackwardKernel prepare_kernel_of<__nv_bfloat16>(bool modified) {
  return modified ? prepare_kernel<__nv_bfloat16, true> : prepare_kernel<__nv_bfloat16, false>;
}
ModifiedBackwardKernel grad_sinks_kernel_of() {
  return grad_sinks_kernel;
}
template <>
BackwardKernel finish_kernel_of<__half>() {
  return finish_kernel<__half>;
}
template <>
BackwardKernel finish_kernel_of<__nv_bfloat16>() {
  return finish_kernel<__nv_bfloat16>;
}
template <>
SequencePassKernel prepare_sequence_kernel_of<__half>() {
  return prepare_kernel<__half>;
}
template <>
SequencePassKernel prepare_sequence_kernel_of<__nv_bfloat16>() {
  return prepare_kernel<__nv_bfloat16>;
}
template <>
SequencePassKernel finish_sequence_kernel_of<__half>() {
  return finish_kernel<__half>;
}
template <>
SequencePassKernel finish_sequence_kernel_of<__nv_bfloat16>() {
  return finish_kernel<__nv_bfloat16>;
}

}  // namespace fa::sm80
