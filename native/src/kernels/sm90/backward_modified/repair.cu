// NaN and infinity in masked problems. The tensor core multiplies what a mask hides with zero, and 0 * NaN is NaN: a NaN in q or grad_o may reach keys that its
// row does not see, one in k rows that do not see its key. The main kernel flags the keys where that may have happened; this pass computes their gradients, and
// those of the rows around them, again by ordinary arithmetic from the definition. Without flags, the usual case, it reads a few kilobytes and ends.
#include "kernels/sm90/backward/pairs.cuh"
#include "kernels/sm90/backward/params.h"
#include "kernels/sm90/backward_modified/launch.h"
#include "kernels/sm90/backward_modified/listed_tiles.cuh"
#include "kernels/sm90/backward_modified/scores.cuh"
#include "kernels/sm90/backward_modified/work.cuh"
#include "ptx/grid_dependency.cuh"
#include "runtime/launch_dependent.h"

namespace fa::sm90 {

namespace {

constexpr int kRepairThreads = 256;
constexpr int kWarps = kRepairThreads / 32;
/// Columns of a row that a lane holds, in pairs: 2 lane + 64 c.
constexpr int kMaxPairs = 2;

/// A lane's part of a row.
struct Row {
  float2 pairs[kMaxPairs];
};

/// What may hide a pair of the range.
enum class Hiding { kNothing, kBias, kMask };

template <typename Element, Hiding kHiding>
class ModifiedRepair {
  using Pair = typename PairOf<Element>::Type;
  static constexpr bool kBias = kHiding == Hiding::kBias, kMask = kHiding == Hiding::kMask;

 public:
  __device__ __forceinline__ ModifiedRepair(const ModifiedRepairParams& params, int num_tiles, int64_t slice)
      : p_(params),
        work_(item(params, num_tiles, static_cast<int>(slice / kRepairSlices))),
        range_(work_.range(params.main)),
        first_key_(work_.first_key + static_cast<int>(slice % kRepairSlices) * kRepairKeys) {}

  __device__ __forceinline__ void run(int flags) {
    const int warp = threadIdx.x / 32;
#pragma unroll 1
    for (int key = first_key_ + warp; key < min(first_key_ + kRepairKeys, range_.len_kv); key += kWarps) {
      repair_key(key);
    }
    if (!(flags & kRepairGradQ)) {
      return;
    }
    // Rows of the query tiles that were multiplied with the keys although some of them do not see them.
    if constexpr (kMask) {
      repair_listed_rows();
    } else {
      repair_visited_rows(warp, kBias ? nonfinite_keys() : 0);
    }
  }

 private:
  /// bad_keys: of a bias, which may hide any pair.
  __device__ __forceinline__ void repair_visited_rows(int warp, uint32_t bad_keys) const {
#pragma unroll 1
    for (int step = work_.first_step; step < work_.end_step; ++step) {
      const int first_row = step * p_.tile_q, end_row = min(first_row + p_.tile_q, range_.len_q);
      const bool whole = step >= work_.whole_first && step < work_.whole_last;
      if (whole && !kBias) {
        continue;
      }
#pragma unroll 1
      for (int i = warp; i < (end_row - first_row) * p_.main.group_size; i += kWarps) {
        const int row = first_row + i / p_.main.group_size, group_head = i % p_.main.group_size;
        if (!whole || hides_one(bad_keys, row, group_head)) {
          repair_row(row, group_head);
        }
      }
    }
  }

  __device__ __forceinline__ static KeyWork item(const ModifiedRepairParams& params, int num_tiles, int index) {
    if constexpr (kBias) {
      const int num_items = num_tiles * params.main.order.num_heads, batch = index / num_items;
      return of_batch(params.main, key_work(params.main, index - batch * num_items, num_tiles, params.tile_q, params.tile_kv), batch, num_items);
    }
    if constexpr (kMask) {
      return listed_key_work(params.main, index, num_tiles, params.tile_q, params.tile_kv);
    }
    return key_work(params.main, index, num_tiles, params.tile_q, params.tile_kv);
  }

  /// The bias of a pair.
  __device__ __forceinline__ float bias(int row, int key, int group_head) const {
    const PairTensor& tensor = p_.main.scores.bias;
    const int head = work_.kv_head * p_.main.group_size + group_head;
    return static_cast<float>(
        static_cast<const Element*>(tensor.data)[work_.batch * tensor.batch_stride + head * tensor.head_stride + row * tensor.row_stride + key]);
  }

  /// Which of the slice's keys have NaN or infinity in k, in all lanes.
  __device__ __forceinline__ uint32_t nonfinite_keys() const {
    uint32_t bits = 0;
#pragma unroll 1
    for (int i = 0; i < min(kRepairKeys, range_.len_kv - first_key_); ++i) {
      const Row k = load(key_row(p_.k, p_.k_strides, first_key_ + i), p_.head_dim);
      float probe = 0.0f;
#pragma unroll
      for (int c = 0; c < kMaxPairs; ++c) {
        probe = fmaf(k.pairs[c].x, 0.0f, fmaf(k.pairs[c].y, 0.0f, probe));
      }
      bits |= __any_sync(0xFFFFFFFF, !(probe == 0.0f)) ? 1u << i : 0u;
    }
    return bits;
  }

  /// Whether the bias hides one of these keys of the slice from the row.
  __device__ __forceinline__ bool hides_one(uint32_t keys, int row, int group_head) const {
    const int lane = threadIdx.x % 32;
    return __any_sync(0xFFFFFFFF, (keys >> lane & 1u) != 0 && bias(row, first_key_ + lane, group_head) == -INFINITY);
  }

  __device__ __forceinline__ void repair_listed_rows() const {
#pragma unroll 1
    for (int group_head = 0; group_head < p_.main.group_size && p_.main.visible.counts != nullptr; ++group_head) {
      const QueryList list(p_.main, work_, group_head);
#pragma unroll 1
      for (int step = 0; step < list.mixed; ++step) {
        const int first_row = p_.main.visible.mixed_entry(list.list, step).tile() * p_.tile_q;
#pragma unroll 1
        for (int row = first_row + static_cast<int>(threadIdx.x) / 32; row < min(first_row + p_.tile_q, range_.len_q); row += kWarps) {
          repair_row(row, group_head);
        }
      }
    }
  }

  /// Whether boolean and block mask show the pair.
  __device__ __forceinline__ bool shown(int row, int key, int group_head) const {
    if constexpr (!kMask) {
      return true;
    }
    const ScoreParams& scores = p_.main.scores;
    const auto at = [&](const PairTensor& mask, int r, int c) {
      const int64_t first = work_.batch * mask.batch_stride + (work_.kv_head * p_.main.group_size + group_head) * mask.head_stride;
      return static_cast<const uint8_t*>(mask.data)[first + r * mask.row_stride + c] != 0;
    };
    return (scores.visible.data == nullptr || at(scores.visible, row, key)) &&
           (scores.block_mask.data == nullptr || at(scores.block_mask, scores.by_block_q.quotient(row), scores.by_block_kv.quotient(key)));
  }

  __device__ __forceinline__ const uint16_t* query_row(const uint16_t* data, const Strides& strides, int row, int group_head) const {
    return data + work_.batch * strides.batch + (work_.q_begin + row) * strides.seq + (work_.kv_head * p_.main.group_size + group_head) * strides.head;
  }
  __device__ __forceinline__ const uint16_t* key_row(const uint16_t* data, const Strides& strides, int key) const {
    return data + work_.batch * strides.batch + (work_.kv_begin + key) * strides.seq + work_.kv_head * strides.head;
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

  __device__ __forceinline__ static void store(const uint16_t* g_row, int columns, const Row& row, float factor) {
#pragma unroll
    for (int c = 0; c < kMaxPairs; ++c) {
      const int column = 2 * (threadIdx.x % 32) + 64 * c;
      if (column < columns) {
        auto* g_elements = reinterpret_cast<Element*>(const_cast<uint16_t*>(g_row)) + column;
        g_elements[0] = static_cast<Element>(row.pairs[c].x * factor);
        g_elements[1] = static_cast<Element>(row.pairs[c].y * factor);
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
    bool hidden;  ///< by the bias: whatever the pair's rows hold, it adds nothing
  };
  __device__ __forceinline__ Weights weights(const Row& q, const Row& k, const Row& v, const Row& grad_o, int row, int key, int group_head) const {
    const ScoreParams& scores = p_.main.scores;
    const int64_t in_workspace = (work_.workspace_head + group_head) * p_.main.padded_rows + work_.row_begin + (kMask ? row ^ 1 : row);
    const float slope_log2 = alibi_slope_log2(scores, work_.sequence, work_.kv_head * p_.main.group_size + group_head);
    const float lse_log2 = p_.main.shift[in_workspace] - shift_beyond_lse(scores, slope_log2, row % p_.tile_q);
    float score = dot(q, k), derivative = 1.0f;
    if (scores.softcap_log2 > 0.0f) {
      const float r = softcap_complement(score, scores.twice_inverse_softcap_log2);
      derivative = 4.0f * r * (1.0f - r);
      score = fmaf(r, -2.0f * scores.softcap_log2, scores.softcap_log2);
    } else {
      score *= scores.scale_log2;
    }
    if (scores.alibi_slopes != nullptr) {
      score = fmaf(-slope_log2, fabsf(static_cast<float>(row + range_.offset - key)), score);
    }
    if constexpr (kBias) {
      const float added = bias(row, key, group_head);
      if (added == -INFINITY) {
        return {0.0f, 0.0f, true};
      }
      score = fmaf(added, kScoreLog2E, score);
    }
    const float p = ptx::exp2_approx(score - lse_log2);
    return {p, p * derivative * (dot(grad_o, v) - p_.main.delta[in_workspace]), false};
  }

  __device__ __forceinline__ void repair_key(int key) const {
    const Row k = load(key_row(p_.k, p_.k_strides, key), p_.head_dim);
    const Row v = load(key_row(p_.v, p_.v_strides, key), p_.head_dim_v);
    Row grad_k{}, grad_v{};
#pragma unroll 1
    for (int group_head = 0; group_head < p_.main.group_size; ++group_head) {
#pragma unroll 1
      for (int row = range_.begin_row(key); row < min(range_.end_row(key), range_.len_q); ++row) {
        if (!shown(row, key, group_head)) {
          continue;
        }
        const Row q = load(query_row(p_.q, p_.q_strides, row, group_head), p_.head_dim);
        const Row grad_o = load(query_row(p_.grad_o, p_.grad_o_strides, row, group_head), p_.head_dim_v);
        const Weights w = weights(q, k, v, grad_o, row, key, group_head);
        if (kBias && w.hidden) {
          continue;
        }
        add(grad_v, w.p, grad_o);
        add(grad_k, w.ds, q);
      }
    }
    store(key_row(p_.grad_k, p_.grad_k_strides, key), p_.head_dim, grad_k, p_.main.scale);
    store(key_row(p_.grad_v, p_.grad_v_strides, key), p_.head_dim_v, grad_v, 1.0f);
  }

  __device__ __forceinline__ void repair_row(int row, int group_head) const {
    const Row q = load(query_row(p_.q, p_.q_strides, row, group_head), p_.head_dim);
    const Row grad_o = load(query_row(p_.grad_o, p_.grad_o_strides, row, group_head), p_.head_dim_v);
    Row grad_q{};
#pragma unroll 1
    for (int key = range_.begin_key(row); key < min(range_.end_key(row), range_.len_kv); ++key) {
      if (!shown(row, key, group_head)) {
        continue;
      }
      const Row k = load(key_row(p_.k, p_.k_strides, key), p_.head_dim);
      const Row v = load(key_row(p_.v, p_.v_strides, key), p_.head_dim_v);
      const Weights w = weights(q, k, v, grad_o, row, key, group_head);
      if (kBias && w.hidden) {
        continue;
      }
      add(grad_q, w.ds, k);
    }
    store(query_row(p_.grad_q, p_.grad_q_strides, row, group_head), p_.head_dim, grad_q, p_.main.scale);
  }

  const ModifiedRepairParams& p_;
  const KeyWork work_;
  const PairRange range_;
  const int first_key_;
};

/// A block looks at as many flags as it has threads.
template <typename Element, Hiding kHiding>
__global__ void __launch_bounds__(kRepairThreads) modified_repair_kernel(const __grid_constant__ ModifiedRepairParams params) {
  __shared__ int s_flags[kRepairThreads];
  ptx::wait_for_previous_kernel();
  const int num_tiles = num_key_tiles(params.main);
  const int64_t num_slices = int64_t{kRepairSlices} * num_tiles * params.main.order.num_heads * (kHiding == Hiding::kBias ? params.main.batch_inside : 1);
  const int64_t first_slice = static_cast<int64_t>(blockIdx.x) * kRepairThreads;
  const int mine = first_slice + threadIdx.x < num_slices ? params.main.repair_flags[first_slice + threadIdx.x] : 0;
  s_flags[threadIdx.x] = mine;
  if (!__syncthreads_or(mine)) {
    return;
  }
#pragma unroll 1
  for (int i = 0; i < kRepairThreads; ++i) {
    if (s_flags[i] != 0) {
      ModifiedRepair<Element, kHiding>(params, num_tiles, first_slice + i).run(s_flags[i]);
    }
  }
}

template <typename Element>
const void* repair_kernel(const ScoreParams& scores) {
  return scores.bias.data != nullptr ? reinterpret_cast<const void*>(modified_repair_kernel<Element, Hiding::kBias>)
         : scores.visible.data != nullptr || scores.block_mask.data != nullptr
             ? reinterpret_cast<const void*>(modified_repair_kernel<Element, Hiding::kMask>)
             : reinterpret_cast<const void*>(modified_repair_kernel<Element, Hiding::kNothing>);
}

}  // namespace

void launch_modified_repair(const ModifiedRepairParams& params, DType dtype, cudaStream_t stream) {
  const int64_t slices = int64_t{kRepairSlices} * params.main.order.num_tiles * params.main.order.num_heads * params.main.batch_inside;
  void* arguments[] = {const_cast<ModifiedRepairParams*>(&params)};
  const ScoreParams& scores = params.main.scores;
  const void* kernel = dtype == DType::kFloat16 ? repair_kernel<__half>(scores) : repair_kernel<__nv_bfloat16>(scores);
  const auto blocks = static_cast<unsigned>((slices + kRepairThreads - 1) / kRepairThreads);
  launch_dependent(kernel, blocks, kRepairThreads, arguments, 0, stream, "launch of the sm90 backward repair kernel for modified scores");
}

}  // namespace fa::sm90
