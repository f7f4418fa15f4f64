// The memory-bound passes around the main kernel: prepare (shift, delta, cleared counters, zeros where no key tile comes), finish (accumulator to grad_q),
// gradient of the sinks.
#include <cmath>

#include "attention/sequence_schedule.cuh"
#include "kernels/sm90/backward/pairs.cuh"
#include "kernels/sm90/backward/params.h"
#include "kernels/sm90/backward_modified/launch.h"
#include "kernels/sm90/backward_modified/scores.cuh"
#include "kernels/sm90/backward_modified/steps.cuh"
#include "ptx/grid_dependency.cuh"
#include "runtime/cuda_check.h"
#include "runtime/launch_dependent.h"

namespace fa::sm90 {

namespace {

constexpr int kPassThreads = 256;
constexpr int kSinkThreads = 1024;

/// Where a row of the workspace lies in the tensors.
struct QueryPlace {
  int head;
  int batch;          ///< entry of the tensors
  int sequence;       ///< batch of the semantics
  int position;       ///< along the sequence dimension
  int row;            ///< within the sequence
  int rows_left;      ///< rows of the sequence from this one on; the row is padding if there are none
  int len_q, len_kv;  ///< of the sequence
};

/// in_head: row within a head of the workspace.
__device__ __forceinline__ QueryPlace query_place(const ModifiedPassParams& p, int flat_head, int in_head) {
  QueryPlace place;
  if (p.sequences.count == 0) {
    place.batch = place.sequence = flat_head / p.main.scores.heads_q;
    place.head = flat_head - place.batch * p.main.scores.heads_q;
    place.position = place.row = in_head;
    place.len_q = p.main.scores.range.len_q;
    place.len_kv = p.main.scores.range.len_kv;
    place.rows_left = place.len_q - in_head;
    return place;
  }
  place.head = flat_head;
  const SequenceInputs& in = p.sequences;
  // The last sequence whose rows begin at or before this one.
  int low = 0, high = in.count - 1;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    const int first = in.cu_seqlens_q != nullptr ? max(0, min(static_cast<int>(in.cu_seqlens_q[middle]), in.len_q)) : 0;
    if (sequence_row_begin(in, middle, first) <= in_head) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  const SequenceExtent extent = sequence_extent(in, low, true);
  place.sequence = low;
  place.batch = in.cu_seqlens_q != nullptr ? 0 : low;
  place.row = in_head - sequence_row_begin(in, low, extent.place);
  place.position = extent.begin + place.row;
  place.rows_left = place.row < 0 ? 0 : extent.len - place.row;
  place.len_q = extent.len;
  place.len_kv = sequence_extent(in, low, false).len;
  return place;
}

/// Whether the sums of the row's query tile may begin with what is in the accumulator, and not with what a key tile stores (StoredTiles).
__device__ __forceinline__ bool needs_zeros(const ModifiedPassParams& p, const QueryPlace& place, int rows_behind) {
  if (p.main.visible.counts != nullptr) {
    return false;  // finish knows of tiles to which nobody came
  }
  return place.rows_left <= rows_behind || may_stay_unvisited(p.main.scores.range.with_lengths(place.len_q, place.len_kv), place.row + rows_behind);
}

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

/// Rows of a head that a block of prepare, or of finish, works on. They belong to one sequence, for which it looks but once.
constexpr int kPrepareRows = 32, kFinishRows = 128;
static_assert(kSm90ModifiedRowPadding % kPrepareRows == 0 && kSm90ModifiedRowPadding % kFinishRows == 0);

/// A row of the workspace per kPaddedDim / 8 lanes and step.
template <typename Element, int kPaddedDim>
__global__ void __launch_bounds__(kPassThreads) modified_prepare_kernel(const __grid_constant__ ModifiedPassParams p) {
  constexpr int kLanes = kPaddedDim / 8, kRows = kPassThreads / kLanes, kSteps = kPrepareRows / kRows;
  ptx::launch_dependents();
  const int lane = threadIdx.x % kLanes;
  // The counters lie one behind the other.
  for (int64_t i = int64_t{blockIdx.x} * kPassThreads + threadIdx.x; i < p.num_counters; i += int64_t{gridDim.x} * kPassThreads) {
    p.main.work_counter[i] = 0;
  }
  if (p.num_rows == 0) {
    return;
  }
  // Blocks side by side take the same rows of all heads, which often lie side by side in memory.
  const int head_block = static_cast<int>(blockIdx.x) / p.main.num_heads, flat_head = static_cast<int>(blockIdx.x) - head_block * p.main.num_heads;
  const int in_head = head_block * kPrepareRows + threadIdx.x / kLanes;
  const QueryPlace place = query_place(p, flat_head, in_head);
  const int64_t g_row = (int64_t{place.batch} * p.main.scores.heads_q + place.head) * p.len_q + place.position;
  const uint16_t* g_o = p.o + place.batch * p.o_strides.batch + place.head * p.o_strides.head + place.position * p.o_strides.seq;
  const uint16_t* g_grad_o = p.grad_o + place.batch * p.grad_o_strides.batch + place.head * p.grad_o_strides.head + place.position * p.grad_o_strides.seq;
  // All loads at once, without a condition around one of them: rows behind the last, and columns that there are not, read the first.
  float lse[kSteps], sums[kSteps];
  if (place.rows_left > 0) {
    const int column = 8 * lane < p.head_dim_v ? 8 * lane : 0;
    uint4 o[kSteps], grad_o[kSteps];
#pragma unroll
    for (int i = 0; i < kSteps; ++i) {
      const int row = place.rows_left > i * kRows ? i * kRows : 0;
      o[i] = __ldcs(reinterpret_cast<const uint4*>(g_o + row * p.o_strides.seq + column));  // grad_o is read again soon, o is not
      grad_o[i] = __ldca(reinterpret_cast<const uint4*>(g_grad_o + row * p.grad_o_strides.seq + column));
      lse[i] = __ldca(p.lse + g_row + row);
    }
#pragma unroll
    for (int i = 0; i < kSteps; ++i) {
      sums[i] = 8 * lane < p.head_dim_v ? dot8<Element>(o[i], grad_o[i], 0.0f) : 0.0f;
      lse[i] = place.rows_left > i * kRows ? lse[i] : -INFINITY;
    }
  } else {
#pragma unroll
    for (int i = 0; i < kSteps; ++i) {
      lse[i] = -INFINITY;
      sums[i] = 0.0f;
    }
  }
  const float slope_log2 = alibi_slope_log2(p.main.scores, place.sequence, place.head);
#pragma unroll
  for (int i = 0; i < kSteps; ++i) {
#pragma unroll
    for (int distance = kLanes / 2; distance > 0; distance /= 2) {
      sums[i] += __shfl_xor_sync(0xFFFFFFFF, sums[i], distance);
    }
    const int64_t row = int64_t{flat_head} * p.main.padded_rows + in_head + i * kRows;
    if (lane == 0) {
      const bool counts = lse[i] != -INFINITY;
      const int64_t place_of_row = row ^ p.main.swaps_rows;
      p.main.shift[place_of_row] = counts ? fmaf(lse[i], kScoreLog2E, shift_beyond_lse(p.main.scores, slope_log2, (in_head + i * kRows) % p.tile_q)) : INFINITY;
      p.main.delta[place_of_row] = counts ? sums[i] - (p.grad_lse != nullptr ? p.grad_lse[g_row + i * kRows] : 0.0f) : 0.0f;
    }
    if (needs_zeros(p, place, i * kRows)) {
      // Which of the accumulator's elements a lane clears does not matter: together the rows of a block of 64 clear it all.
      auto* g_zero = reinterpret_cast<float4*>(p.main.grad_q_accumulator + row * kPaddedDim);
#pragma unroll
      for (int j = lane; j < kPaddedDim / 4; j += kLanes) {
        g_zero[j] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
      }
    }
  }
}

/// grad_q = scale * accumulator. A thread takes eight columns of two rows, row and row + 8: four neighbouring float4 of the accumulator (kGradQBlock). A warp
/// takes four such pieces side by side of eight rows each, so that it writes 64 contiguous bytes of a row at a time.
template <typename Element, int kPaddedDim>
__global__ void __launch_bounds__(kPassThreads) modified_finish_kernel(const __grid_constant__ ModifiedPassParams p) {
  constexpr int kColumnGroups = kPaddedDim / 32, kSlices = kPassThreads / 32 / kColumnGroups;  // of 16 rows, side by side
  ptx::launch_dependents();
  const int lane = threadIdx.x % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int column = 32 * (warp % kColumnGroups) + 8 * (lane % 4);
  if (column >= p.head_dim) {
    return;
  }
  const int head_blocks = static_cast<int>(p.main.padded_rows) / kFinishRows, flat_head = static_cast<int>(blockIdx.x) / head_blocks;
  const int in_head = (static_cast<int>(blockIdx.x) - flat_head * head_blocks) * kFinishRows + 16 * (warp / kColumnGroups);
  const QueryPlace place = query_place(p, flat_head, in_head + lane / 4);
  uint16_t* g_grad_q = p.grad_q + place.batch * p.grad_q_strides.batch + place.head * p.grad_q_strides.head + place.position * p.grad_q_strides.seq + column;
#pragma unroll 2
  for (int i = 0; i < kFinishRows; i += 16 * kSlices) {
    const int64_t slice = (int64_t{flat_head} * p.main.padded_rows + in_head + i) / 16;
    const int64_t block = slice / 4 * (kPaddedDim / 64) + column / 64;
    const int thread = static_cast<int>(slice % 4) * 32 + lane / 4 * 4;
    const auto* g_piece = reinterpret_cast<const float4*>(p.main.grad_q_accumulator + block * kGradQBlock) + 128 * (column % 64 / 8) + thread;
    const bool seen = p.main.visible.counts == nullptr || p.main.tiles_stored[16 * slice / p.tile_q] != 0;  // otherwise there is no sum
    uint4 upper, lower;
    uint32_t* words[2] = {reinterpret_cast<uint32_t*>(&upper), reinterpret_cast<uint32_t*>(&lower)};
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float4 values = seen ? g_piece[j] : float4{0.0f, 0.0f, 0.0f, 0.0f};
      words[0][j] = ptx::pack2<Element>(values.x * p.main.scale, values.y * p.main.scale);
      words[1][j] = ptx::pack2<Element>(values.z * p.main.scale, values.w * p.main.scale);
    }
    uint16_t* g_row = g_grad_q + i * p.grad_q_strides.seq;
    if (place.rows_left > i) {
      *reinterpret_cast<uint4*>(g_row) = upper;
    }
    if (place.rows_left > i + 8) {
      *reinterpret_cast<uint4*>(g_row + 8 * p.grad_q_strides.seq) = lower;
    }
  }
}

/// A sink is a key whose value is 0, so that its dS is p (0 - delta) with p = exp(sink - lse). A block per query head adds all rows, always in the same order.
__global__ void __launch_bounds__(kSinkThreads) modified_grad_sinks_kernel(const __grid_constant__ ModifiedPassParams p) {
  __shared__ float s_sums[kSinkThreads / 32];
  const int head = static_cast<int>(blockIdx.x), thread = static_cast<int>(threadIdx.x);
  const ScoreParams& scores = p.main.scores;
  const float sink = scores.sinks[head] * kScoreLog2E;
  float sum = 0.0f;
  for (int flat_head = head; flat_head < p.main.num_heads; flat_head += scores.heads_q) {
    const int64_t first = flat_head * p.main.padded_rows;
    // Sequences begin with a tile, so that a row's place in its tile is known without looking for the sequence.
    for (int64_t i = thread; i < p.main.padded_rows; i += kSinkThreads) {
      const float slope_log2 = scores.alibi_slopes != nullptr ? alibi_slope_log2(scores, query_place(p, flat_head, static_cast<int>(i)).sequence, head) : 0.0f;
      const float lse_log2 = p.main.shift[first + i] - shift_beyond_lse(scores, slope_log2, static_cast<int>(i) % p.tile_q);
      sum -= ptx::exp2_approx(sink - lse_log2) * p.main.delta[first + i];  // 0 where the row does not count: its shift is +inf
    }
  }
  for (int distance = 16; distance > 0; distance /= 2) {
    sum += __shfl_xor_sync(0xFFFFFFFF, sum, distance);
  }
  if (thread % 32 == 0) {
    s_sums[thread / 32] = sum;
  }
  __syncthreads();
  if (thread == 0) {
    for (int warp = 1; warp < kSinkThreads / 32; ++warp) {
      sum += s_sums[warp];
    }
    p.grad_sinks[head] = sum;
  }
}

using PassKernel = void (*)(ModifiedPassParams);

/// At least one block. beside: it may begin before the kernel in front has ended, and need not wait for it.
void launch_pass(PassKernel kernel, const ModifiedPassParams& params, int64_t threads, int block_threads, cudaStream_t stream, const char* what,
                 bool beside = false) {
  void* arguments[] = {const_cast<ModifiedPassParams*>(&params)};
  const auto blocks = static_cast<unsigned>(threads > 0 ? (threads + block_threads - 1) / block_threads : 1);
  if (beside) {
    launch_dependent(reinterpret_cast<const void*>(kernel), blocks, block_threads, arguments, 0, stream, what);
    return;
  }
  cuda_check(cudaLaunchKernel(reinterpret_cast<const void*>(kernel), dim3(blocks), dim3(static_cast<unsigned>(block_threads)), arguments, 0, stream), what);
}

template <typename Element>
PassKernel prepare_kernel(int padded_dim) {
  return padded_dim == 64 ? modified_prepare_kernel<Element, 64> : modified_prepare_kernel<Element, 128>;
}

template <typename Element>
PassKernel finish_kernel(int padded_dim) {
  return padded_dim == 64 ? modified_finish_kernel<Element, 64> : modified_finish_kernel<Element, 128>;
}

}  // namespace

void launch_modified_prepare(const ModifiedPassParams& params, DType dtype, int padded_dim, cudaStream_t stream) {
  const PassKernel kernel = dtype == DType::kFloat16 ? prepare_kernel<__half>(padded_dim) : prepare_kernel<__nv_bfloat16>(padded_dim);
  // The kernels that write lists have nothing to do with it: they begin when all in front of them has ended, and so does what begins behind them.
  launch_pass(kernel, params, params.num_rows / kPrepareRows * kPassThreads, kPassThreads, stream,
              "launch of the sm90 backward prepare kernel for modified scores", params.main.visible.counts != nullptr);
}

void launch_modified_finish(const ModifiedPassParams& params, DType dtype, int padded_dim, cudaStream_t stream) {
  const PassKernel kernel = dtype == DType::kFloat16 ? finish_kernel<__half>(padded_dim) : finish_kernel<__nv_bfloat16>(padded_dim);
  launch_pass(kernel, params, params.num_rows / kFinishRows * kPassThreads, kPassThreads, stream,
              "launch of the sm90 backward finish kernel for modified scores");
}

void launch_modified_grad_sinks(const ModifiedPassParams& params, cudaStream_t stream) {
  launch_pass(modified_grad_sinks_kernel, params, int64_t{params.main.scores.heads_q} * kSinkThreads, kSinkThreads, stream,
              "launch of the sm90 kernel for gradients of sinks");
}

}  // namespace fa::sm90
