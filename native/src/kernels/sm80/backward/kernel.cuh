// Fused attention, backward, main kernel, for sm_80 and newer: gradients of a tile of keys and values, and their part of grad_q. README.md beside this file
// has the resource arithmetic and the schedule.
#pragma once

#include <cmath>
#include <cstddef>

#include "attention/nonfinite.cuh"
#include "attention/visibility.cuh"
#include "kernels/sm80/backward/config.h"
#include "kernels/sm80/backward/params.h"
#include "ptx/exp2.cuh"
#include "ptx/likely.h"
#include "ptx/special_registers.cuh"
#include "tile/copy_tile.cuh"
#include "tile/warp_product.cuh"

namespace fa::sm80 {

template <class Config>
class BackwardBlock {
  using Element = typename Config::Element;
  using Shared = typename Config::Shared;
  using Params = typename Config::Params;
  using Policy = typename Config::Policy;
  static constexpr bool kModified = Policy::kModified;
  static constexpr int kThreads = Config::kThreads;
  static constexpr int kM = Config::kM;
  static constexpr int kDimSteps = Config::kDim / 16;
  static constexpr int kFromSharedSteps = 2 * Config::kTileQ / 16;  ///< of grad_v and grad_k together
  static constexpr int kStepN = 2 * Config::kQStep;                 ///< groups of 8 queries worked on at a time
  /// Distances in bytes between tiles of one shape: the same lane addresses serve both.
  static constexpr int kToV = offsetof(Shared, v) - offsetof(Shared, k);
  static constexpr int kToGradO = offsetof(Shared, grad_o) - offsetof(Shared, q);
  using Scores = Accumulators<kM, kStepN>;
  using Gradients = Accumulators<kM, Config::kGradN>;
  using GradQTile = Accumulators<Config::kDqM, Config::kDqN>;

  /// A step of the main loop: one tile of query rows of one query head of the group.
  struct Step {
    int head;  ///< within the group
    int tile;
  };

 public:
  __device__ __forceinline__ BackwardBlock(const Params& params, Shared& shared)
      : p_(params),
        s_(shared),
        visibility_{params.shape.seen_len_kv, params.shape.causal_offset, params.shape.causal},
        warp_kv_(static_cast<int>(threadIdx.x) / 32 / Config::kWarpsCols),
        warp_q_(static_cast<int>(threadIdx.x) / 32 / Config::kSlices % Config::kWarpsQ),
        k_rows_(shared.k, 16 * warp_kv_, 0),
        q_columns_(shared.q[0], 16 * warp_q_, 0),
        q_rows_(shared.q[0], 0, 16 * warp_col()) {
    const BlockOrder::Work work = params.order.work(blockIdx.x);
    if constexpr (kModified) {
      start_modified(work);
      return;
    }
    first_key_ = work.tile * Config::kTileKV;
    first_q_tile_ = visibility_.first_row_seeing(first_key_) / Config::kTileQ;
    if (threadIdx.x == 0) {
      const int64_t batch = work.batch, head = work.head * params.shape.group_size;
      shared.base.q = params.q + batch * params.q_strides.batch + head * params.q_strides.head;
      shared.base.grad_o = params.grad_o + batch * params.grad_o_strides.batch + head * params.grad_o_strides.head;
      shared.base.row = (batch * params.shape.heads_q + head) * params.padded_rows;
    }
    __syncthreads();
  }

  __device__ __forceinline__ void run() {
    if (kModified && first_key_ < 0) return;
    copy_to_shared<kThreads>(s_.k, key_rows(p_.k, p_.k_strides, p_.shape.head_dim), first_key_, threadIdx.x);
    copy_to_shared<kThreads>(s_.v, key_rows(p_.v, p_.v_strides, p_.shape.head_dim_v), first_key_, threadIdx.x);
    bool careful = false;
#pragma unroll 1
    do {
      clear(grad_k_);
      clear(grad_v_);
      go_through_queries(careful);
      // A NaN or infinity in q or grad_o may have poisoned keys that its row does not see. Then once more, with care.
      careful = (kModified || p_.shape.causal) && !careful && __syncthreads_or(any_nonfinite(grad_k_) || any_nonfinite(grad_v_));
    } while (careful);
    __syncthreads();
    write_gradient(s_.k, grad_k_, p_.shape.scale);
    write_gradient(s_.v, grad_v_, 1.0f);
    __syncthreads();
    copy_to_global<Config::kTileKV, kThreads>(s_.k, key_rows(p_.grad_k, p_.grad_k_strides, p_.shape.head_dim), first_key_, 0, threadIdx.x);
    copy_to_global<Config::kTileKV, kThreads>(s_.v, key_rows(p_.grad_v, p_.grad_v_strides, p_.shape.head_dim_v), first_key_, 0, threadIdx.x);
  }

 private:
  /// The constructor's work in the modified kernels: where the block's tile and the queries that see it lie. A place without a tile has first_key_ < 0.
  __device__ __forceinline__ void start_modified(const BlockOrder::Work& work) {
    if constexpr (kModified) {
      const SequenceTile at = block_tile(p_.sequences, work.tile, work.batch, p_.shape.len_q, p_.shape.len_kv);
      first_key_ = -1;
      if (at.tile < 0) return;
      first_key_ = at.tile * Config::kTileKV;
      const PairRange range = p_.scores.range.with_lengths(at.len_q, at.len_kv);
      first_q_tile_ = range.begin_row(first_key_) / Config::kTileQ;
      if (threadIdx.x == 0) {
        const int end_row = range.end_row(min(first_key_ + Config::kTileKV, at.len_kv) - 1);
        const int head = work.head * p_.shape.group_size;
        s_.base.end_q_tile = (end_row + Config::kTileQ - 1) / Config::kTileQ;
        s_.base.q = p_.q + at.batch * p_.q_strides.batch + at.q_begin * p_.q_strides.seq + head * p_.q_strides.head;
        s_.base.grad_o = p_.grad_o + at.batch * p_.grad_o_strides.batch + at.q_begin * p_.grad_o_strides.seq + head * p_.grad_o_strides.head;
        // The rows of all sequences of a head follow each other; without sequences, those of a batch entry's heads do.
        const int64_t workspace_batch = p_.sequences.data == nullptr ? at.batch : 0;
        s_.base.row = (workspace_batch * p_.shape.heads_q + head) * p_.padded_rows + at.row_begin;
        s_.base.head = head;
        s_.base.at = at;
      }
      __syncthreads();
    }
  }

  /// All steps. With scores in registers: barrier, grad_q of the step before, scores and products of this one. Else: barrier, scores, barrier, products.
  __device__ __forceinline__ void go_through_queries(bool careful) {
    const bool with_grad_q = Config::kSlices == 1 && p_.grad_q_accumulator != nullptr && !careful;
    bool k_nonfinite = false;
    Step now = shown_from({0, first_q_tile_}), before{-1, 0}, shown{};
    // The step that comes next. Written so that nothing of it stays in a register of the plain kernel.
    const auto next = [&] { return kModified ? shown : following(now); };
    int buffer = 0;
    copy_queries(now, buffer);
    ptx::cp_async_commit();
#pragma unroll 1
    for (; now.head < p_.shape.group_size && now.tile < end_q_tile(); now = next()) {
      if constexpr (kModified) shown = shown_from(following(now));
      ptx::cp_async_wait<0>();
      __syncthreads();
      if (Config::kStages == 2) copy_queries(next(), buffer ^ 1);
      ptx::cp_async_commit();
      if (kModified || p_.shape.causal) {
        if (kModified ? before.head < 0 : now.head == 0 && now.tile == first_q_tile_) k_nonfinite = k_has_nonfinite();
        if (FA_UNLIKELY(careful) && is_masked(now)) set_aside_nonfinite(now, buffer);
      }
      if constexpr (Config::kInRegisters) {
        if (with_grad_q && has_preceding(now, before)) add_grad_q(preceding(now, before), buffer ^ 1, k_nonfinite);
        score_step(now, buffer);
      } else {
        score_step(now, buffer);
        __syncthreads();
        products_from_shared(now, buffer, with_grad_q, k_nonfinite);
        if (Config::kStages == 1) {
          __syncthreads();
          copy_queries(next(), 0);
          ptx::cp_async_commit();
        }
      }
      if (Config::kStages == 2) buffer ^= 1;
      if constexpr (kModified) before = now;
    }
    __syncthreads();
    if (Config::kInRegisters && with_grad_q && has_preceding(now, before)) add_grad_q(preceding(now, before), buffer ^ 1, k_nonfinite);
    ptx::cp_async_wait<0>();
  }

  /// One past the last of the query tiles that see some key of the block.
  __device__ __forceinline__ int end_q_tile() const {
    if constexpr (kModified) return s_.base.end_q_tile;
    return p_.num_q_tiles;
  }
  __device__ __forceinline__ Step following(Step step) const {
    return step.tile + 1 < end_q_tile() ? Step{step.head, step.tile + 1} : Step{step.head + 1, first_q_tile_};
  }
  /// The first step from this one on that the block mask does not hide. Of plain kernels: this one. Warp-wide.
  __device__ __forceinline__ Step shown_from(Step step) {
    if constexpr (kModified) {
      if (p_.scores.block_mask.data != nullptr) return find_shown(step);
    }
    return step;
  }
  /// Which of 32 query tiles the block mask shows is found out by the lanes of a warp when the first of them is reached, and kept in shared memory.
  __device__ __forceinline__ Step find_shown(Step step) {
    if constexpr (kModified) {
      const int thread = ptx::thread_index_anew(), lane = thread & 31;
      uint32_t& s_shown = s_.base.shown_tiles[static_cast<unsigned>(thread) / 32];
      while (step.head < p_.shape.group_size && first_q_tile_ < end_q_tile()) {
        const int first_of_32 = step.tile & ~31;
        if (step.tile == first_of_32 || step.tile == first_q_tile_) {
          const int mine = first_of_32 + lane, first_row = mine * Config::kTileQ;
          const bool shown = mine >= first_q_tile_ && mine < end_q_tile() &&
                             modified_head(step).block_mask_shows(first_row, first_row + Config::kTileQ - 1, first_key_, first_key_ + Config::kTileKV - 1);
          const uint32_t all = __ballot_sync(0xffffffffu, shown);
          __syncwarp();
          if (lane == 0) s_shown = all;
          __syncwarp();
        }
        const uint32_t shown = s_shown & ~0u << step.tile % 32;
        if (shown != 0) return {step.head, first_of_32 + __ffs(static_cast<int>(shown)) - 1};
        step.tile = first_of_32 + 32;
        if (step.tile >= end_q_tile()) step = {step.head + 1, first_q_tile_};
      }
    }
    return step;
  }
  /// Whether there is a step before this one (or before the end). before: of modified kernels, the step that was done last; head -1 if there is none.
  __device__ __forceinline__ bool has_preceding(Step step, Step before) const {
    if constexpr (kModified) return before.head >= 0;
    return step.head > 0 || step.tile > first_q_tile_;
  }
  __device__ __forceinline__ Step preceding(Step step, Step before) const {
    if constexpr (kModified) return before;
    return step.tile > first_q_tile_ ? Step{step.head, step.tile - 1} : Step{step.head - 1, end_q_tile() - 1};
  }
  /// Whether some row of the tile does not see some key of the block's tile.
  __device__ __forceinline__ bool is_masked(Step step) const {
    const int first_row = step.tile * Config::kTileQ;
    if constexpr (kModified) {
      return p_.scores.hides_pairs() || !range().sees_whole(first_row, first_row + Config::kTileQ - 1, first_key_, first_key_ + Config::kTileKV - 1);
    }
    return first_key_ + Config::kTileKV > visibility_.visible_keys(first_row);
  }
  /// Whether some row of the tile sees some key of the warp.
  __device__ __forceinline__ bool is_seen(Step step) const {
    const int first_key = first_key_ + 16 * warp_kv_, last_row = step.tile * Config::kTileQ + Config::kTileQ - 1;
    if constexpr (kModified) return range().sees_some(step.tile * Config::kTileQ, last_row, first_key, first_key + 16 * (kM - 1) * Config::kWarpsKV + 15);
    return first_key < visibility_.visible_keys(last_row);
  }
  /// Which pairs the mask shows, of the modified kernels.
  __device__ __forceinline__ PairRange range() const {
    return p_.scores.range.with_lengths(s_.base.at.len_q, s_.base.at.len_kv);
  }
  __device__ __forceinline__ int len_q() const {
    return kModified ? s_.base.at.len_q : p_.shape.len_q;
  }
  /// The modifications for the query head of a step.
  __device__ __forceinline__ typename Policy::template Head<Element, ScoreLayout::kKeysByRows> modified_head(Step step) const {
    return {p_.scores, range(), s_.base.at.sequence, s_.base.head + step.head};
  }

  template <class Pointer>
  __device__ __forceinline__ GlobalRows key_rows(Pointer g_data, const Strides& strides, int cols) const {
    if constexpr (kModified) {
      const SequenceTile& at = s_.base.at;
      const int kv_head = p_.shape.by_group_size.quotient(s_.base.head);
      return {g_data + at.batch * strides.batch + at.kv_begin * strides.seq + kv_head * strides.head, strides.seq, at.len_kv, cols, p_.shape.aligned};
    }
    const BlockOrder::Work work = p_.order.work(ptx::block_index_anew());
    const int64_t batch = work.batch, head = work.head;
    return {g_data + batch * strides.batch + head * strides.head, strides.seq, p_.shape.len_kv, cols, p_.shape.aligned};
  }

  /// Queues the copies of a step's q, grad_o, log-sum-exp and delta, if there is such a step.
  __device__ __forceinline__ void copy_queries(Step step, int buffer) {
    if (step.head >= p_.shape.group_size || step.tile >= end_q_tile()) return;
    const int thread = ptx::thread_index_anew();
    const int first_row = step.tile * Config::kTileQ;
    const GlobalRows g_q{s_.base.q + step.head * p_.q_strides.head, p_.q_strides.seq, len_q(), p_.shape.head_dim, p_.shape.aligned};
    const GlobalRows g_grad_o{s_.base.grad_o + step.head * p_.grad_o_strides.head, p_.grad_o_strides.seq, len_q(), p_.shape.head_dim_v, p_.shape.aligned};
    copy_to_shared<kThreads>(s_.q[buffer], g_q, first_row, thread);
    copy_to_shared<kThreads>(s_.grad_o[buffer], g_grad_o, first_row, thread);
    const int64_t row = s_.base.row + step.head * p_.padded_rows + first_row + 4 * thread;
    if (thread < Config::kTileQ / 4) {
      ptx::cp_async_16(ptx::shared_address(&s_.lse_log2[buffer][4 * thread]), p_.lse_log2 + row, 16);
      ptx::cp_async_16(ptx::shared_address(&s_.delta[buffer][4 * thread]), p_.delta + row, 16);
    }
    if constexpr (Policy::kBiasTiles) {
      if (p_.scores.bias_staged) {
        copy_bias<kThreads>(bias_tile(buffer), p_.scores, range(), s_.base.at.sequence, s_.base.head + step.head, first_row, first_key_, thread);
      }
    }
  }
  /// The bias of a step, behind the rest of shared memory.
  __device__ __forceinline__ typename Config::BiasTile& bias_tile(int buffer) const {
    return reinterpret_cast<typename Config::BiasTile*>(&s_ + 1)[buffer];
  }
  __device__ __forceinline__ auto staged_bias(int block, int buffer, int lane) const {
    if constexpr (Policy::kBiasTiles) {
      using Staged = BiasByKeys<typename Config::BiasTile, Config::kWarpsQ, Config::kWarpsKV>;
      return Staged(bias_tile(buffer), block * Config::kWarpsQ + warp_q_, warp_kv_, lane);
    } else {
      return NoBiasTile{};
    }
  }

  /// Place of the warp along the columns of grad_k and grad_v.
  __device__ __forceinline__ int warp_col() const {
    if constexpr (Config::kSlices == 1) return warp_q_;
    return static_cast<int>(static_cast<unsigned>(ptx::thread_index_anew()) / 32 % Config::kWarpsCols);
  }

  /// P^T and dS^T of the warp's keys and queries, kQStep blocks of queries at a time, and the products that need nothing from other warps.
  __device__ __forceinline__ void score_step(Step step, int buffer) {
    const bool seen = is_seen(step);
    const int lane = ptx::thread_index_anew() & 31;
    const int offset = buffer * static_cast<int>(sizeof(typename Config::QTile));
#pragma unroll
    for (int block = 0; block < Config::kQBlocks; block += Config::kQStep) {
      Scores p, ds;
      clear(p);
      clear(ds);
      if (seen) {
        // S^T, then dP^T, and P between the products of dP^T.
        multiply<Element, 2 * kDimSteps, Config::kAhead>(
            [&](int k) -> Scores& { return k < kDimSteps ? p : ds; },
            [&](uint32_t(&a)[4], int m, int k) { k_rows_.load(a, m * Config::kWarpsKV, k % kDimSteps, k < kDimSteps ? 0 : kToV); },
            [&](uint32_t(&b)[4], int pair, int k) {
              q_columns_.load(b, (block + pair) * Config::kWarpsQ, k % kDimSteps, offset + (k < kDimSteps ? 0 : kToGradO));
            },
            [&](int k) {
              constexpr int kEvery = kDimSteps / kStepN > 0 ? kDimSteps / kStepN : 1;
              const int n = (k - kDimSteps) / kEvery;
              if (!kModified && k >= kDimSteps && k % kEvery == 0 && n < kStepN) exponentiate(p, n, block, buffer, lane);
            });
        if constexpr (kModified) {
          differentiate_modified(ds, p, step, block, buffer, lane);
          if (!Config::kInRegisters) store_scores(s_.scores[0], p, block, lane);
        } else {
          if (FA_UNLIKELY(is_masked(step))) hide(p, step, block, lane);
          if (!Config::kInRegisters) store_scores(s_.scores[0], p, block, lane);
          differentiate(ds, p, step, block, buffer, lane);
        }
      } else if (!Config::kInRegisters) {
        store_scores(s_.scores[0], p, block, lane);
      }
      store_scores(s_.scores[Config::kInRegisters ? buffer : 1], ds, block, lane);
      if (Config::kInRegisters && seen) {
        // Step 2k: grad_v += P^T grad_o, step 2k + 1: grad_k += dS^T q, for 16 queries.
        multiply<Element, 2 * Config::kQStep, Config::kAhead>(
            [&](int k) -> Gradients& { return k % 2 == 0 ? grad_v_ : grad_k_; },
            [&](uint32_t(&a)[4], int m, int k) { round_to_a<Element>(a, k % 2 == 0 ? p : ds, m, k / 2); },
            [&](uint32_t(&b)[4], int pair, int k) { q_rows_.load(b, block + k / 2, pair * Config::kWarpsQ, offset + (k % 2 == 0 ? kToGradO : 0)); });
      }
    }
  }

  /// Column (query) within the tile of element (n, 0) of the warp's scores.
  __device__ __forceinline__ int query_of(int block, int n, int lane) const {
    return 16 * ((block + n / 2) * Config::kWarpsQ + warp_q_) + 8 * (n & 1) + 2 * (lane & 3);
  }

  /// s -> P = exp(scale s - lse) for group n of 8 queries; not yet masked.
  __device__ __forceinline__ void exponentiate(Scores& s, int n, int block, int buffer, int lane) {
    const float2 lse = *reinterpret_cast<const float2*>(&s_.lse_log2[buffer][query_of(block, n, lane)]);
#pragma unroll
    for (int m = 0; m < kM; ++m) {
#pragma unroll
      for (int i = 0; i < 4; ++i) s[m][n][i] = ptx::exp2_approx(fmaf(s[m][n][i], p_.shape.scale_log2, i & 1 ? -lse.y : -lse.x));
    }
  }

  /// dP -> dS = P (dP - delta), not yet scaled; 0 where masked, whatever dP was.
  __device__ __forceinline__ void differentiate(Scores& dp, const Scores& p, Step step, int block, int buffer, int lane) {
#pragma unroll
    for (int n = 0; n < kStepN; ++n) {
      const float2 delta = *reinterpret_cast<const float2*>(&s_.delta[buffer][query_of(block, n, lane)]);
#pragma unroll
      for (int m = 0; m < kM; ++m) {
#pragma unroll
        for (int i = 0; i < 4; ++i) dp[m][n][i] = p[m][n][i] * (dp[m][n][i] - (i & 1 ? delta.y : delta.x));
      }
    }
    if (FA_UNLIKELY(is_masked(step))) hide(dp, step, block, lane);
  }

  /// s -> P as grad_v takes it, dP -> dS, under the modifications.
  __device__ __forceinline__ void differentiate_modified(Scores& dp, Scores& s, Step step, int block, int buffer, int lane) {
    const int first_key = first_key_ + 16 * warp_kv_, first_row = step.tile * Config::kTileQ;
    const bool whole = range().sees_whole(first_row, first_row + Config::kTileQ - 1, first_key, first_key + 16 * (kM - 1) * Config::kWarpsKV + 15);
    modified_head(step).template differentiate<ScoreGradient::kWithProbability>(
        s, dp, whole, staged_bias(block, buffer, lane), lane,
        [&](int m, int n, int i) {
          return Pair{first_row + query_of(block, n, lane) + (i & 1), first_key + 16 * m * Config::kWarpsKV + 8 * (i >> 1) + (lane >> 2)};
        },
        [&](int, int n, int i) { return s_.lse_log2[buffer][query_of(block, n, lane) + (i & 1)]; },
        [&](int, int n, int i) { return s_.delta[buffer][query_of(block, n, lane) + (i & 1)]; });
  }

  __device__ __forceinline__ void hide(Scores& s, Step step, int block, int lane) {
    const int first_key = first_key_ + 16 * warp_kv_ + (lane >> 2);
#pragma unroll
    for (int n = 0; n < kStepN; ++n) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int visible = visibility_.visible_keys(step.tile * Config::kTileQ + query_of(block, n, lane) + e) - first_key;
#pragma unroll
        for (int m = 0; m < kM; ++m) {
          if (16 * m * Config::kWarpsKV >= visible) s[m][n][e] = 0.0f;
          if (16 * m * Config::kWarpsKV + 8 >= visible) s[m][n][2 + e] = 0.0f;
        }
      }
    }
  }

  __device__ __forceinline__ void store_scores(typename Config::ScoreTile& s_tile, const Scores& s, int block, int lane) {
    if (Config::kSlices > 1 && warp_col() % Config::kSlices != 0) return;  // another warp has the same
#pragma unroll
    for (int m = 0; m < kM; ++m) {
      const int key = 16 * (m * Config::kWarpsKV + warp_kv_) + (lane >> 2);
#pragma unroll
      for (int n = 0; n < kStepN; ++n) {
        *reinterpret_cast<uint32_t*>(s_tile.at(key, query_of(block, n, lane))) = ptx::pack2<Element>(s[m][n][0], s[m][n][1]);
        *reinterpret_cast<uint32_t*>(s_tile.at(key + 8, query_of(block, n, lane))) = ptx::pack2<Element>(s[m][n][2], s[m][n][3]);
      }
    }
  }

  /// The products of a step whose P and dS are complete in shared memory: grad_q first, so that its additions to memory spread over the other two.
  __device__ __forceinline__ void products_from_shared(Step step, int buffer, bool with_grad_q, bool k_nonfinite) {
    const bool zero_k = with_grad_q && k_nonfinite && is_masked(step);
    if (FA_UNLIKELY(zero_k)) zero_nonfinite_keys();
    GradQTile grad_q;
    clear(grad_q);  // also without grad_q: else ptxas, seeing a path that does not set them, keeps these registers through the whole loop
    if (with_grad_q) multiply_grad_q(grad_q, step, 1);
    if (is_seen(step)) {
      float* g_mine = grad_q_destination(step);
      accumulate_from_shared(buffer, [&](int k) {
        if (with_grad_q) add_part(grad_q, g_mine, k, kFromSharedSteps);
      });
    } else if (with_grad_q) {
      add_part(grad_q, grad_q_destination(step), 0, 1);
    }
    if (FA_UNLIKELY(zero_k)) restore_keys();
  }

  /// grad_v += P^T grad_o, then grad_k += dS^T q, for all queries of the tile and the warp's keys and columns. between(k) is called after each step of 16.
  template <class Between>
  __device__ __forceinline__ void accumulate_from_shared(int buffer, Between&& between) {
    const int offset = buffer * static_cast<int>(sizeof(typename Config::QTile));
    const OperandA<typename Config::ScoreTile> p_rows(s_.scores[0], 16 * warp_kv_, 0, ptx::thread_index_anew() & 31);
    constexpr int kPToDs = sizeof(typename Config::ScoreTile);
    constexpr int kSteps = kFromSharedSteps / 2;
    multiply<Element, kFromSharedSteps, Config::kAhead>(
        [&](int k) -> Gradients& { return k < kSteps ? grad_v_ : grad_k_; },
        [&](uint32_t(&a)[4], int m, int k) { p_rows.load(a, m * Config::kWarpsKV, k % kSteps, k < kSteps ? 0 : kPToDs); },
        [&](uint32_t(&b)[4], int pair, int k) { q_rows_.load(b, k % kSteps, pair * Config::kWarpsCols, offset + (k < kSteps ? kToGradO : 0)); }, between);
  }

  /// grad_q += dS k of a step.
  __device__ __forceinline__ void multiply_grad_q(GradQTile& grad_q, Step step, int scores) {
    const int thread = ptx::thread_index_anew();
    const int warp = static_cast<unsigned>(thread) / 32, lane = thread & 31;
    const int warp_row = warp / Config::kWarpsDqCols, warp_col = warp % Config::kWarpsDqCols;
    const OperandATransposed<typename Config::ScoreTile> ds_columns(s_.scores[scores], 0, 16 * warp_row, lane);
    const OperandBTransposed<typename Config::KVTile> k_columns(s_.k, 0, 16 * warp_col, lane);
    multiply<Element, Config::kTileKV / 16, Config::kAhead>(
        [&](int) -> auto& { return grad_q; },
        [&](uint32_t(&a)[4], int m, int k) {
          ds_columns.load(a, k, m * Config::kWarpsDqRows);
          // The warps that need the same dS share it out.
          if constexpr (Policy::kBiasTiles) {
            if (p_.direct_grad_bias.data != nullptr && k % Config::kWarpsDqCols == warp_col) {
              write_grad_bias(a, step, 16 * (warp_row + m * Config::kWarpsDqRows) + (lane >> 2), 16 * k + 2 * (lane & 3));
            }
          }
        },
        [&](uint32_t(&b)[4], int pair, int k) { k_columns.load(b, k, pair * Config::kWarpsDqCols); });
  }

  /// dS is the gradient of the bias, where that has every pair of its own: writes a fragment of it, whose first element is (row, key) of the step.
  __device__ __forceinline__ void write_grad_bias(const uint32_t (&fragment)[4], Step step, int row, int key) const {
    if constexpr (Policy::kBiasTiles) {
      const PairTensor& g = p_.direct_grad_bias;
      row += step.tile * Config::kTileQ;
      key += first_key_;
      uint16_t* g_first =
          static_cast<uint16_t*>(g.data) + s_.base.at.batch * g.batch_stride + (s_.base.head + step.head) * g.head_stride + row * g.row_stride + key;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (row + 8 * (i & 1) < len_q() && key + 8 * (i >> 1) < s_.base.at.len_kv) {
          *reinterpret_cast<uint32_t*>(g_first + 8 * (i & 1) * g.row_stride + 8 * (i >> 1)) = fragment[i];
        }
      }
    }
  }

  /// Rare path, block-wide, around grad_q of a masked step: takes NaN and infinity out of k, since a masked key's NaN times dS = 0 would be NaN. Rows that see
  /// the key have dS = NaN already.
  __device__ __forceinline__ void zero_nonfinite_keys() {
    __syncthreads();
    zero_nonfinite<Element, kThreads>(s_.k, ptx::thread_index_anew());
    __syncthreads();
  }
  __device__ __forceinline__ void restore_keys() {
    __syncthreads();
    copy_to_shared<kThreads>(s_.k, key_rows(p_.k, p_.k_strides, p_.shape.head_dim), first_key_, ptx::thread_index_anew());
    ptx::cp_async_commit();
    ptx::cp_async_wait<0>();
    __syncthreads();
  }

  /// Where this thread's first element of a step's grad_q goes in the accumulator. Its order is that of the fragments: every addition of a warp covers 128
  /// contiguous bytes.
  __device__ __forceinline__ float* grad_q_destination(Step step) const {
    constexpr int kPerThread = Config::kDqM * Config::kDqN * 4;
    const int64_t row = s_.base.row + step.head * p_.padded_rows + step.tile * Config::kTileQ;
    const int thread = ptx::thread_index_anew();
    return p_.grad_q_accumulator + row * Config::kDim + static_cast<int>(static_cast<unsigned>(thread) / 32) * 32 * kPerThread + (thread & 31);
  }

  /// Adds a part of a step's grad_q, one of so many, to the accumulator.
  __device__ __forceinline__ void add_part(const GradQTile& grad_q, float* g_mine, int part, int parts) {
    constexpr int kBlocks = Config::kDqM * Config::kDqN;
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) {
      if (block * parts / kBlocks != part) continue;
#pragma unroll
      for (int i = 0; i < 4; ++i) atomicAdd(g_mine + (block * 4 + i) * 32, grad_q[block / Config::kDqN][block % Config::kDqN][i]);
    }
  }

  __device__ __forceinline__ void add_grad_q(Step step, int scores, bool k_nonfinite) {
    const bool zero_k = k_nonfinite && is_masked(step);
    if (FA_UNLIKELY(zero_k)) zero_nonfinite_keys();
    GradQTile grad_q;
    clear(grad_q);
    multiply_grad_q(grad_q, step, scores);
    add_part(grad_q, grad_q_destination(step), 0, 1);
    if (FA_UNLIKELY(zero_k)) restore_keys();
  }

  __device__ __forceinline__ bool k_has_nonfinite() {
    bool found = false;
    const uint32_t* s_words = reinterpret_cast<const uint32_t*>(s_.k.elements);
#pragma unroll 4
    for (int i = ptx::thread_index_anew(); i < Config::kTileKV * Config::kDim / 2; i += kThreads) {
      const uint32_t word = s_words[Config::KVTile::place_of(2 * i) / 2];
      found |= is_nonfinite<Element>(static_cast<uint16_t>(word)) || is_nonfinite<Element>(static_cast<uint16_t>(word >> 16));
    }
    return __syncthreads_or(found);
  }

  /// Rare path, block-wide: takes NaN and infinity out of q and grad_o of a masked step. What the keys that are seen must get of them comes by other ways: a
  /// row with such a q gets lse = NaN, hence P = dS = NaN where it sees a key; one with such a grad_o gets delta = NaN, and its elements are added to grad_v.
  __device__ __forceinline__ void set_aside_nonfinite(Step step, int buffer) {
    const int first_row = step.tile * Config::kTileQ;
    const auto first_column = [&](int n) { return 16 * (n / 2 * Config::kWarpsCols + warp_col()) + 8 * (n & 1); };
    const auto sees = [&](int key, int row) {
      const int tile_key = 16 * (key / 16 * Config::kWarpsKV + warp_kv_) + key % 16;
      if constexpr (kModified) return modified_head(step).sees(first_row + row, first_key_ + tile_key);
      return first_row + row < p_.shape.len_q && first_key_ + tile_key < visibility_.visible_keys(first_row + row);
    };
    if constexpr (kModified) {
      add_nonfinite_asking_once<Element>(grad_v_, s_.grad_o[buffer], first_column, sees);
    } else {
      add_nonfinite<Element>(grad_v_, s_.grad_o[buffer], first_column, sees);
    }
    const int thread = ptx::thread_index_anew();
    if (thread < Config::kTileQ) {
      if (row_has_nonfinite<Element>(s_.q[buffer], thread)) s_.lse_log2[buffer][thread] = NAN;
      if (row_has_nonfinite<Element>(s_.grad_o[buffer], thread)) s_.delta[buffer][thread] = NAN;
    }
    __syncthreads();
    zero_nonfinite<Element, kThreads>(s_.q[buffer], thread);
    zero_nonfinite<Element, kThreads>(s_.grad_o[buffer], thread);
    __syncthreads();
  }

  __device__ __forceinline__ void write_gradient(typename Config::KVTile& s_tile, const Gradients& gradient, float factor) {
    const int lane = threadIdx.x & 31;
#pragma unroll
    for (int m = 0; m < kM; ++m) {
      const int key = 16 * (m * Config::kWarpsKV + warp_kv_) + (lane >> 2);
#pragma unroll
      for (int n = 0; n < Config::kGradN; ++n) {
        const int col = 16 * (n / 2 * Config::kWarpsCols + warp_col()) + 8 * (n & 1) + 2 * (lane & 3);
        *reinterpret_cast<uint32_t*>(s_tile.at(key, col)) = ptx::pack2<Element>(gradient[m][n][0] * factor, gradient[m][n][1] * factor);
        *reinterpret_cast<uint32_t*>(s_tile.at(key + 8, col)) = ptx::pack2<Element>(gradient[m][n][2] * factor, gradient[m][n][3] * factor);
      }
    }
  }

  const Params& p_;
  Shared& s_;
  const Visibility visibility_;
  const int warp_kv_, warp_q_;
  OperandA<typename Config::KVTile> k_rows_;           // A of S^T, and of dP^T at kToV
  OperandB<typename Config::QTile> q_columns_;         // B of S^T, and of dP^T at kToGradO
  OperandBTransposed<typename Config::QTile> q_rows_;  // B of grad_k, and of grad_v at kToGradO
  int first_key_, first_q_tile_;
  Gradients grad_k_, grad_v_;
};

template <class Config>
__global__ void __launch_bounds__(Config::kThreads, Config::kBlocksPerSm) backward_kernel(const __grid_constant__ typename Config::Params params) {
  extern __shared__ __align__(128) unsigned char s_memory[];
  BackwardBlock<Config> block(params, *reinterpret_cast<typename Config::Shared*>(s_memory));
  block.run();
}

}  // namespace fa::sm80
