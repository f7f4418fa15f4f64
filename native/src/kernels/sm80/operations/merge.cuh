// Merge of partial results, forward and backward: README.md. Memory-bound: a few neighbouring lanes per row, eight columns per lane and round.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cmath>

#include "kernels/sm80/operations/params.h"

namespace fa::sm80 {

/// Eight columns of a row, or as many as there are.
struct Columns {
  float value[8];
};

__device__ __forceinline__ float widened(const void* data, int64_t at, DType dtype) {
  if (dtype == DType::kFloat32) return static_cast<const float*>(data)[at];
  const uint16_t bits = static_cast<const uint16_t*>(data)[at];
  return dtype == DType::kFloat16 ? __half2float(__ushort_as_half(bits)) : __uint_as_float(static_cast<uint32_t>(bits) << 16);
}

__device__ __forceinline__ uint16_t narrowed(float value, DType dtype) {
  return dtype == DType::kFloat16 ? __half_as_ushort(__float2half_rn(value)) : __bfloat16_as_ushort(__float2bfloat16_rn(value));
}

/// count: columns that exist. aligned: all eight do, at a multiple of 16 bytes.
__device__ __forceinline__ Columns load_columns(const void* data, int64_t at, DType dtype, int count, bool aligned) {
  Columns columns;
  if (!aligned) {
#pragma unroll
    for (int c = 0; c < 8; ++c) columns.value[c] = c < count ? widened(data, at + c, dtype) : 0.0f;
  } else if (dtype == DType::kFloat32) {
    const float4* const g_pieces = reinterpret_cast<const float4*>(static_cast<const float*>(data) + at);
    const float4 low = g_pieces[0], high = g_pieces[1];
    return {{low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w}};
  } else {
    const uint4 bits = *reinterpret_cast<const uint4*>(static_cast<const uint16_t*>(data) + at);
    const uint32_t words[4] = {bits.x, bits.y, bits.z, bits.w};
    uint16_t elements[8];
#pragma unroll
    for (int c = 0; c < 8; ++c) elements[c] = static_cast<uint16_t>(words[c / 2] >> (16 * (c % 2)));
#pragma unroll
    for (int c = 0; c < 8; ++c) columns.value[c] = widened(elements, c, dtype);
  }
  return columns;
}

__device__ __forceinline__ void store_columns(void* data, int64_t at, DType dtype, int count, bool aligned, const Columns& columns) {
  if (dtype == DType::kFloat32) {
    float* const g_row = static_cast<float*>(data) + at;
    if (aligned) {
      float4* const g_pieces = reinterpret_cast<float4*>(g_row);
      g_pieces[0] = float4{columns.value[0], columns.value[1], columns.value[2], columns.value[3]};
      g_pieces[1] = float4{columns.value[4], columns.value[5], columns.value[6], columns.value[7]};
      return;
    }
#pragma unroll
    for (int c = 0; c < 8; ++c) {
      if (c < count) g_row[c] = columns.value[c];
    }
    return;
  }
  uint16_t* const g_row = static_cast<uint16_t*>(data) + at;
  uint16_t elements[8];
#pragma unroll
  for (int c = 0; c < 8; ++c) elements[c] = narrowed(columns.value[c], dtype);
  if (aligned) {
    uint32_t words[4];
#pragma unroll
    for (int w = 0; w < 4; ++w) words[w] = elements[2 * w] | static_cast<uint32_t>(elements[2 * w + 1]) << 16;
    *reinterpret_cast<uint4*>(g_row) = uint4{words[0], words[1], words[2], words[3]};
    return;
  }
#pragma unroll
  for (int c = 0; c < 8; ++c) {
    if (c < count) g_row[c] = elements[c];
  }
}

struct MergeConfig {
  static constexpr int kThreads = kOperationThreads;
  struct Shared {};
};

/// Rows are dealt to the blocks in turn. kBackward: gradients of the parts.
template <bool kBackward>
class MergeBlock {
 public:
  __device__ __forceinline__ MergeBlock(const MergeParams& params) : p_(params) {}

  __device__ __forceinline__ void run() {
    const int rows_per_block = MergeConfig::kThreads / p_.lanes_per_row;
    const int64_t step = p_.num_blocks * rows_per_block;
    // Lanes of a warp stay together for the sums over a row.
    for (int64_t first = static_cast<int64_t>(blockIdx.x) * rows_per_block; first < p_.num_rows; first += step) {
      const int64_t row = first + static_cast<int>(threadIdx.x) / p_.lanes_per_row;
      work(row < p_.num_rows ? row : p_.num_rows - 1, row < p_.num_rows);
    }
  }

 private:
  /// What the parts' log-sum-exps of a row say. A part's weight is exp(lse - reference) * inverse.
  struct Shares {
    float reference, inverse, lse;
  };

  __device__ __forceinline__ Shares shares(int64_t row) const {
    float largest = -INFINITY, sum = 0.0f;
    bool has_nan = false;
#pragma unroll 1
    for (int part = 0; part < p_.parts; ++part) {
      const float lse = p_.part_lse[part][row];
      has_nan |= lse != lse;
      largest = fmaxf(largest, lse);
    }
    if (has_nan) return {NAN, 1.0f, NAN};
    if (isinf(largest)) return {largest, 1.0f, largest};
#pragma unroll 1
    for (int part = 0; part < p_.parts; ++part) sum += expf(p_.part_lse[part][row] - largest);
    return {largest, 1.0f / sum, largest + logf(sum)};
  }

  __device__ __forceinline__ int64_t place(const MergeTensor& tensor, int64_t batch, int64_t query, int64_t head) const {
    return batch * tensor.strides.batch + query * tensor.strides.seq + head * tensor.strides.head;
  }

  __device__ __forceinline__ void work(int64_t row, bool exists) {
    const int lane = static_cast<int>(threadIdx.x) % p_.lanes_per_row;
    const int64_t query = row % p_.len_q, head = row / p_.len_q % p_.heads, batch = row / p_.len_q / p_.heads;
    const Shares all = shares(row);
    if constexpr (kBackward) {
#pragma unroll 1
      for (int part = 0; part < p_.parts; ++part) differentiate(part, row, exists, lane, batch, query, head, all);
    } else if (exists) {
      if (lane == 0) p_.lse[row] = all.lse;
      for (int64_t column = 8 * lane; column < p_.columns; column += 8 * p_.lanes_per_row) merge(row, column, batch, query, head, all);
    }
  }

  __device__ __forceinline__ void merge(int64_t row, int64_t column, int64_t batch, int64_t query, int64_t head, const Shares& all) {
    const int count = static_cast<int>(min(int64_t{8}, p_.columns - column));
    Columns sum{};
#pragma unroll 1
    for (int part = 0; part < p_.parts; ++part) {
      const float lse = p_.part_lse[part][row];
      if (lse == -INFINITY) continue;  // it saw no key: its o is not looked at
      const float weight = expf(lse - all.reference) * all.inverse;
      const Columns o = load_columns(p_.part_o[part].data, place(p_.part_o[part], batch, query, head) + column, p_.part_dtype, count, p_.aligned);
#pragma unroll
      for (int c = 0; c < 8; ++c) sum.value[c] = fmaf(weight, o.value[c], sum.value[c]);
    }
    store_columns(p_.o.data, place(p_.o, batch, query, head) + column, p_.dtype, count, p_.aligned, sum);
  }

  /// grad_part_o = w grad_o, grad_part_lse = w (grad_o . (part_o - o) + grad_lse).
  __device__ __forceinline__ void differentiate(int part, int64_t row, bool exists, int lane, int64_t batch, int64_t query, int64_t head, const Shares& all) {
    const float lse = p_.part_lse[part][row];
    const bool counts = lse != -INFINITY;
    const float weight = counts ? expf(lse - all.reference) * all.inverse : 0.0f;
    float dot = 0.0f;
    for (int64_t column = 8 * lane; exists && column < p_.columns; column += 8 * p_.lanes_per_row) {
      const int count = static_cast<int>(min(int64_t{8}, p_.columns - column));
      Columns out{};
      if (counts) {
        const Columns grad = load_columns(p_.grad_o.data, place(p_.grad_o, batch, query, head) + column, p_.dtype, count, p_.aligned);
        const Columns o = load_columns(p_.o.data, place(p_.o, batch, query, head) + column, p_.dtype, count, p_.aligned);
        const Columns part_o = load_columns(p_.part_o[part].data, place(p_.part_o[part], batch, query, head) + column, p_.part_dtype, count, p_.aligned);
#pragma unroll
        for (int c = 0; c < 8; ++c) {
          dot = fmaf(grad.value[c], part_o.value[c] - o.value[c], dot);
          out.value[c] = weight * grad.value[c];
        }
      }
      store_columns(p_.grad_part_o[part].data, place(p_.grad_part_o[part], batch, query, head) + column, p_.part_dtype, count, p_.aligned, out);
    }
    for (int distance = p_.lanes_per_row / 2; distance > 0; distance /= 2) dot += __shfl_xor_sync(0xffffffffu, dot, distance);
    if (exists && lane == 0) p_.grad_part_lse[part][row] = counts ? weight * (dot + (p_.grad_lse != nullptr ? p_.grad_lse[row] : 0.0f)) : 0.0f;
  }

  const MergeParams& p_;
};

}  // namespace fa::sm80
