// A consumer warpgroup: 64 keys of the block's tile against all query tiles that see them.
#pragma once

#include "kernels/sm90/backward/config.h"
#include "kernels/sm90/backward/grad_q.cuh"
#include "kernels/sm90/backward/pairs.cuh"
#include "kernels/sm90/backward/scores.cuh"
#include "kernels/sm90/backward/stage_gradient.cuh"
#include "kernels/sm90/backward/steps.cuh"
#include "kernels/sm90/backward/turns.cuh"
#include "ptx/bulk_copy.cuh"
#include "ptx/exp2.cuh"
#include "ptx/fence_proxy.cuh"
#include "ptx/mbarrier.cuh"
#include "ptx/mma_sync.cuh"
#include "ptx/named_barrier.cuh"
#include "ptx/reduce.cuh"
#include "ptx/stmatrix.cuh"
#include "ptx/tma.cuh"
#include "ptx/wgmma.cuh"
#include "tile/wgmma_descriptor.cuh"

namespace fa::sm90 {

template <typename Config>
class BackwardConsumer {
  using Element = typename Config::Element;
  using SharedStorage = typename Config::SharedStorage;
  using ScoreProduct = ptx::Wgmma<Element, Config::kTileQ>;
  using GradientProduct = ptx::Wgmma<Element, Config::kHeadDim>;
  static constexpr uint32_t kQStageStep = sizeof(typename SharedStorage::QTile) / 16;

 public:
  __device__ __forceinline__ BackwardConsumer(const BackwardParams& params, SharedStorage& smem, int warpgroup)
      : params_(params),
        smem_(smem),
        warpgroup_(warpgroup),
        tile_(key_tile<Config>(params)),
        desc_k_(tile::k_major_descriptor(smem.k[0][64 * warpgroup])),
        desc_v_(tile::k_major_descriptor(smem.v[0][64 * warpgroup])),
        desc_q_(tile::k_major_descriptor(smem.q[0])),
        desc_q_rows_(tile::mn_major_descriptor(smem.q[0], Config::kTileQ)),
        grad_q_(smem, warpgroup) {
    const int thread = threadIdx.x % 128, lane = thread % 32;
    const int first_key = tile_.first_key + 64 * warpgroup + thread / 32 * 16 + lane / 4;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int key = first_key + 8 * r;
      // Relative to the thread's first column. Nobody sees a key at the padding; without a mask everybody sees every other.
      first_row_[r] = (key >= params.visible_len_kv ? kNever : params.causal ? key - params.causal_offset : -kNever) - lane % 4 * 2;
    }
    if constexpr (Config::kInTurns) {
      end_begun_ = end_begun<Config>(params, tile_);
    }
    const int matrix = lane / 8, row = lane % 8;
    s_ds_ = ptx::shared_address(smem.ds[0][warpgroup]) + tile::swizzled_offset_bytes(matrix / 2 * 8 + row, thread / 32 * 2 + matrix % 2);
  }

  __device__ __forceinline__ void run() {
    float grad_k[Config::kGradients], grad_v[Config::kGradients];
#pragma unroll
    for (int i = 0; i < Config::kGradients; ++i) {
      grad_k[i] = 0.0f;
      grad_v[i] = 0.0f;
    }
    ptx::mbarrier_wait(&smem_.k_full, 0);
    ptx::mbarrier_wait(&smem_.v_full, 0);
#pragma unroll 1
    for (int group_head = 0; group_head < params_.group_size; ++group_head) {
      const int first_tile = (tile_.first_head + group_head) * static_cast<int>(params_.padded_rows / Config::kTileQ);
      if constexpr (Config::kFromLastQueryTile) {
        int step = params_.num_q_tiles - 1;
#pragma unroll 1
        for (; step >= tile_.end_masked; --step) {
          process<false>(grad_k, grad_v, step, first_tile);
        }
#pragma unroll 1
        for (; step >= tile_.first_step; --step) {
          process<true>(grad_k, grad_v, step, first_tile);
        }
      } else {
        int step = tile_.first_step;
#pragma unroll 1
        for (; step < tile_.end_masked; ++step) {
          process<true>(grad_k, grad_v, step, first_tile);
        }
#pragma unroll 1
        for (; step < params_.num_q_tiles; ++step) {
          process<false>(grad_k, grad_v, step, first_tile);
        }
      }
    }
    if (params_.causal) {
      report_nonfinite(grad_k, grad_v);
    }
    store_gradients(grad_k, grad_v);
  }

 private:
  static constexpr int kNever = 1 << 30;
  static constexpr int kEarly = Config::kEarlyScores;

  /// One tile of queries. Every product is waited for before the end: a group in flight across the loop's back edge makes ptxas serialise all of them (C7514).
  template <bool kMasked>
  __device__ __forceinline__ void process(float (&grad_k)[Config::kGradients], float (&grad_v)[Config::kGradients], int query_tile, int first_tile) {
    using namespace ptx;
    const int stage = cursor_.stage;
    const uint32_t phase = cursor_.phase, stage_step = stage * kQStageStep;
    float p[Config::kScores], ds[Config::kScores];

    // S^T = K Q^T, dP^T = V dO^T. Looking ahead, the statistics are asked for in front of the products, which read shared memory as fast as it goes.
    if (!Config::kAddsInBulk || !q_there_) {
      mbarrier_wait(&smem_.q_full[stage], phase);
    }
    float2 statistics[Config::kAddsInBulk ? kEarly / 4 : 1];
    const float* s_lse = &smem_.lse_log2[stage][threadIdx.x % 4 * 2];
    const float* s_delta = &smem_.delta[stage][threadIdx.x % 4 * 2];
    if constexpr (Config::kAddsInBulk) {
      load_pairs(statistics, s_lse);
    }
    wgmma_fence();
    multiply_scores(p, desc_k_, stage_step);
    wgmma_commit_group();
    mbarrier_wait(&smem_.grad_o_full[stage], phase);
    multiply_scores(ds, desc_v_, stage_step + kToGradO);
    wgmma_commit_group();

    // P, dS. k is long complete; but waiting for it is a branch, which keeps some of the exponentials in front of the next wait, and loads behind it.
    wgmma_wait_group<1>();
    pin_registers(p);
    if constexpr (Config::kAddsInBulk) {
      exponentiate_scores<0>(p, statistics, params_.scale_log2);
      if constexpr (kEarly < Config::kScores) {
        mbarrier_wait(&smem_.k_full, 0);
        exponentiate_scores<kEarly>(p, s_lse, params_.scale_log2);
      }
    } else {
      exponentiate_scores(p, s_lse, params_.scale_log2);
    }
    if constexpr (kMasked) {
      hide_scores(p, first_row_, query_tile * Config::kTileQ);
    }
    if constexpr (Config::kAddsInBulk && kEarly == Config::kScores) {
      mbarrier_wait(&smem_.k_full, 0);
    }
    if constexpr (Config::kAddsInBulk) {
      load_pairs(statistics, s_delta);
    }
    wgmma_wait_group<0>();
    pin_registers(ds);
    if constexpr (Config::kAddsInBulk) {
      differentiate_scores<0>(ds, p, statistics);
      if constexpr (kMasked && kEarly < Config::kScores) {
        mbarrier_wait(&smem_.k_full, 0);
      }
      differentiate_scores<kEarly>(ds, p, s_delta);
    } else {
      differentiate_scores(ds, p, s_delta);
    }
    if constexpr (kMasked) {
      hide_scores(ds, first_row_, query_tile * Config::kTileQ);
    }

    finish_step(grad_k, grad_v, p, ds, stage, first_tile + query_tile, begins(query_tile));
    if constexpr (Config::kFirstTileStores) {
      __syncwarp();  // it also says that grad_q is stored (StoredTiles)
    }
    if (threadIdx.x % 32 == 0) {
      mbarrier_arrive(&smem_.q_empty[stage]);
    }
    cursor_.advance();
  }

  /// The rest of a step: grad_v, then grad_q and grad_k, for both of which dS of both warpgroups must be there.
  __device__ __forceinline__ void finish_step(float (&grad_k)[Config::kGradients], float (&grad_v)[Config::kGradients], const float (&p)[Config::kScores],
                                              const float (&ds)[Config::kScores], int stage, int tile, bool begun) {
    using namespace ptx;
    const uint32_t stage_step = stage * kQStageStep, phase = cursor_.phase;
    uint32_t p_operand[Config::kScores / 2], ds_operand[Config::kScores / 2];
    round_to_operand<Element>(ds_operand, ds);
    share_ds(ds_operand, stage);
    round_to_operand<Element>(p_operand, p);
    wgmma_fence();
    accumulate(grad_v, p_operand, stage_step + kToGradO);
    wgmma_commit_group();

    fence_proxy_async_shared();
    named_barrier_sync(Config::kBarrierConsumers, Config::kConsumerThreads);
    if constexpr (Config::kAddsInBulk) {
      announce(stage ^ 1);
    }
    float grad_q[Config::kGradQ];
    wgmma_fence();
    grad_q_.multiply(grad_q, stage);
    wgmma_commit_group();
    accumulate(grad_k, ds_operand, stage_step);
    wgmma_commit_group();

    if constexpr (Config::kAddsInBulk) {  // long true
      mbarrier_wait(&smem_.grad_q_empty[stage], phase ^ 1);
    }
    wgmma_wait_group<1>();
    pin_registers(grad_q);
    if (threadIdx.x % 32 == 0) {
      mbarrier_arrive(&smem_.grad_o_empty[stage]);
    }
    if constexpr (Config::kAddsInBulk) {
      grad_q_.stage(grad_q, stage);
      q_there_ = mbarrier_test(&smem_.q_full[stage ^ 1], phase ^ static_cast<uint32_t>(stage));
    } else {
      grad_q_.add(grad_q, accumulator_tile(tile), begun);
    }
    wgmma_wait_group<0>();
    pin_registers(grad_v);
    pin_registers(grad_k);
  }

  /// Behind a barrier of all consumers in front of which each executed fence_proxy_async_shared: tells add_in_bulk that a step's parts of grad_q are there.
  /// That of dS a step later does: a fence of its own would hold up the end of the step by what its stores take.
  __device__ __forceinline__ void announce(int stage) {
    if (threadIdx.x == 128) {
      ptx::mbarrier_arrive(&smem_.grad_q_full[stage]);
    }
  }

  /// Whether the block stores its part of a query tile instead of adding it: it is the first to come.
  __device__ __forceinline__ bool begins(int query_tile) const {
    return Config::kInTurns ? query_tile < end_begun_ : tile_.first_key == 0;
  }

  __device__ __forceinline__ float* accumulator_tile(int tile) const {
    return params_.grad_q_accumulator + static_cast<int64_t>(tile) * (Config::kTileQ * Config::kHeadDim);
  }

  /// scores = the warpgroup's 64 rows of k or v times a tile of q or grad_o, transposed.
  __device__ __forceinline__ void multiply_scores(float (&scores)[Config::kScores], const tile::Descriptor& keys, uint32_t query_step) {
#pragma unroll
    for (int k = 0; k < Config::kHeadDim / 16; ++k) {
      ScoreProduct::ss(scores, keys.at(tile::k_major_step(k, Config::kTileKv)), desc_q_.at(query_step + tile::k_major_step(k, Config::kTileQ)), k != 0);
    }
  }

  /// gradient += P^T or dS^T times a tile of grad_o or q.
  __device__ __forceinline__ void accumulate(float (&gradient)[Config::kGradients], const uint32_t (&operand)[Config::kScores / 2], uint32_t query_step) {
#pragma unroll
    for (int k = 0; k < Config::kTileQ / 16; ++k) {
      GradientProduct::rs(gradient, operand[4 * k], operand[4 * k + 1], operand[4 * k + 2], operand[4 * k + 3],
                          desc_q_rows_.at(query_step + tile::mn_major_step(k)), 1);
    }
  }

  /// dS^T from registers to shared memory as dS.
  __device__ __forceinline__ void share_ds(const uint32_t (&operand)[Config::kScores / 2], int stage) {
    const uint32_t s_ds = s_ds_ + stage * static_cast<uint32_t>(sizeof(smem_.ds[0]));
#pragma unroll
    for (int k = 0; k < Config::kTileQ / 16; ++k) {
      ptx::stmatrix_x4_trans(s_ds + k * 16 * tile::kPanelRowBytes, operand[4 * k], operand[4 * k + 1], operand[4 * k + 2], operand[4 * k + 3]);
    }
  }

  /// Tells the repair pass of NaN and infinity that may have come from masked pairs: the tensor core multiplies them with zero, and 0 * NaN is NaN.
  __device__ __forceinline__ void report_nonfinite(const float (&grad_k)[Config::kGradients], const float (&grad_v)[Config::kGradients]) {
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
      params_.repair_flags[kRepairSlices * static_cast<int64_t>(blockIdx.x) + slice] = (bad_gradients ? kRepairGradKv : 0) | (bad_keys ? kRepairGradQ : 0);
    }
  }

  /// grad_k and grad_v, through the memory of k and v, by TMA, which clips what lies outside the tensors.
  __device__ __forceinline__ void store_gradients(const float (&grad_k)[Config::kGradients], const float (&grad_v)[Config::kGradients]) {
    using namespace ptx;
    if constexpr (Config::kAddsInBulk) {
      fence_proxy_async_shared();
    }
    named_barrier_sync(Config::kBarrierConsumers, Config::kConsumerThreads);  // the other warpgroup has read k for the last time
    if constexpr (Config::kAddsInBulk) {
      announce(cursor_.stage ^ 1);
    }
    stage_gradient<Element>(smem_.k, grad_k, warpgroup_, params_.scale);
    stage_gradient<Element>(smem_.v, grad_v, warpgroup_, 1.0f);
    fence_proxy_async_shared();
    named_barrier_sync(Config::kBarrierWarpgroup + warpgroup_, 128);
    const int first_key = tile_.first_key + 64 * warpgroup_;
    if (threadIdx.x % 128 == 0) {
      if (first_key < params_.len_kv) {
#pragma unroll
        for (int panel = 0; panel < Config::kPanels; ++panel) {
          tma_store_4d(&params_.map_grad_k, smem_.k[panel][64 * warpgroup_], 64 * panel, first_key, tile_.kv_head, tile_.batch);
          tma_store_4d(&params_.map_grad_v, smem_.v[panel][64 * warpgroup_], 64 * panel, first_key, tile_.kv_head, tile_.batch);
        }
        tma_store_commit();
      }
      bulk_wait();  // shared memory must outlive the copies
    }
    if constexpr (Config::kTile.finishes_earlier_heads && !Config::kAddsInBulk) {
      if (threadIdx.x == 128) {  // all consumers have passed a barrier since their last addition
        increment_release(params_.tiles_done + tile_.batch * params_.heads_kv + tile_.kv_head);
      }
    }
  }

  /// From a tile of q to the tile of grad_o of the same stage, in descriptor units.
  static constexpr uint32_t kToGradO = SharedStorage::kToGradO / 16;

  const BackwardParams& params_;
  SharedStorage& smem_;
  const int warpgroup_;
  const KeyTile tile_;
  const tile::Descriptor desc_k_;       // A of S^T
  const tile::Descriptor desc_v_;       // A of dP^T
  const tile::Descriptor desc_q_;       // B of S^T, and of dP^T at kToGradO
  const tile::Descriptor desc_q_rows_;  // B of grad_k, and of grad_v at kToGradO
  GradQPart<Config> grad_q_;
  StepCursor<Config::kStages> cursor_;
  bool q_there_ = false;  // q of the next step: asked for early, beside the products
  int end_begun_ = 0;     // query tiles in front of this one the block begins, if kInTurns
  int first_row_[2];      // first query that sees the thread's keys, less the thread's first column
  uint32_t s_ds_;         // the lane's row of stmatrix in stage 0
};

}  // namespace fa::sm90
