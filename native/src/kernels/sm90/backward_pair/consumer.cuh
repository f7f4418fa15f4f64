// A consumer warpgroup: 64 keys of the block against all query tiles that see a key of the cluster, and its part of grad_q of every other query tile.
#pragma once

#include "kernels/sm90/backward/pairs.cuh"
#include "kernels/sm90/backward/scores.cuh"
#include "kernels/sm90/backward/steps.cuh"
#include "kernels/sm90/backward_pair/block.cuh"
#include "kernels/sm90/backward_pair/config.h"
#include "kernels/sm90/backward_pair/grad_q.cuh"
#include "ptx/bulk_copy.cuh"
#include "ptx/cluster.cuh"
#include "ptx/fence_proxy.cuh"
#include "ptx/mbarrier.cuh"
#include "ptx/mma_sync.cuh"
#include "ptx/named_barrier.cuh"
#include "ptx/stmatrix.cuh"
#include "ptx/tma.cuh"
#include "ptx/wgmma.cuh"
#include "tile/wgmma_descriptor.cuh"

namespace fa::sm90 {

template <typename Config>
class PairConsumer {
  using Element = typename Config::Element;
  using SharedStorage = typename Config::SharedStorage;
  using ScoreProduct = ptx::Wgmma<Element, Config::kTileQ>;
  using GradientProduct = ptx::Wgmma<Element, Config::kHeadDim>;
  using Gradient = float[Config::kGradients];
  using Scores = float[Config::kScores];
  using Operand = uint32_t[Config::kScores / 2];
  static constexpr uint32_t kQStageStep = sizeof(typename SharedStorage::QTile) / 16;

 public:
  __device__ __forceinline__ PairConsumer(const BackwardParams& params, SharedStorage& smem, int warpgroup)
      : params_(params),
        smem_(smem),
        warpgroup_(warpgroup),
        block_(pair_block<Config>(params)),
        desc_k_(tile::k_major_descriptor(smem.k[0][64 * warpgroup])),
        desc_v_(tile::k_major_descriptor(smem.v[0][64 * warpgroup])),
        desc_q_(tile::k_major_descriptor(smem.q[0])),
        desc_q_rows_(tile::mn_major_descriptor(smem.q[0], Config::kTileQ)),
        grad_q_(smem, warpgroup) {
    const int thread = threadIdx.x % 128, lane = thread % 32;
    const int first_key = block_.first_key + 64 * warpgroup + thread / 32 * 16 + lane / 4;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int key = first_key + 8 * r;
      // Relative to the thread's first column. Nobody sees a key at the padding; without a mask everybody sees every other.
      first_row_[r] = (key >= params.visible_len_kv ? kNever : params.causal ? key - params.causal_offset : -kNever) - lane % 4 * 2;
    }
    const int matrix = lane / 8, row = lane % 8;
    s_own_ds_ = ptx::shared_address(smem.own_ds[warpgroup]) + tile::swizzled_offset_bytes(matrix / 2 * 8 + row, thread / 32 * 2 + matrix % 2);
  }

  __device__ __forceinline__ void run() {
    Gradient grad_k, grad_v;
#pragma unroll
    for (int i = 0; i < Config::kGradients; ++i) {
      grad_k[i] = 0.0f;
      grad_v[i] = 0.0f;
    }
    ptx::mbarrier_wait(&smem_.k_full, 0);
    ptx::mbarrier_wait(&smem_.v_full, 0);
    if (warpgroup_ == 1 && block_.first_pair < block_.end_pair) {
      ptx::named_barrier_sync(Config::kBarrierStart, Config::kConsumerThreads);
    }
#pragma unroll 1
    for (int group_head = 0; group_head < params_.group_size; ++group_head) {
      const int first_tile = (block_.first_head + group_head) * static_cast<int>(params_.padded_rows / Config::kTileQ);
      int pair = block_.end_pair - 1;
      const int end_masked = block_.end_masked;
#pragma unroll 1
      for (; pair >= end_masked; --pair) {
        process<false>(grad_k, grad_v, pair, first_tile);
      }
      const int first_pair = block_.first_pair;
#pragma unroll 1
      for (; pair >= first_pair; --pair) {
        process<true>(grad_k, grad_v, pair, first_tile);
      }
    }
    add_last_grad_q();
    if (params_.causal) {
      report_nonfinite(grad_k, grad_v);
    }
    store_gradients(grad_k, grad_v);
  }

 private:
  static constexpr int kNever = 1 << 30;
  /// With as many tiles of q in flight as of grad_o both have the same stage.
  static constexpr bool kOwnQCursor = Config::kQStages != Config::kStages;

  __device__ __forceinline__ int q_stage_of(int stage) const {
    return kOwnQCursor ? q_cursor_.stage : stage;
  }

  /// A pair of query tiles: first the other block's, whose dS is sent, then the own.
  template <bool kMasked>
  __device__ __forceinline__ void process(Gradient& grad_k, Gradient& grad_v, int pair, int first_tile) {
#pragma unroll Config::kUnrolledSteps
    for (int stage = 0; stage < Config::kStages; ++stage) {
      step<kMasked>(grad_k, grad_v, pair, stage);
    }
    previous_ = first_tile + block_.query_tile(pair, 1);
    first_ = false;
    previous_complete_ = pair < block_.end_complete;
    phase_ ^= 1;
  }

  /// One tile of queries. Every product is waited for before the end: a group in flight across the loop's back edge makes ptxas serialise all of them (C7514).
  template <bool kMasked>
  __device__ __forceinline__ void step(Gradient& grad_k, Gradient& grad_v, int pair, int stage) {
    using namespace ptx;
    const int q_stage = q_stage_of(stage);
    Scores p, ds;

    // S^T = K Q^T, dP^T = V dO^T
    mbarrier_wait(&smem_.q_full[q_stage], kOwnQCursor ? q_cursor_.phase : phase_);
    wgmma_fence();
    multiply_scores(p, desc_k_, q_stage * kQStageStep);
    wgmma_commit_group();
    mbarrier_wait(&smem_.grad_o_full[stage], phase_);
    multiply_scores(ds, desc_v_, stage * kQStageStep + SharedStorage::kToGradO);
    wgmma_commit_group();
    if (stage == 0) {
      if (!first_) {
        wait_for_ds(phase_ ^ 1);
      }
      mbarrier_wait(&smem_.sent_empty, phase_ ^ 1);
    }

    // P, dS
    wgmma_wait_group<1>();
    pin_registers(p);
    exponentiate_scores(p, &smem_.lse_log2[q_stage][threadIdx.x % 4 * 2], params_.scale_log2);
    if constexpr (kMasked) {
      hide_scores(p, first_row_, block_.query_tile(pair, stage) * Config::kTileQ);
    }
    // For what the rest of the step needs. It is there long since; but a wait is a branch, which keeps some of the exponentials in front of the next one.
    mbarrier_wait(&smem_.k_full, 0);
    wgmma_wait_group<0>();
    pin_registers(ds);
    differentiate_scores(ds, p, &smem_.delta[stage][threadIdx.x % 4 * 2]);
    if constexpr (kMasked) {
      hide_scores(ds, first_row_, block_.query_tile(pair, stage) * Config::kTileQ);
    }
    Operand p_operand, ds_operand;
    round_to_operand<Element>(p_operand, p);
    round_to_operand<Element>(ds_operand, ds);

    if (stage == 0) {
      finish_sent(grad_k, grad_v, p_operand, ds_operand);
    } else {
      finish_own(grad_k, grad_v, p_operand, ds_operand);
    }
    if constexpr (kOwnQCursor) {
      q_cursor_.advance();
    }
  }

  /// The rest of the step with the other block's query tile: dS to be sent; grad_v; grad_q of the pair before, whose dS from both blocks had a step to arrive;
  /// grad_k.
  __device__ __forceinline__ void finish_sent(Gradient& grad_k, Gradient& grad_v, const Operand& p_operand, const Operand& ds_operand) {
    using namespace ptx;
    const bool first_lane = threadIdx.x % 32 == 0;
    if (first_ && threadIdx.x < 256) {  // consumer warpgroup 0
      named_barrier_arrive(Config::kBarrierStart, Config::kConsumerThreads);
    }
    float grad_q[Config::kGradQ];
    write_ds(ds_operand, kToSentDs);
    wgmma_fence();
    accumulate(grad_v, p_operand, SharedStorage::kToGradO);
    wgmma_commit_group();
    grad_q_.multiply(grad_q);
    wgmma_commit_group();
    publish(&smem_.sent_full);
    accumulate(grad_k, ds_operand, q_stage_of(0) * kQStageStep);
    wgmma_commit_group();

    wgmma_wait_group<2>();
    pin_registers(grad_v);
    if (first_lane) {
      mbarrier_arrive(&smem_.grad_o_empty[0]);
    }
    wgmma_wait_group<1>();
    pin_registers(grad_q);
    if (first_lane) {
      mbarrier_arrive(&smem_.own_empty);
      mbarrier_arrive_cluster(cluster_address(&smem_.peer_empty, block_.rank ^ 1));
    }
    if (!first_) {
      add_previous(grad_q);
    }
    wgmma_wait_group<0>();
    pin_registers(grad_k);
    if (first_lane) {
      mbarrier_arrive(&smem_.q_empty[q_stage_of(0)]);
    }
    complete_previous(grad_q);
  }

  /// The rest of the step with the own query tile: dS to be multiplied in the next pair; grad_v, grad_k.
  __device__ __forceinline__ void finish_own(Gradient& grad_k, Gradient& grad_v, const Operand& p_operand, const Operand& ds_operand) {
    using namespace ptx;
    const bool first_lane = threadIdx.x % 32 == 0;
    mbarrier_wait(&smem_.own_empty, phase_);
    write_ds(ds_operand, 0);
    wgmma_fence();
    accumulate(grad_v, p_operand, kQStageStep + SharedStorage::kToGradO);
    wgmma_commit_group();
    publish(&smem_.own_full);
    accumulate(grad_k, ds_operand, q_stage_of(1) * kQStageStep);
    wgmma_commit_group();
    wgmma_wait_group<1>();
    pin_registers(grad_v);
    if (first_lane) {
      mbarrier_arrive(&smem_.grad_o_empty[1]);
    }
    wgmma_wait_group<0>();
    pin_registers(grad_k);
    if (first_lane) {
      mbarrier_arrive(&smem_.q_empty[q_stage_of(1)]);
    }
  }

  /// Makes what the warp has written visible to products and copies, and says so.
  __device__ __forceinline__ void publish(uint64_t* full) {
    ptx::fence_proxy_async_shared();
    __syncwarp();
    if (threadIdx.x % 32 == 0) {
      ptx::mbarrier_arrive(full);
    }
  }

  __device__ __forceinline__ void wait_for_ds(uint32_t phase) {
    ptx::mbarrier_wait(&smem_.peer_k_full, 0);
    ptx::mbarrier_wait(&smem_.own_full, phase);
    ptx::mbarrier_wait(&smem_.peer_full, phase);
  }

  /// The grad_q that the last pair has left over.
  __device__ __forceinline__ void add_last_grad_q() {
    ptx::mbarrier_wait(&smem_.peer_k_full, 0);  // also if there was no pair
    if (!first_) {
      wait_for_ds(phase_ ^ 1);
      float grad_q[Config::kGradQ];
      ptx::wgmma_fence();
      grad_q_.multiply(grad_q);
      ptx::wgmma_commit_group();
      ptx::wgmma_wait_group<0>();
      ptx::pin_registers(grad_q);
      add_previous(grad_q);
      complete_previous(grad_q);
    }
  }

  /// Adds the block of the pair before to the accumulator when it is its turn; the first key tile stores, the last one leaves it to complete_previous.
  __device__ __forceinline__ void add_previous(const float (&grad_q)[Config::kGradQ]) {
    ptx::mbarrier_wait(&smem_.grad_q_open, phase_ ^ 1);
    if (!previous_complete_) {
      if (block_.first_key < Config::kClusterKeys) {
        grad_q_.store(grad_q, accumulator_tile(previous_));
      } else {
        grad_q_.add(grad_q, accumulator_tile(previous_));
      }
    }
    __syncwarp();
    if (threadIdx.x % 32 == 0) {
      ptx::mbarrier_arrive(&smem_.grad_q_added);
    }
  }

  /// Behind the step's products: if the block of the pair before is the last of its sum, writes grad_q. It was its turn before.
  __device__ __forceinline__ void complete_previous(float (&grad_q)[Config::kGradQ]) {
    if (previous_complete_) {
      if (block_.first_key >= Config::kClusterKeys) {
        grad_q_.add_to_registers(grad_q, accumulator_tile(previous_));
      }
      const volatile PairBlock& block = smem_.block;
      const int tiles = static_cast<int>(params_.padded_rows / Config::kTileQ);
      const int group_head = previous_ / tiles - block.first_head, query_tile = previous_ % tiles;
      uint16_t* g_head =
          params_.grad_q + block.batch * params_.grad_q_strides.batch + (block.kv_head * params_.group_size + group_head) * params_.grad_q_strides.head;
      grad_q_.round_and_write(grad_q, params_, g_head, query_tile);
    }
  }

  __device__ __forceinline__ float* accumulator_tile(int tile) const {
    return params_.grad_q_accumulator + static_cast<int64_t>(tile) * (Config::kTileQ * Config::kHeadDim);
  }

  /// scores = the warpgroup's 64 rows of k or v times a tile of q or grad_o, transposed.
  __device__ __forceinline__ void multiply_scores(Scores& scores, const tile::Descriptor& keys, uint32_t query_step) {
#pragma unroll
    for (int k = 0; k < Config::kHeadDim / 16; ++k) {
      ScoreProduct::ss(scores, keys.at(tile::k_major_step(k, Config::kTileKv)), desc_q_.at(query_step + tile::k_major_step(k, Config::kTileQ)), k != 0);
    }
  }

  /// gradient += P^T or dS^T times a tile of grad_o or q.
  __device__ __forceinline__ void accumulate(Gradient& gradient, const Operand& operand, uint32_t query_step) {
#pragma unroll
    for (int k = 0; k < Config::kTileQ / 16; ++k) {
      GradientProduct::rs(gradient, operand[4 * k], operand[4 * k + 1], operand[4 * k + 2], operand[4 * k + 3],
                          desc_q_rows_.at(query_step + tile::mn_major_step(k)), 1);
    }
  }

  /// dS^T from registers to shared memory as dS, to own_ds or, at kToSentDs, to sent_ds; publish follows.
  __device__ __forceinline__ void write_ds(const Operand& operand, uint32_t offset_bytes) {
#pragma unroll
    for (int k = 0; k < Config::kTileQ / 16; ++k) {
      ptx::stmatrix_x4_trans(s_own_ds_ + offset_bytes + k * 16 * tile::kPanelRowBytes, operand[4 * k], operand[4 * k + 1], operand[4 * k + 2],
                             operand[4 * k + 3]);
    }
  }

  /// Tells the repair pass of NaN and infinity that may have come from masked pairs: the tensor core multiplies them with zero, and 0 * NaN is NaN.
  __device__ __forceinline__ void report_nonfinite(const Gradient& grad_k, const Gradient& grad_v) {
    float probe = 0.0f;
#pragma unroll
    for (int i = 0; i < Config::kGradients; ++i) {
      probe = fmaf(grad_k[i], 0.0f, fmaf(grad_v[i], 0.0f, probe));
    }
    using Pair = typename PairOf<Element>::Type;
    const int thread = threadIdx.x % 128, lane = thread % 32, slice = 4 * warpgroup_ + thread / 32;
    Pair key_probe = pair_of<Element>(0.0f);
#pragma unroll
    for (int panel = 0; panel < Config::kPanels; ++panel) {
      const auto* s_pairs = reinterpret_cast<const Pair*>(smem_.k[panel][kRepairKeys * slice]);
#pragma unroll 4
      for (int i = lane; i < kRepairKeys * 32; i += 32) {
        key_probe = __hfma2(s_pairs[i], pair_of<Element>(0.0f), key_probe);
      }
    }
    const float2 keys = to_float2(key_probe);
    const bool bad_gradients = __any_sync(0xFFFFFFFF, !(probe == 0.0f));
    const bool bad_keys = __any_sync(0xFFFFFFFF, !(keys.x + keys.y == 0.0f));
    if (lane == 0) {
      const int64_t cluster = blockIdx.x / Config::kClusterSize;
      params_.repair_flags[Config::kSlices * cluster + Config::kSlices / Config::kClusterSize * block_.rank + slice] =
          (bad_gradients ? kRepairGradKv : 0) | (bad_keys ? kRepairGradQ : 0);
    }
  }

  /// grad_k and grad_v, through the memory of k and v, by TMA, which clips what lies outside the tensors.
  __device__ __forceinline__ void store_gradients(const Gradient& grad_k, const Gradient& grad_v) {
    using namespace ptx;
    named_barrier_sync(Config::kBarrierConsumers, Config::kConsumerThreads);  // the other warpgroup has read k for the last time
    stage_gradient(smem_.k, grad_k, params_.scale);
    stage_gradient(smem_.v, grad_v, 1.0f);
    fence_proxy_async_shared();
    named_barrier_sync(Config::kBarrierWarpgroup + warpgroup_, 128);
    const volatile PairBlock& block = smem_.block;
    const int first_key = block.first_key + 64 * warpgroup_;
    if (threadIdx.x % 128 == 0) {
      if (first_key < params_.len_kv) {
#pragma unroll
        for (int panel = 0; panel < Config::kPanels; ++panel) {
          tma_store_4d(&params_.map_grad_k, smem_.k[panel][64 * warpgroup_], 64 * panel, first_key, block.kv_head, block.batch);
          tma_store_4d(&params_.map_grad_v, smem_.v[panel][64 * warpgroup_], 64 * panel, first_key, block.kv_head, block.batch);
        }
        tma_store_commit();
      }
      bulk_wait();  // shared memory must outlive the copies
    }
  }

  __device__ __forceinline__ void stage_gradient(typename SharedStorage::KeyRows& s_tile, const Gradient& gradient, float factor) {
    const int thread = threadIdx.x % 128, lane = thread % 32;
    const int row = 64 * warpgroup_ + thread / 32 * 16 + lane % 16;
#pragma unroll
    for (int panel = 0; panel < Config::kPanels; ++panel) {
      const uint32_t s_panel = ptx::shared_address(s_tile[panel]);
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const float* part = gradient + 32 * panel + 8 * k;
        ptx::stmatrix_x4(s_panel + tile::swizzled_offset_bytes(row, 2 * k + lane / 16), ptx::pack2<Element>(part[0] * factor, part[1] * factor),
                         ptx::pack2<Element>(part[2] * factor, part[3] * factor), ptx::pack2<Element>(part[4] * factor, part[5] * factor),
                         ptx::pack2<Element>(part[6] * factor, part[7] * factor));
      }
    }
  }

  /// Bytes from own_ds to sent_ds.
  static constexpr uint32_t kToSentDs = 2 * sizeof(typename SharedStorage::DsTile);

  const BackwardParams& params_;
  SharedStorage& smem_;
  const int warpgroup_;
  const PairBlock block_;
  const tile::Descriptor desc_k_;       // A of S^T
  const tile::Descriptor desc_v_;       // A of dP^T
  const tile::Descriptor desc_q_;       // B of S^T, and of dP^T at kToGradO
  const tile::Descriptor desc_q_rows_;  // B of grad_k, and of grad_v at kToGradO
  PairGradQ<Config> grad_q_;
  bool first_ = true;               // pair
  bool previous_complete_ = false;  // nothing is added to that tile after this block
  int previous_ = 0;                // tile of the accumulator that grad_q of the pair before belongs to
  StepCursor<Config::kQStages> q_cursor_;
  uint32_t phase_ = 0;  // parity of the pair
  int first_row_[2];    // first query that sees the thread's keys, less the thread's first column
  uint32_t s_own_ds_;   // the lane's row of stmatrix in own_ds
};

}  // namespace fa::sm90
