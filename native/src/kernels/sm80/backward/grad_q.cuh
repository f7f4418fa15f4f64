// Backward pass, deterministic mode: grad_q of a tile of query rows, from all keys they see. Each element is summed by one thread in a fixed order.
#pragma once

#include <cmath>

#include "attention/nonfinite.cuh"
#include "attention/visibility.cuh"
#include "kernels/sm80/backward/config.h"
#include "kernels/sm80/backward/params.h"
#include "ptx/exp2.cuh"
#include "tile/copy_tile.cuh"
#include "tile/warp_product.cuh"

namespace fa::sm80 {

template <class Config>
class GradQBlock {
  using Element = typename Config::Element;
  using Shared = typename Config::Shared;
  using Params = typename Config::Params;
  using Policy = typename Config::Policy;
  static constexpr bool kModified = Policy::kModified;
  using Scores = Accumulators<1, Config::kScoreN>;
  static constexpr int kThreads = Config::kThreads;
  static constexpr int kAhead = 0;  ///< as in the forward kernel, whose shape this one has

 public:
  __device__ __forceinline__ GradQBlock(const Params& params, Shared& shared)
      : p_(params),
        s_(shared),
        visibility_{params.shape.len_kv, params.shape.causal_offset, params.shape.causal},
        warp_row_(static_cast<int>(threadIdx.x) / 32 / Config::kSlices * 16),
        work_(params.order.work(blockIdx.x)),
        first_row_(work_.tile * Config::kTileQ) {
    if constexpr (kModified) {
      const SequenceTile at = block_tile(params.sequences, work_.tile, work_.batch, params.shape.len_q, params.shape.len_kv);
      first_row_ = at.tile * Config::kTileQ;  // negative where the place has no tile
      if (threadIdx.x == 0) shared.base.at = at;
      __syncthreads();
    }
  }

  __device__ __forceinline__ void run() {
    if (kModified && first_row_ < 0) return;
    const int64_t kv_head = p_.shape.by_group_size.quotient(work_.head);
    const GlobalRows g_k{p_.k + key_place(p_.k_strides) + kv_head * p_.k_strides.head, p_.k_strides.seq, len_kv(), p_.shape.head_dim, p_.shape.aligned};
    const GlobalRows g_v{p_.v + key_place(p_.v_strides) + kv_head * p_.v_strides.head, p_.v_strides.seq, len_kv(), p_.shape.head_dim_v, p_.shape.aligned};
    copy_to_shared<kThreads>(s_.q, rows(p_.q, p_.q_strides, p_.shape.head_dim), first_row_, threadIdx.x);
    copy_to_shared<kThreads>(s_.grad_o, rows(p_.grad_o, p_.grad_o_strides, p_.shape.head_dim_v), first_row_, threadIdx.x);
    const int64_t g_row = static_cast<int64_t>(work_.all_heads) * p_.padded_rows + row_begin() + first_row_ + warp_row_ + (threadIdx.x & 31) / 4;
    const float lse[2] = {p_.lse_log2[g_row], p_.lse_log2[g_row + 8]};
    const float delta[2] = {p_.delta[g_row], p_.delta[g_row + 8]};
    const int last_row = min(first_row_ + Config::kTileQ, len_q()) - 1;
    int num_tiles, first_tile = 0;
    if constexpr (kModified) {
      num_tiles = (range().end_key(last_row) + Config::kTileKV - 1) / Config::kTileKV;
      first_tile = range().begin_key(first_row_) / Config::kTileKV;
    } else {
      num_tiles = (visibility_.visible_keys(last_row) + Config::kTileKV - 1) / Config::kTileKV;
    }
    bool careful = false;
#pragma unroll 1
    do {
      clear(grad_q_);
#pragma unroll 1
      for (int tile = num_tiles - 1; tile >= first_tile; --tile) {
        if (is_hidden(tile * Config::kTileKV)) continue;
        copy_to_shared<kThreads>(s_.k, g_k, tile * Config::kTileKV, threadIdx.x);
        copy_to_shared<kThreads>(s_.v, g_v, tile * Config::kTileKV, threadIdx.x);
        ptx::cp_async_commit();
        ptx::cp_async_wait<0>();
        __syncthreads();
        step(tile * Config::kTileKV, lse, delta, careful);
        __syncthreads();
      }
      // A masked NaN or infinity in k may have poisoned rows that do not see it. Then once more, with care.
      careful = (kModified || p_.shape.causal) && !careful && __syncthreads_or(any_nonfinite(grad_q_));
    } while (careful);
    ptx::cp_async_commit();
    ptx::cp_async_wait<0>();
    write_out();
  }

 private:
  /// Which pairs the mask shows, of the modified kernels.
  __device__ __forceinline__ PairRange range() const {
    return p_.scores.range.with_lengths(s_.base.at.len_q, s_.base.at.len_kv);
  }
  __device__ __forceinline__ int len_q() const {
    return kModified ? s_.base.at.len_q : p_.shape.len_q;
  }
  __device__ __forceinline__ int row_begin() const {
    return kModified ? s_.base.at.row_begin : 0;
  }
  __device__ __forceinline__ int len_kv() const {
    return kModified ? s_.base.at.len_kv : p_.shape.len_kv;
  }
  /// Elements before the first key of the first head.
  __device__ __forceinline__ int64_t key_place(const Strides& strides) const {
    if constexpr (kModified) return s_.base.at.batch * strides.batch + s_.base.at.kv_begin * strides.seq;
    return work_.batch * strides.batch;
  }
  template <class Pointer>
  __device__ __forceinline__ GlobalRows rows(Pointer g_data, const Strides& strides, int cols) const {
    if constexpr (kModified) {
      const SequenceTile& at = s_.base.at;
      return {g_data + at.batch * strides.batch + at.q_begin * strides.seq + work_.head * strides.head, strides.seq, at.len_q, cols, p_.shape.aligned};
    }
    return {g_data + work_.batch * strides.batch + work_.head * strides.head, strides.seq, p_.shape.len_q, cols, p_.shape.aligned};
  }

  /// First of the columns of k and grad_q that are the warp's.
  __device__ __forceinline__ static int first_column() {
    if constexpr (Config::kSlices == 1) return 0;
    return static_cast<int>(threadIdx.x / 32 % Config::kSlices) * (Config::kDim / Config::kSlices);
  }

  /// grad_q += dS k for one tile of keys.
  __device__ __forceinline__ void step(int first_key, const float (&lse)[2], const float (&delta)[2], bool careful) {
    const OperandA<typename Config::QTile> q(s_.q, warp_row_, 0), grad_o(s_.grad_o, warp_row_, 0);
    const OperandB<typename Config::KVTile> k(s_.k, 0, 0), v(s_.v, 0, 0);
    const OperandBTransposed<typename Config::KVTile> k_rows(s_.k, 0, first_column());
    Scores s, ds;
    clear(s);
    clear(ds);
    constexpr int kSteps = Config::kDim / 16;
    multiply<Element, 2 * kSteps, kAhead>([&](int k16) -> Scores& { return k16 < kSteps ? s : ds; },
                                          [&](uint32_t(&a)[4], int m, int k16) { k16 < kSteps ? q.load(a, m, k16) : grad_o.load(a, m, k16 - kSteps); },
                                          [&](uint32_t(&b)[4], int pair, int k16) { k16 < kSteps ? k.load(b, pair, k16) : v.load(b, pair, k16 - kSteps); });
    differentiate(s, ds, first_key, lse, delta);
    if (careful && is_masked(first_key)) {
      // A masked key's NaN times dS = 0. Rows that see the key have dS = NaN already.
      __syncthreads();
      zero_nonfinite<Element, kThreads>(s_.k, threadIdx.x);
      __syncthreads();
    }
    multiply<Element, Config::kTileKV / 16, kAhead>(
        [&](int) -> auto& { return grad_q_; }, [&](uint32_t(&a)[4], int m, int k16) { round_to_a<Element>(a, ds, m, k16); },
        [&](uint32_t(&b)[4], int pair, int k16) { k_rows.load(b, k16, pair); });
  }

  /// The modifications for the block's head.
  __device__ __forceinline__ typename Policy::template Head<Element, ScoreLayout::kRowsByKeys> modified_head() const {
    return {p_.scores, range(), s_.base.at.sequence, work_.head};
  }

  /// Whether the block mask hides the whole tile.
  __device__ __forceinline__ bool is_hidden(int first_key) const {
    if constexpr (kModified) {
      return p_.scores.block_mask.data != nullptr &&
             !modified_head().block_mask_shows(first_row_, first_row_ + Config::kTileQ - 1, first_key, first_key + Config::kTileKV - 1);
    }
    return false;
  }

  /// Whether some row of the block does not see some key of the tile.
  __device__ __forceinline__ bool is_masked(int first_key) const {
    if constexpr (kModified) return true;
    return first_key + Config::kTileKV > visibility_.visible_keys(first_row_);
  }

  /// dP -> dS, not yet scaled.
  __device__ __forceinline__ void differentiate(Scores& s, Scores& ds, int first_key, const float (&lse)[2], const float (&delta)[2]) const {
    const int lane = threadIdx.x & 31;
    if constexpr (kModified) {
      const int first_row = first_row_ + warp_row_;
      modified_head().template differentiate<ScoreGradient::kAlone>(
          s, ds, range().sees_whole(first_row, first_row + 15, first_key, first_key + Config::kTileKV - 1), NoBiasTile{}, lane,
          [&](int, int n, int i) {
            return Pair{first_row + (lane >> 2) + 8 * (i >> 1), first_key + 8 * n + 2 * (lane & 3) + (i & 1)};
          },
          [&](int, int, int i) { return lse[i >> 1]; }, [&](int, int, int i) { return delta[i >> 1]; });
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int half = i >> 1;
        const int visible = visibility_.visible_keys(first_row_ + warp_row_ + (lane >> 2) + 8 * half) - first_key - 2 * (lane & 3) - (i & 1);
#pragma unroll
        for (int n = 0; n < Config::kScoreN; ++n) {
          const float p = ptx::exp2_approx(fmaf(s[0][n][i], p_.shape.scale_log2, -lse[half]));
          ds[0][n][i] = 8 * n < visible ? p * (ds[0][n][i] - delta[half]) : 0.0f;
        }
      }
    }
  }

  __device__ __forceinline__ void write_out() {
    const int lane = threadIdx.x & 31, first_col = first_column();
    __syncthreads();
#pragma unroll
    for (int n = 0; n < Config::kGradN; ++n) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        *reinterpret_cast<uint32_t*>(s_.q.at(warp_row_ + 8 * half + (lane >> 2), first_col + 8 * n + 2 * (lane & 3))) =
            ptx::pack2<Element>(grad_q_[0][n][2 * half] * p_.shape.scale, grad_q_[0][n][2 * half + 1] * p_.shape.scale);
      }
    }
    if constexpr (Config::kSlices == 1) {
      __syncwarp();
      copy_to_global<16, 32>(s_.q, rows(p_.grad_q, p_.grad_q_strides, p_.shape.head_dim), first_row_, warp_row_, lane);
    } else {
      __syncthreads();
      copy_to_global<Config::kTileQ, kThreads>(s_.q, rows(p_.grad_q, p_.grad_q_strides, p_.shape.head_dim), first_row_, 0, threadIdx.x);
    }
  }

  const Params& p_;
  Shared& s_;
  const Visibility visibility_;
  const int warp_row_;
  const BlockOrder::Work work_;
  int first_row_;
  Accumulators<1, Config::kGradN> grad_q_;
};

template <class Config>
__global__ void __launch_bounds__(Config::kThreads, Config::kBlocksPerSm) grad_q_kernel(const __grid_constant__ typename Config::Params params) {
  extern __shared__ __align__(128) unsigned char s_memory[];
  GradQBlock<Config> block(params, *reinterpret_cast<typename Config::Shared*>(s_memory));
  block.run();
}

}  // namespace fa::sm80
