// Consumer warpgroup 0: S^T and P^T, grad_v, and its share of grad_q.
#pragma once

#include "kernels/sm90/backward_wide/consumer.cuh"

namespace fa::sm90 {

template <typename Config>
class ProbabilityWarpgroup {
  using Common = WideConsumer<Config>;
  using SharedStorage = typename Config::SharedStorage;
  using GradQ = GradQShare<Config, 0>;
  static constexpr uint32_t kQStep = sizeof(typename SharedStorage::QTile) / 16;
  static constexpr uint32_t kPartStep = sizeof(typename SharedStorage::GradOPart) / 16;

 public:
  __device__ __forceinline__ ProbabilityWarpgroup(const BackwardParams& params, SharedStorage& smem)
      : common_(params, smem),
        desc_k_(tile::k_major_descriptor(smem.k)),
        desc_q_(tile::k_major_descriptor(smem.q[0])),
        desc_grad_o_rows_(tile::mn_major_descriptor(smem.grad_o[0], Config::kTileQ)),
        grad_q_(params, smem, common_.block) {}

  __device__ __forceinline__ void run() {
    SharedStorage& smem = common_.smem;
    typename Common::Gradient grad_v;
#pragma unroll
    for (int part = 0; part < Config::kParts; ++part) {
#pragma unroll
      for (int i = 0; i < Config::kPartGradient; ++i) {
        grad_v[part][i] = 0.0f;
      }
    }
    ptx::mbarrier_wait(&smem.k_full, 0);
    // v_full, which also covers peer_k, is not waited for: the first dS, which the first product with peer_k needs, was formed behind it.
    common_.for_each_step([&](auto masked, const QueryTile& place) { process<decltype(masked)::value>(grad_v, place); });
    common_.add_last(grad_q_);
    if (common_.params.causal) {
      const bool bad = Common::any_nonfinite(grad_v);
      if (common_.lane == 0) {
        smem.bad_grad_v[common_.warp] = bad;
      }
    }
    common_.finish_reading_keys();
    common_.store_gradient(&common_.params.map_grad_v, smem.v, grad_v, 1.0f, Config::kBarrierWarpgroup);
  }

 private:
  /// One tile of queries. Every product is waited for before the end: a group in flight across the loop's back edge makes ptxas serialise all of them (C7514).
  template <bool kMasked>
  __device__ __forceinline__ void process(typename Common::Gradient& grad_v, const QueryTile& place) {
    using namespace ptx;
    SharedStorage& smem = common_.smem;
    const int stage = q_cursor_.stage;
    float p[Config::kScores], grad_q[GradQ::kRegisters];
    uint32_t p_operand[Config::kScores / 2];

    // S^T = K Q^T; behind it grad_q of the step before, while P is formed
    mbarrier_wait(&smem.q_full[stage], q_cursor_.phase);
    const float* s_lse = &smem.lse_log2[stage][common_.lane % 4 * 2];
    float2 lse[Config::kEarlyPairs];
    if constexpr (Config::kStatisticsEarly) {
      load_pairs(lse, s_lse);
    }
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < Config::kHeadDim / 16; ++k) {
      Common::ScoreProduct::ss(p, desc_k_.at(tile::k_major_step(k, Config::kBlockKeys)), desc_q_.at(stage * kQStep + tile::k_major_step(k, Config::kTileQ)),
                               k != 0);
    }
    wgmma_commit_group();
    grad_q_.multiply(grad_q);
    wgmma_commit_group();

    wgmma_wait_group<1>();
    pin_registers(p);
    if constexpr (Config::kStatisticsEarly) {
      exponentiate_scores<0>(p, lse, common_.params.scale_log2);
    } else {
      exponentiate_scores(p, s_lse, common_.params.scale_log2);
    }
    if constexpr (kMasked) {
      hide_scores(p, common_.first_row, place.query_tile * Config::kTileQ);
    }
    common_.release(&smem.q_empty[stage]);
    pass_on(p);
    round_to_operand<typename Config::Element>(p_operand, p);
    wgmma_wait_group<0>();
    pin_registers(grad_q);
    grad_q_.release();

    // grad_v += P^T dO; grad_q leaves meanwhile
    int slots[Config::kParts];
#pragma unroll
    for (int part = 0; part < Config::kParts; ++part) {
      slots[part] = grad_o_cursor_.stage;
      mbarrier_wait(&smem.grad_o_full[slots[part]], grad_o_cursor_.phase);
      grad_o_cursor_.advance();
      wgmma_fence();
#pragma unroll
      for (int k = 0; k < Config::kTileQ / 16; ++k) {
        Common::PartProduct::rs(grad_v[part], p_operand[4 * k], p_operand[4 * k + 1], p_operand[4 * k + 2], p_operand[4 * k + 3],
                                desc_grad_o_rows_.at(slots[part] * kPartStep + tile::mn_major_step(k)), 1);
      }
      wgmma_commit_group();
    }
    grad_q_.add(grad_q);
    grad_q_.advance(place);
    if constexpr (Config::kParts == 2) {
      wgmma_wait_group<1>();
      common_.release(&smem.grad_o_empty[slots[0]]);
    }
    wgmma_wait_group<0>();
#pragma unroll
    for (int part = 0; part < Config::kParts; ++part) {
      pin_registers(grad_v[part]);
    }
    common_.release(&smem.grad_o_empty[slots[Config::kParts - 1]]);
    q_cursor_.advance();
  }

  /// P^T to the same thread of warpgroup 1, unrounded. The place is free: grad_q_.multiply() has waited for dS of the step before, for which P was read.
  __device__ __forceinline__ void pass_on(const float (&p)[Config::kScores]) {
    SharedStorage& smem = common_.smem;
    const int warp = common_.warp, lane = common_.lane;
#pragma unroll
    for (int j = 0; j < Config::kScores / 4; ++j) {
      smem.p[warp][j][lane] = make_float4(p[4 * j], p[4 * j + 1], p[4 * j + 2], p[4 * j + 3]);
    }
    ptx::named_barrier_arrive(Config::kBarrierP + warp, 64);
  }

  Common common_;
  const tile::Descriptor desc_k_;            // A of S^T
  const tile::Descriptor desc_q_;            // B of S^T
  const tile::Descriptor desc_grad_o_rows_;  // B of grad_v
  GradQ grad_q_;
  StepCursor<Config::kStages> q_cursor_;
  StepCursor<Config::kSlots> grad_o_cursor_;
};

}  // namespace fa::sm90
