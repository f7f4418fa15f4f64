// A consumer warpgroup: 64 query rows against the key tiles they see, from the last to the first.
#pragma once

#include "kernels/sm90/forward/epilogue.cuh"
#include "kernels/sm90/forward/masked_values.cuh"
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
        desc_q_(tile::k_major_descriptor(smem.q(0)[0][64 * warpgroup])),
        desc_k_(tile::k_major_descriptor(smem.k[0])),
        desc_v_(tile::mn_major_descriptor(smem.v[0], Config::kTileKv)) {}

  __device__ __forceinline__ void run() {
    if (warpgroup_ == Config::kWarpgroups - 1) {
      pass_turn();  // to the first
    }
    WorkIterator work(params_);
    Block block;
    if (find_block(work, block)) {
      process_all(work, block);
    }
    if (Config::kOverlapTiles && threadIdx.x % 128 == 0) {
      ptx::tma_store_wait_read();  // shared memory must outlive the stores
    }
  }

 private:
  /// A query tile as this warpgroup and this thread see it.
  struct Block {
    WorkTile tile;
    int end;         ///< key tiles of the whole block
    KeyTiles keys;   ///< of this warpgroup
    int row;         ///< the thread's first query; the second is row + 8
    int visible[2];  ///< keys that the thread's rows see, counted from its first column
  };

  /// The next query tile that sees keys, of those left in `work`; rows of tiles in between are finished on the way. False if there is none.
  __device__ __forceinline__ bool find_block(WorkIterator& work, Block& block) {
    for (; !work.done(); work.advance()) {
      block.tile = work.tile();
      block.end = key_tiles<Config::kTileKv>(params_, block.tile.q_tile * Config::kTileQ, Config::kTileQ).end;
      if (block.end > 0) {
        const int first_row = block.tile.q_tile * Config::kTileQ + 64 * warpgroup_;
        const int thread = threadIdx.x % 128, first_column = thread % 4 * 2;
        block.keys = key_tiles<Config::kTileKv>(params_, first_row, 64);
        block.row = first_row + thread / 32 * 16 + thread % 32 / 4;
        block.visible[0] = visible_keys(params_, block.row) - first_column;
        block.visible[1] = visible_keys(params_, block.row + 8) - first_column;
        work.advance();
        return true;
      }
      store_rows_without_keys<Config>(params_, block.tile, warpgroup_);
    }
    return false;
  }

  __device__ __forceinline__ void process_all(WorkIterator& work, Block& block) {
    using namespace ptx;
    float s[Config::kScores];
    uint32_t p[Config::kScores / 2];
    RowState rows;
    bool sees_keys = begin_block(block, s, p, rows);
    while (true) {
      if (!sees_keys) {
        release_q();
        store_rows_without_keys<Config>(params_, block.tile, warpgroup_);
        if (!find_block(work, block)) {
          return;
        }
        sees_keys = begin_block(block, s, p, rows);
        continue;
      }
      // Cleared by moves: a first product that overwrites O would save them, but made ptxas serialise every wgmma (C7515) in this loop over query tiles.

      float o[Config::kOutputs];
#pragma unroll
      for (int i = 0; i < Config::kOutputs; ++i) {
        o[i] = 0.0f;
      }
      int n = block.keys.end - 2;
#pragma unroll 1
      for (; n >= block.keys.full_end; --n) {
        step<true>(s, p, o, rows, n, block.visible);
      }
#pragma unroll 1
      for (; n >= 0; --n) {
        step<false>(s, p, o, rows, n, block.visible);
      }
      release_q();

      Block next;
      bool more = false;
      if constexpr (Config::kOverlapTiles) {
        more = find_block(work, next);
        if (more && next.keys.end > 0 && next.end - next.keys.end <= kMaxSkipped) {
          RowState next_rows;
          turn_over(next, s, p, o, next_rows);
          finish_block(block, rows, o);
          to_operand(p, s);
          rows = next_rows;
          block = next;
          continue;
        }
      }
      mbarrier_wait(&smem_.v_full[v_cursor_.stage], v_cursor_.phase);
      wgmma_fence();
      multiply_values(o, p);
      wgmma_wait_group<0>();
      pin_registers(o);
      release_v();
      finish_block(block, rows, o);
      if constexpr (!Config::kOverlapTiles) {
        more = find_block(work, next);
      }
      if (!more) {
        return;
      }
      block = next;
      sees_keys = begin_block(block, s, p, rows);
    }
  }

  /// Starts a query tile with nothing to overlap: skips the key tiles that only other warpgroups see, and forms P of the first one. False if there is none.
  __device__ __forceinline__ bool begin_block(const Block& block, float (&s)[Config::kScores], uint32_t (&p)[Config::kScores / 2], RowState& rows) {
    using namespace ptx;
    rows = RowState();
    mbarrier_wait(&smem_.q_full[q_cursor_.stage], q_cursor_.phase);
    for (int n = block.end - 1; n >= block.keys.end; --n) {
      skip_k();
      skip_v();
    }
    if (block.keys.end == 0) {
      return false;
    }
    mbarrier_wait(&smem_.k_full[k_cursor_.stage], k_cursor_.phase);
    await_turn();
    wgmma_fence();
    multiply_keys(s);
    pass_turn();
    wgmma_wait_group<0>();
    pin_registers(s);
    release_k();
    first_softmax(block, s, rows);
    to_operand(p, s);
    return true;
  }

  /// From one query tile to the next: the last product with V of the old one runs beside the first scores and exponentials of the new one.
  __device__ __forceinline__ void turn_over(const Block& next, float (&s)[Config::kScores], const uint32_t (&p)[Config::kScores / 2],
                                            float (&o)[Config::kOutputs], RowState& next_rows) {
    using namespace ptx;
    const int skipped = next.end - next.keys.end;
    for (int i = 0; i < skipped; ++i) {
      skip_k();
    }
    mbarrier_wait(&smem_.q_full[q_cursor_.stage], q_cursor_.phase);
    mbarrier_wait(&smem_.k_full[k_cursor_.stage], k_cursor_.phase);
    await_turn();
    wgmma_fence();
    multiply_keys(s);
    mbarrier_wait(&smem_.v_full[v_cursor_.stage], v_cursor_.phase);
    multiply_values(o, p);
    pass_turn();
    wgmma_wait_group<1>();
    pin_registers(s);
    release_k();
    first_softmax(next, s, next_rows);
    keep_before_wait(next_rows.sum, &smem_.sink);
    wgmma_wait_group<0>();
    pin_registers(o);
    pin_registers(s);
    release_v();
    for (int i = 0; i < skipped; ++i) {
      skip_v();
    }
  }

  /// Mask and softmax of a query tile's first key tile; O is still empty.
  __device__ __forceinline__ void first_softmax(const Block& block, float (&s)[Config::kScores], RowState& rows) {
    if (block.keys.end > block.keys.full_end) {
      mask(s, block.keys.end - 1, block.visible);
    }
    Rescale unused;
    exact_step(s, rows, unused, params_.scale_log2);
  }

  __device__ __forceinline__ void finish_block(const Block& block, RowState& rows, float (&o)[Config::kOutputs]) {
    if (params_.causal) {
      const int warp_row = block.row - threadIdx.x % 32 / 4;
      remove_masked_values<Element>(params_, block.tile, warp_row, block.row, block.keys.end * Config::kTileKv, rows, o);
    }
    float inverse_sum[2];
    finish_rows(params_, block.tile, block.row, rows, inverse_sum);
    if constexpr (Config::kOverlapTiles) {
      store_output_by_tma<Config>(params_, smem_, block.tile, warpgroup_, o, inverse_sum);
    } else {
      store_output_from_registers<Config>(params_, block.tile, block.row, o, inverse_sum);
    }
  }

  /// One key tile: S of tile n and O += P V of tile n + 1 are in flight together; the exponentials of tile n run while the second product does.
  template <bool kMasked>
  __device__ __forceinline__ void step(float (&s)[Config::kScores], uint32_t (&p)[Config::kScores / 2], float (&o)[Config::kOutputs], RowState& rows, int n,
                                       const int (&visible)[2]) {
    using namespace ptx;
    mbarrier_wait(&smem_.k_full[k_cursor_.stage], k_cursor_.phase);
    await_turn();
    wgmma_fence();
    multiply_keys(s);
    mbarrier_wait(&smem_.v_full[v_cursor_.stage], v_cursor_.phase);
    multiply_values(o, p);
    pass_turn();

    wgmma_wait_group<1>();
    pin_registers(s);
    Rescale rescale;
    if constexpr (kMasked) {
      mask(s, n, visible);
      exact_step(s, rows, rescale, params_.scale_log2);
    } else if constexpr (Config::kSoftmax == Sm90Softmax::kOptimisticMaximum) {
      optimistic_step(s, rows, rescale, params_.scale_log2, Config::kMaxTileSum, [&](float(&scores)[Config::kScores]) {
        recompute_scores<Config>(scores, smem_.q(q_cursor_.stage), smem_.k[k_cursor_.stage], 64 * warpgroup_ + threadIdx.x % 128 / 32 * 16);
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
    const uint32_t q_stage = q_cursor_.stage * kQStageStep, k_stage = k_cursor_.stage * kStageStep;
#pragma unroll
    for (int k = 0; k < Config::kHeadDim / 16; ++k) {
      ptx::Wgmma<Element, Config::kTileKv>::ss(s, desc_q_.at(q_stage + tile::k_major_step(k, Config::kTileQ)),
                                               desc_k_.at(k_stage + tile::k_major_step(k, Config::kTileKv)), k != 0);
    }
    ptx::wgmma_commit_group();
  }

  /// Issues O += P V of the current v tile as one group.
  __device__ __forceinline__ void multiply_values(float (&o)[Config::kOutputs], const uint32_t (&p)[Config::kScores / 2]) {
    const uint32_t stage = v_cursor_.stage * kStageStep;
#pragma unroll
    for (int k = 0; k < Config::kTileKv / 16; ++k) {
      ptx::Wgmma<Element, Config::kHeadDim>::rs(o, p[4 * k], p[4 * k + 1], p[4 * k + 2], p[4 * k + 3], desc_v_.at(stage + tile::mn_major_step(k)), 1);
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

  /// Take part in the rings for a key tile that none of this warpgroup's rows sees.
  __device__ __forceinline__ void skip_k() {
    await_turn();
    pass_turn();
    ptx::mbarrier_wait(&smem_.k_full[k_cursor_.stage], k_cursor_.phase);
    release_k();
  }
  __device__ __forceinline__ void skip_v() {
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

  __device__ __forceinline__ void release_q() {
    release(&smem_.q_empty[q_cursor_.stage]);
    q_cursor_.advance();
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

  /// Key tiles that a warpgroup may skip at the beginning of a query tile while v of the old one is still in use. The producer is then up to so many v tiles
  /// behind and waits for that buffer: skipping further k tiles would wait for it in turn.
  static constexpr int kMaxSkipped = Config::kStages;

  /// From one ring buffer to the next, in units of a descriptor's address.
  static constexpr uint32_t kStageStep = Config::kTile.kv_tile_bytes() / 16;
  static constexpr uint32_t kQStageStep = Config::kTile.q_bytes() / 16;

  const ForwardParams& params_;
  SharedStorage& smem_;
  const int warpgroup_;
  const tile::Descriptor desc_q_;
  const tile::Descriptor desc_k_;
  const tile::Descriptor desc_v_;
  RingCursor<Config::kQStages> q_cursor_;
  RingCursor<Config::kStages> k_cursor_;
  RingCursor<Config::kStages> v_cursor_;
};

}  // namespace fa::sm90
