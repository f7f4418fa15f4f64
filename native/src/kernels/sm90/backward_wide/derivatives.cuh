// Consumer warpgroup 1: dP^T and dS^T, grad_k, and its share of grad_q.
#pragma once

#include "kernels/sm90/backward/pairs.cuh"
#include "kernels/sm90/backward_wide/consumer.cuh"

namespace fa::sm90 {

template <typename Config>
class DerivativeWarpgroup {
  using Common = WideConsumer<Config>;
  using Element = typename Config::Element;
  using SharedStorage = typename Config::SharedStorage;
  using GradQ = GradQShare<Config, 1>;
  static constexpr uint32_t kQStep = sizeof(typename SharedStorage::QTile) / 16;
  static constexpr uint32_t kPartStep = sizeof(typename SharedStorage::GradOPart) / 16;

 public:
  __device__ __forceinline__ DerivativeWarpgroup(const BackwardParams& params, SharedStorage& smem)
      : common_(params, smem),
        desc_v_(tile::k_major_descriptor(smem.v)),
        desc_grad_o_(tile::k_major_descriptor(smem.grad_o[0])),
        desc_q_rows_(tile::mn_major_descriptor(smem.q[0], Config::kTileQ)),
        grad_q_(params, smem, common_.block) {
    const int matrix = common_.lane / 8, row = common_.lane % 8;
    s_ds_ = ptx::shared_address(smem.ds[0]) + tile::swizzled_offset_bytes(matrix / 2 * 8 + row, common_.warp * 2 + matrix % 2);
  }

  __device__ __forceinline__ void run() {
    SharedStorage& smem = common_.smem;
    typename Common::Gradient grad_k;
#pragma unroll
    for (int part = 0; part < Config::kParts; ++part) {
#pragma unroll
      for (int i = 0; i < Config::kPartGradient; ++i) {
        grad_k[part][i] = 0.0f;
      }
    }
    // k_full is not waited for: the first P, without which there is no dS to be multiplied with k, was formed behind it.
    ptx::mbarrier_wait(&smem.v_full, 0);
    common_.for_each_step([&](auto masked, const QueryTile& place) { process<decltype(masked)::value>(grad_k, place); });
    common_.add_last(grad_q_);
    const bool bad_grad_k = common_.params.causal && Common::any_nonfinite(grad_k);
    const bool bad_keys = common_.params.causal && keys_nonfinite();
    common_.finish_reading_keys();
    if (common_.params.causal && common_.lane == 0) {
      const int slice = 4 * common_.block.rank + common_.warp;
      common_.params.repair_flags[kRepairSlices * static_cast<int64_t>(blockIdx.x / Config::kClusterSize) + slice] =
          (bad_grad_k || smem.bad_grad_v[common_.warp] ? kRepairGradKv : 0) | (bad_keys ? kRepairGradQ : 0);
    }
    common_.store_gradient(&common_.params.map_grad_k, smem.k, grad_k, common_.params.scale, Config::kBarrierWarpgroup + 1);
  }

 private:
  /// One tile of queries; every product is waited for before the end.
  template <bool kMasked>
  __device__ __forceinline__ void process(typename Common::Gradient& grad_k, const QueryTile& place) {
    using namespace ptx;
    SharedStorage& smem = common_.smem;
    float ds[Config::kScores], grad_q[GradQ::kRegisters];
    uint32_t ds_operand[Config::kScores / 2];

    // dP^T = V dO^T, and grad_q of the step before
    if constexpr (Config::kGradQFirst) {
      grad_q_.multiply(grad_q);
      wgmma_commit_group();
    }
    int slots[Config::kParts];
#pragma unroll
    for (int part = 0; part < Config::kParts; ++part) {
      slots[part] = grad_o_cursor_.stage;
      mbarrier_wait(&smem.grad_o_full[slots[part]], grad_o_cursor_.phase);
      grad_o_cursor_.advance();
      wgmma_fence();
#pragma unroll
      for (int k = 0; k < Config::kPartPanels * 4; ++k) {
        Common::ScoreProduct::ss(ds, desc_v_.at(tile::k_major_step(part * Config::kPartPanels * 4 + k, Config::kBlockKeys)),
                                 desc_grad_o_.at(slots[part] * kPartStep + tile::k_major_step(k, Config::kTileQ)), part + k != 0);
      }
    }
    wgmma_commit_group();
    const float* s_delta = &smem.delta[slots[0]][common_.lane % 4 * 2];
    float2 delta[Config::kEarlyPairs];
    if constexpr (Config::kStatisticsEarly) {
      load_pairs(delta, s_delta);
    }
    if constexpr (Config::kGradQFirst) {
      wgmma_wait_group<1>();
      pin_registers(grad_q);
      grad_q_.release();
      grad_q_.add(grad_q);
      grad_q_.advance(place);
      wgmma_wait_group<0>();
    } else {
      grad_q_.multiply(grad_q);
      wgmma_commit_group();
      wgmma_wait_group<1>();
    }
    pin_registers(ds);
    differentiate<kMasked>(ds, place.query_tile, s_delta, delta);
#pragma unroll
    for (int part = 0; part < Config::kParts; ++part) {
      common_.release(&smem.grad_o_empty[slots[part]]);
    }
    round_to_operand<Element>(ds_operand, ds);
    if constexpr (!Config::kGradQFirst) {
      wgmma_wait_group<0>();
      pin_registers(grad_q);
      grad_q_.release();
    }
    share(ds_operand);

    // grad_k += dS^T Q
    const int stage = q_cursor_.stage;
    mbarrier_wait(&smem.q_full[stage], q_cursor_.phase);
    wgmma_fence();
#pragma unroll
    for (int part = 0; part < Config::kParts; ++part) {
#pragma unroll
      for (int k = 0; k < Config::kTileQ / 16; ++k) {
        Common::PartProduct::rs(grad_k[part], ds_operand[4 * k], ds_operand[4 * k + 1], ds_operand[4 * k + 2], ds_operand[4 * k + 3],
                                desc_q_rows_.at(stage * kQStep + part * kPartStep + tile::mn_major_step(k)), 1);
      }
    }
    wgmma_commit_group();
    if constexpr (!Config::kGradQFirst) {
      grad_q_.add(grad_q);
      grad_q_.advance(place);
    }
    wgmma_wait_group<0>();
#pragma unroll
    for (int part = 0; part < Config::kParts; ++part) {
      pin_registers(grad_k[part]);
    }
    common_.release(&smem.q_empty[stage]);
    q_cursor_.advance();
  }

  /// dP -> dS, with P from warpgroup 0; 0 where masked, whatever dP was.
  template <bool kMasked>
  __device__ __forceinline__ void differentiate(float (&dp)[Config::kScores], int query_tile, const float* s_delta,
                                                const float2 (&delta)[Config::kEarlyPairs]) {
    SharedStorage& smem = common_.smem;
    const int warp = common_.warp, lane = common_.lane;
    float p[Config::kScores];
    ptx::named_barrier_sync(Config::kBarrierP + warp, 64);
#pragma unroll
    for (int j = 0; j < Config::kScores / 4; ++j) {
      const float4 values = smem.p[warp][j][lane];
      p[4 * j] = values.x;
      p[4 * j + 1] = values.y;
      p[4 * j + 2] = values.z;
      p[4 * j + 3] = values.w;
    }
    if constexpr (Config::kStatisticsEarly) {
      differentiate_scores<0>(dp, p, delta);
    } else {
      differentiate_scores(dp, p, s_delta);
    }
    if constexpr (kMasked) {
      hide_scores(dp, common_.first_row, query_tile * Config::kTileQ);
    }
  }

  /// dS^T from registers to shared memory as dS, for both warpgroups and, through the producer, for the other block. All threads arrive, although a warp's lane
  /// could for all of them: that each has read its P is then known without going round by its warp.
  __device__ __forceinline__ void share(const uint32_t (&operand)[Config::kScores / 2]) {
    SharedStorage& smem = common_.smem;
    ptx::mbarrier_wait(&smem.ds_empty[ds_cursor_.stage], ds_cursor_.phase ^ 1);
    const uint32_t s_ds = s_ds_ + ds_cursor_.stage * static_cast<uint32_t>(sizeof(smem.ds[0]));
#pragma unroll
    for (int k = 0; k < Config::kTileQ / 16; ++k) {
      ptx::stmatrix_x4_trans(s_ds + k * 16 * tile::kPanelRowBytes, operand[4 * k], operand[4 * k + 1], operand[4 * k + 2], operand[4 * k + 3]);
    }
    ptx::fence_proxy_async_shared();
    ptx::mbarrier_arrive(&smem.ds_full[ds_cursor_.stage]);
    ds_cursor_.advance();
  }

  /// True in all lanes if one of the warp's 16 keys has an element that is NaN or infinite.
  __device__ __forceinline__ bool keys_nonfinite() const {
    using Pair = typename PairOf<Element>::Type;
    Pair probe = pair_of<Element>(0.0f);
#pragma unroll
    for (int panel = 0; panel < Config::kPanels; ++panel) {
      const auto* s_pairs = reinterpret_cast<const Pair*>(common_.smem.k[panel][kRepairKeys * common_.warp]);
#pragma unroll 4
      for (int i = common_.lane; i < kRepairKeys * 32; i += 32) {
        probe = __hfma2(s_pairs[i], pair_of<Element>(0.0f), probe);
      }
    }
    const float2 sums = to_float2(probe);
    return __any_sync(0xFFFFFFFF, !(sums.x + sums.y == 0.0f));
  }

  Common common_;
  const tile::Descriptor desc_v_;       // A of dP^T
  const tile::Descriptor desc_grad_o_;  // B of dP^T
  const tile::Descriptor desc_q_rows_;  // B of grad_k
  GradQ grad_q_;
  StepCursor<Config::kStages> q_cursor_;
  StepCursor<Config::kSlots> grad_o_cursor_;
  StepCursor<Config::kDsStages> ds_cursor_;
  uint32_t s_ds_;  // the lane's row of stmatrix in the first tile of dS
};

}  // namespace fa::sm90
