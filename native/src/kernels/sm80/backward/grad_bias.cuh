// Backward pass: the gradient of a tile of the additive bias, which is dS = P (dP - delta) summed over the batches, heads and rows that the bias is the same
// for. Each element is summed by one thread, in the end over rows by a few, in a fixed order.
#pragma once

#include <cmath>
#include <type_traits>

#include "kernels/sm80/backward/config.h"
#include "kernels/sm80/backward/params.h"
#include "tile/copy_tile.cuh"
#include "tile/warp_product.cuh"

namespace fa::sm80 {

template <class Config>
class GradBiasBlock {
  using Element = typename Config::Element;
  using Shared = typename Config::Shared;
  using Operands = typename Config::Operands;
  static constexpr int kThreads = Config::kThreads;
  static constexpr int kM = Config::kM;
  static constexpr int kN = Config::kN;
  static constexpr bool kTwoStages = Config::kStages == 2;
  static constexpr int kAhead = 0;  ///< as in the forward kernel, whose shape this one has
  using Scores = Accumulators<kM, kN>;
  using Head = ModifiedHead<Element, ScoreLayout::kRowsByKeys>;

  /// A tile of pairs of one batch and query head.
  struct Step {
    int batch, head, row_tile;
  };

 public:
  __device__ __forceinline__ GradBiasBlock(const GradBiasParams& params, Shared& shared)
      : p_(params),
        s_(shared),
        warp_row_(static_cast<int>(threadIdx.x) / 32 / Config::kWarpsKV * 16 * kM),
        warp_key_(static_cast<int>(threadIdx.x) / 32 % Config::kWarpsKV * 8 * kN) {
    int block = static_cast<int>(blockIdx.x);
    first_key_ = block % params.key_tiles * Config::kTileKV;
    block /= params.key_tiles;
    row_tile_ = block % params.row_tiles;
    block /= params.row_tiles;
    head_ = block % static_cast<int>(params.grad_bias.heads);
    batch_ = block / static_cast<int>(params.grad_bias.heads);
  }

  /// Per step the operands of the first product, q and k, then those of the second, grad_o and v. With two stages those of the one travel during the other.
  __device__ __forceinline__ void run() {
    clear(sum_);
    Step step = seen_from({for_all_batches() ? 0 : batch_, for_all_heads() ? 0 : head_, row_tile_});
    copy_q_and_k(step);
#pragma unroll 1
    while (exists(step)) {
      const Step next = seen_from(following(step));
      Scores s, dp;
      wait_for_copies();
      if (kTwoStages) copy_grad_o_and_v(step);
      product(s, 0);
      if (!kTwoStages) {
        __syncthreads();
        copy_grad_o_and_v(step);
      }
      wait_for_copies();
      if (kTwoStages) copy_q_and_k(next);
      product(dp, Config::kStages - 1);
      if (!kTwoStages) {
        __syncthreads();
        copy_q_and_k(next);
      }
      add(s, dp, step);
      step = next;
    }
    wait_for_copies();
    if (p_.grad_bias.rows == 1) {
      write_row();
    } else {
      write_tile();
    }
  }

 private:
  __device__ __forceinline__ bool for_all_batches() const {
    return p_.grad_bias.batches == 1;
  }
  __device__ __forceinline__ bool for_all_heads() const {
    return p_.grad_bias.heads == 1;
  }

  __device__ __forceinline__ bool exists(Step step) const {
    return step.batch < (for_all_batches() ? static_cast<int>(p_.batch) : batch_ + 1);
  }
  /// The next tile of rows, if the bias is the same for all of them, of the next head, if it is the same for all heads, of the next batch.
  __device__ __forceinline__ Step following(Step step) const {
    if (p_.grad_bias.rows == 1 && (step.row_tile + 1) * Config::kTileQ < p_.rows) return {step.batch, step.head, step.row_tile + 1};
    if (for_all_heads() && step.head + 1 < p_.shape.heads_q) return {step.batch, step.head + 1, row_tile_};
    return {step.batch + 1, for_all_heads() ? 0 : head_, row_tile_};
  }
  /// The first step from this one on with pairs that are seen, as far as range and block mask tell.
  __device__ __forceinline__ Step seen_from(Step step) const {
    const int last_key = first_key_ + Config::kTileKV - 1;
    while (exists(step)) {
      const int first_row = step.row_tile * Config::kTileQ, last_row = first_row + Config::kTileQ - 1;
      const PairRange range = range_of(sequence(step.batch));
      if (range.sees_some(first_row, last_row, first_key_, last_key) &&
          (p_.scores.block_mask.data == nullptr || Head(p_.scores, range, step.batch, step.head).block_mask_shows(first_row, last_row, first_key_, last_key))) {
        break;
      }
      step = following(step);
    }
    return step;
  }

  __device__ __forceinline__ void wait_for_copies() {
    ptx::cp_async_wait<0>();
    __syncthreads();
  }
  /// Lengths and places of a batch entry.
  __device__ __forceinline__ SequenceTile sequence(int batch) const {
    if (p_.sequences_by_number != nullptr) return p_.sequences_by_number[batch];
    return {batch, 0, 0, p_.shape.len_q, 0, p_.shape.len_kv, 0, batch};
  }
  __device__ __forceinline__ PairRange range_of(const SequenceTile& at) const {
    return p_.scores.range.with_lengths(at.len_q, at.len_kv);
  }
  template <class Pointer>
  __device__ __forceinline__ GlobalRows rows_of(Pointer g_data, const Strides& strides, int batch, int begin, int head, int rows, int cols) const {
    return {g_data + batch * strides.batch + begin * strides.seq + head * strides.head, strides.seq, rows, cols, p_.shape.aligned};
  }
  __device__ __forceinline__ void copy_q_and_k(Step step) {
    if (exists(step)) copy(s_.operands[0], step, p_.q, p_.q_strides, p_.k, p_.k_strides, p_.shape.head_dim);
    ptx::cp_async_commit();
  }
  __device__ __forceinline__ void copy_grad_o_and_v(Step step) {
    copy(s_.operands[Config::kStages - 1], step, p_.grad_o, p_.grad_o_strides, p_.v, p_.v_strides, p_.shape.head_dim_v);
    if (Config::Policy::kBiasTiles && p_.scores.bias_staged) {
      copy_bias<kThreads>(bias_tile(), p_.scores, range_of(sequence(step.batch)), step.batch, step.head, step.row_tile * Config::kTileQ, first_key_,
                          static_cast<int>(threadIdx.x));
    }
    ptx::cp_async_commit();
  }
  __device__ __forceinline__ void copy(Operands& s_operands, Step step, const uint16_t* g_rows, const Strides& row_strides, const uint16_t* g_keys,
                                       const Strides& key_strides, int cols) {
    const int kv_head = step.head / p_.shape.group_size;
    const SequenceTile at = sequence(step.batch);
    copy_to_shared<kThreads>(s_operands.rows, rows_of(g_rows, row_strides, at.batch, at.q_begin, step.head, at.len_q, cols), step.row_tile * Config::kTileQ,
                             static_cast<int>(threadIdx.x));
    copy_to_shared<kThreads>(s_operands.keys, rows_of(g_keys, key_strides, at.batch, at.kv_begin, kv_head, at.len_kv, cols), first_key_,
                             static_cast<int>(threadIdx.x));
  }

  /// The bias of a step, behind the rest of shared memory; it travels with grad_o and v.
  __device__ __forceinline__ typename Config::BiasTile& bias_tile() const {
    return *reinterpret_cast<typename Config::BiasTile*>(&s_ + 1);
  }
  __device__ __forceinline__ auto staged_bias(int lane) const {
    if constexpr (Config::Policy::kBiasTiles) {
      return BiasByRows<typename Config::BiasTile>(bias_tile(), warp_row_, warp_key_, lane);
    } else {
      return NoBiasTile{};
    }
  }

  __device__ __forceinline__ void product(Scores& scores, int stage) {
    const OperandA<typename Config::QTile> rows(s_.operands[stage].rows, warp_row_, 0);
    const OperandB<typename Config::KVTile> keys(s_.operands[stage].keys, warp_key_, 0);
    clear(scores);
    multiply<Element, Config::kDim / 16, kAhead>([&](int) -> Scores& { return scores; }, [&](uint32_t(&a)[4], int m, int k) { rows.load(a, m, k); },
                                                 [&](uint32_t(&b)[4], int pair, int k) { keys.load(b, pair, k); });
  }

  /// sum += dS of a step.
  __device__ __forceinline__ void add(Scores& s, Scores& dp, Step step) {
    const int lane = static_cast<int>(threadIdx.x) & 31;
    const int first_row = step.row_tile * Config::kTileQ + warp_row_, first_key = first_key_ + warp_key_;
    const SequenceTile at = sequence(step.batch);
    // The rows of all sequences of a head follow each other; without sequences, those of a batch entry's heads do.
    const int64_t workspace_batch = p_.sequences_by_number == nullptr ? at.batch : 0;
    const int64_t g_row = (workspace_batch * p_.shape.heads_q + step.head) * p_.padded_rows + at.row_begin + first_row + (lane >> 2);
    float lse[2 * kM], delta[2 * kM];
#pragma unroll
    for (int r = 0; r < 2 * kM; ++r) {
      lse[r] = p_.lse_log2[g_row + 8 * r];
      delta[r] = p_.delta[g_row + 8 * r];
    }
    const PairRange range = range_of(at);
    const bool whole = range.sees_whole(first_row, first_row + 16 * kM - 1, first_key, first_key + 8 * kN - 1);
    Head(p_.scores, range, step.batch, step.head)
        .template differentiate<ScoreGradient::kOfBias>(
            s, dp, whole, staged_bias(lane), lane,
            [&](int m, int n, int i) {
              return Pair{first_row + 16 * m + 8 * (i >> 1) + (lane >> 2), first_key + 8 * n + 2 * (lane & 3) + (i & 1)};
            },
            [&](int m, int, int i) { return lse[2 * m + (i >> 1)]; }, [&](int m, int, int i) { return delta[2 * m + (i >> 1)]; });
#pragma unroll
    for (int m = 0; m < kM; ++m) {
#pragma unroll
      for (int n = 0; n < kN; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) sum_[m][n][i] += dp[m][n][i];
      }
    }
  }

  /// Element (row, key) of the gradient and the one behind it, of those that exist.
  __device__ __forceinline__ void write_pair(int row, int key, float first, float second) const {
    const int64_t at = batch_ * p_.grad_bias.batch_stride + head_ * p_.grad_bias.head_stride + row * p_.grad_bias.row_stride + key;
    const bool one = key < p_.columns, two = key + 1 < p_.columns;
    if (p_.is_float) {
      float* g_pair = static_cast<float*>(p_.grad_bias.data) + at;
      if (one) g_pair[0] = first;
      if (two) g_pair[1] = second;
      return;
    }
    uint16_t* g_pair = static_cast<uint16_t*>(p_.grad_bias.data) + at;
    const uint32_t bits = ptx::pack2<Element>(first, second);
    if (two && reinterpret_cast<uintptr_t>(g_pair) % 4 == 0) {
      *reinterpret_cast<uint32_t*>(g_pair) = bits;
      return;
    }
    if (one) g_pair[0] = static_cast<uint16_t>(bits);
    if (two) g_pair[1] = static_cast<uint16_t>(bits >> 16);
  }
  __device__ __forceinline__ void write_tile() const {
    const int lane = static_cast<int>(threadIdx.x) & 31;
#pragma unroll
    for (int r = 0; r < 2 * kM; ++r) {
      const int row = row_tile_ * Config::kTileQ + warp_row_ + 8 * r + (lane >> 2);
      if (row >= p_.grad_bias.rows) continue;
#pragma unroll
      for (int n = 0; n < kN; ++n) {
        write_pair(row, first_key_ + warp_key_ + 8 * n + 2 * (lane & 3), sum_[r / 2][n][r % 2 * 2], sum_[r / 2][n][r % 2 * 2 + 1]);
      }
    }
  }
  /// The sum over all rows: of a thread, of the eight lanes that hold the same keys, of the warps.
  __device__ __forceinline__ void write_row() {
    const int thread = static_cast<int>(threadIdx.x), lane = thread & 31;
    float* s_sums = reinterpret_cast<float*>(&s_);
#pragma unroll
    for (int n = 0; n < kN; ++n) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        float column = 0.0f;
#pragma unroll
        for (int r = 0; r < 2 * kM; ++r) column += sum_[r / 2][n][r % 2 * 2 + e];
        for (int distance = 4; distance < 32; distance *= 2) column += __shfl_xor_sync(0xffffffffu, column, distance);
        if (lane < 4) s_sums[warp_row_ / (16 * kM) * Config::kTileKV + warp_key_ + 8 * n + 2 * lane + e] = column;
      }
    }
    __syncthreads();
    for (int key = 2 * thread; key < Config::kTileKV; key += 2 * kThreads) {
      float column[2] = {0.0f, 0.0f};
      for (int warp = 0; warp < Config::kWarpsQ; ++warp) {
        for (int e = 0; e < 2; ++e) column[e] += s_sums[warp * Config::kTileKV + key + e];
      }
      write_pair(0, first_key_ + key, column[0], column[1]);
    }
  }

  const GradBiasParams& p_;
  Shared& s_;
  const int warp_row_, warp_key_;  ///< the warp's place in the tile
  int first_key_, row_tile_, head_, batch_;
  Scores sum_;
};

template <class Config>
__global__ void __launch_bounds__(Config::kThreads, Config::kBlocksPerSm) grad_bias_kernel(const __grid_constant__ GradBiasParams params) {
  extern __shared__ __align__(128) unsigned char s_memory[];
  GradBiasBlock<Config> block(params, *reinterpret_cast<typename Config::Shared*>(s_memory));
  block.run();
}

}  // namespace fa::sm80
