// A consumer warpgroup: 64 query rows against the key tiles they see, from the last to the first.
#pragma once

#include "kernels/sm90/forward/epilogue.cuh"
#include "kernels/sm90/forward/recompute_scores.cuh"
#include "kernels/sm90/forward/schedule.cuh"
#include "kernels/sm90/forward/softmax.cuh"
#include "ptx/mbarrier.cuh"
#include "ptx/wgmma.cuh"

namespace fa::sm90 {

template <typename Config>
class Consumer {
  using Element = typename Config::Element;
  using SharedStorage = typename Config::SharedStorage;

 public:
  __device__ __forceinline__ Consumer(const ForwardParams& params, SharedStorage& smem, int warpgroup)
      : params_(params),
        smem_(smem),
        warpgroup_(warpgroup),
        desc_q_(tile::k_major_descriptor(smem.q()[0][64 * warpgroup])),
        desc_k_(tile::k_major_descriptor(smem.k[0])),
        desc_v_(tile::mn_major_descriptor(smem.v[0], Config::kTileKv)) {}

  __device__ __forceinline__ void run() {
    if (warpgroup_ == Config::kWarpgroups - 1) {
      pass_turn();  // to the first
    }
    uint32_t q_phase = 0;
#pragma unroll 1
    for (WorkIterator work(params_); !work.done(); work.advance()) {
      const WorkTile tile = work.tile();
      const int block_end = key_tiles<Config::kTileKv>(params_, tile.q_tile * Config::kTileQ, Config::kTileQ).end;
      if (block_end == 0) {
        store_rows_without_keys<Config>(params_, tile, warpgroup_);
        continue;
      }
      ptx::mbarrier_wait(&smem_.q_full, q_phase);
      q_phase ^= 1;
      process(tile, block_end);
    }
    if (threadIdx.x % 128 == 0) {
      ptx::tma_store_wait_read();  // shared memory must outlive the stores
    }
  }

 private:
  __device__ __forceinline__ void process(const WorkTile& tile, int block_end) {
    using namespace ptx;
    const int first_row = tile.q_tile * Config::kTileQ + 64 * warpgroup_;
    const KeyTiles keys = key_tiles<Config::kTileKv>(params_, first_row, 64);
    // The thread's rows and what they see, counted from the thread's first column.
    const int thread = threadIdx.x % 128;
    const int row = first_row + thread / 32 * 16 + thread % 32 / 4;
    const int first_column = thread % 4 * 2;
    const int visible[2] = {visible_keys(params_, row) - first_column, visible_keys(params_, row + 8) - first_column};

    float o[Config::kOutputs];
    RowState rows;
    int n = block_end - 1;
    for (; n >= keys.end; --n) {
      skip_tile();
    }
    if (n >= 0) {
      float s[Config::kScores];
      uint32_t p[Config::kScores / 2];
      first_scores(s, rows, n, n >= keys.full_end, visible);
      to_operand(p, s);
      int accumulate = 0;
#pragma unroll 1
      for (--n; n >= keys.full_end; --n) {
        step<true>(s, p, o, rows, accumulate, n, visible);
        accumulate = 1;
      }
#pragma unroll 1
      for (; n >= 0; --n) {
        step<false>(s, p, o, rows, accumulate, n, visible);
        accumulate = 1;
      }
      if constexpr (Config::kSeparateO) {
        release(&smem_.q_empty);
      }
      mbarrier_wait(&smem_.v_full[v_cursor_.stage], v_cursor_.phase);
      wgmma_fence();
      multiply_values(o, p, accumulate);
      wgmma_wait_group<0>();
      pin_registers(o);
      release_v();
    } else {
#pragma unroll
      for (int i = 0; i < Config::kOutputs; ++i) {
        o[i] = 0.0f;
      }
      if constexpr (Config::kSeparateO) {
        release(&smem_.q_empty);
      }
    }
    float inverse_sum[2];
    finish_rows(params_, tile, row, rows, inverse_sum);
    store_output<Config>(params_, smem_, tile, warpgroup_, o, inverse_sum);
  }

  /// S of the tile's last key tile and its exponentials, with nothing to overlap.
  __device__ __forceinline__ void first_scores(float (&s)[Config::kScores], RowState& rows, int n, bool masked, const int (&visible)[2]) {
    using namespace ptx;
    mbarrier_wait(&smem_.k_full[k_cursor_.stage], k_cursor_.phase);
    await_turn();
    wgmma_fence();
    multiply_keys(s);
    pass_turn();
    wgmma_wait_group<0>();
    pin_registers(s);
    release_k();
    if (masked) {
      mask(s, n, visible);
    }
    Rescale rescale;  // O is still empty
    exact_step(s, rows, rescale, params_.scale_log2);
  }

  /// One key tile: S of tile n and O += P V of tile n + 1 are in flight together; the exponentials of tile n run while the second product does.
  template <bool kMasked>
  __device__ __forceinline__ void step(float (&s)[Config::kScores], uint32_t (&p)[Config::kScores / 2], float (&o)[Config::kOutputs], RowState& rows, int accumulate,
                                       int n, const int (&visible)[2]) {
    using namespace ptx;
    mbarrier_wait(&smem_.k_full[k_cursor_.stage], k_cursor_.phase);
    await_turn();
    wgmma_fence();
    multiply_keys(s);
    mbarrier_wait(&smem_.v_full[v_cursor_.stage], v_cursor_.phase);
    multiply_values(o, p, accumulate);
    pass_turn();

    wgmma_wait_group<1>();
    pin_registers(s);
    Rescale rescale;
    if constexpr (kMasked) {
      mask(s, n, visible);
      exact_step(s, rows, rescale, params_.scale_log2);
    } else if constexpr (Config::kSoftmax == Sm90Softmax::kOptimisticMaximum) {
      optimistic_step(s, rows, rescale, params_.scale_log2, Config::kMaxTileSum, [&](float(&scores)[Config::kScores]) {
        recompute_scores<Config>(scores, smem_.q(), smem_.k[k_cursor_.stage], 64 * warpgroup_ + threadIdx.x % 128 / 32 * 16);
      });
    } else {
      lazy_step(s, rows, rescale, params_.scale_log2, Config::kLazyRescaleLog2, &smem_.sink);
    }
    release_k();

    wgmma_wait_group<0>();
    pin_registers(o);
    pin_registers(s);
    release_v();
    if (rescale.needed) {
#pragma unroll
      for (int i = 0; i < Config::kOutputs; ++i) {
        o[i] *= rescale.factor[fragment_row(i)];
      }
    }
    to_operand(p, s);
  }

  /// Issues S = Q K^T of the current k tile as one group.
  __device__ __forceinline__ void multiply_keys(float (&s)[Config::kScores]) {
    const uint32_t stage = k_cursor_.stage * kStageStep;
#pragma unroll
    for (int k = 0; k < Config::kHeadDim / 16; ++k) {
      ptx::Wgmma<Element, Config::kTileKv>::ss(s, desc_q_.at(tile::k_major_step(k, Config::kTileQ)), desc_k_.at(stage + tile::k_major_step(k, Config::kTileKv)), k != 0);
    }
    ptx::wgmma_commit_group();
  }

  /// Issues O (+)= P V of the current v tile as one group.
  __device__ __forceinline__ void multiply_values(float (&o)[Config::kOutputs], const uint32_t (&p)[Config::kScores / 2], int accumulate) {
    const uint32_t stage = v_cursor_.stage * kStageStep;
#pragma unroll
    for (int k = 0; k < Config::kTileKv / 16; ++k) {
      ptx::Wgmma<Element, Config::kHeadDim>::rs(o, p[4 * k], p[4 * k + 1], p[4 * k + 2], p[4 * k + 3], desc_v_.at(stage + tile::mn_major_step(k)), k != 0 ? 1 : accumulate);
    }
    ptx::wgmma_commit_group();
  }

  /// P, rounded to the element type, as the A operand of the second product.
  static __device__ __forceinline__ void to_operand(uint32_t (&p)[Config::kScores / 2], const float (&s)[Config::kScores]) {
#pragma unroll
    for (int i = 0; i < Config::kScores / 2; ++i) {
      p[i] = ptx::pack2<Element>(s[2 * i], s[2 * i + 1]);
    }
  }

  __device__ __forceinline__ void mask(float (&s)[Config::kScores], int n, const int (&visible)[2]) const {
    const int in_tile[2] = {visible[0] - n * Config::kTileKv, visible[1] - n * Config::kTileKv};
    apply_mask(s, in_tile);
  }

  /// Takes part in the rings for a key tile that none of this warpgroup's rows sees.
  __device__ __forceinline__ void skip_tile() {
    await_turn();
    pass_turn();
    ptx::mbarrier_wait(&smem_.k_full[k_cursor_.stage], k_cursor_.phase);
    release_k();
    ptx::mbarrier_wait(&smem_.v_full[v_cursor_.stage], v_cursor_.phase);
    release_v();
  }

  /// Turns go round the warpgroups, one per key tile of the block, whether a warpgroup sees the tile or not.
  __device__ __forceinline__ void await_turn() const {
    if constexpr (Config::kPingPong) {
      ptx::named_barrier_sync(Config::kBarrierTurn + warpgroup_, 256);
    }
  }
  __device__ __forceinline__ void pass_turn() const {
    if constexpr (Config::kPingPong) {
      ptx::named_barrier_arrive(Config::kBarrierTurn + (warpgroup_ + 1) % Config::kWarpgroups, 256);
    }
  }

  __device__ __forceinline__ void release_k() {
    release(&smem_.k_empty[k_cursor_.stage]);
    k_cursor_.advance();
  }
  __device__ __forceinline__ void release_v() {
    release(&smem_.v_empty[v_cursor_.stage]);
    v_cursor_.advance();
  }
  /// One arrival per warp.
  static __device__ __forceinline__ void release(uint64_t* barrier) {
    if (threadIdx.x % 32 == 0) {
      ptx::mbarrier_arrive(barrier);
    }
  }

  /// From one ring buffer to the next, in units of a descriptor's address.
  static constexpr uint32_t kStageStep = Config::kTile.kv_tile_bytes() / 16;

  const ForwardParams& params_;
  SharedStorage& smem_;
  const int warpgroup_;
  const tile::Descriptor desc_q_;
  const tile::Descriptor desc_k_;
  const tile::Descriptor desc_v_;
  RingCursor<Config::kStages> k_cursor_;
  RingCursor<Config::kStages> v_cursor_;
};

}  // namespace fa::sm90
