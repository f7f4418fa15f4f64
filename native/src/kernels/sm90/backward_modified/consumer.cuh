// A consumer warpgroup: 64 keys of every work item's tile against all query tiles that see them.
#pragma once

#include <type_traits>

#include "kernels/sm90/backward/pairs.cuh"
#include "kernels/sm90/backward_modified/bias.cuh"
#include "kernels/sm90/backward_modified/bulk_items.cuh"
#include "kernels/sm90/backward_modified/config.h"
#include "kernels/sm90/backward_modified/finisher.cuh"
#include "kernels/sm90/backward_modified/key_gradients.cuh"
#include "kernels/sm90/backward_modified/listed_tiles.cuh"
#include "kernels/sm90/backward_modified/nonfinite.cuh"
#include "kernels/sm90/backward_modified/producer.cuh"
#include "kernels/sm90/backward_modified/scores.cuh"
#include "ptx/bulk_copy.cuh"
#include "ptx/fence_proxy.cuh"
#include "ptx/mbarrier.cuh"
#include "ptx/named_barrier.cuh"
#include "ptx/reduce.cuh"
#include "ptx/stmatrix.cuh"
#include "ptx/tma.cuh"
#include "ptx/wgmma.cuh"
#include "tile/wgmma_descriptor.cuh"

namespace fa::sm90 {

template <typename Config>
class ModifiedConsumer {
  using Element = typename Config::Element;
  using SharedStorage = typename Config::SharedStorage;
  using ScoreProduct = ptx::Wgmma<Element, Config::kTileQ>;
  using GradientProduct = ptx::Wgmma<Element, Config::kHeadDim>;
  using GradQProduct = ptx::Wgmma<Element, 64>;
  using Scores = float[Config::kScores];
  using Operand = uint32_t[Config::kScores / 2];
  using Gradient = float[Config::kGradients];
  using NextScores = std::conditional_t<Config::kBeginsScores, CarriedScores<Config::kScores>, NoScores>;
  static constexpr uint32_t kQStageStep = sizeof(typename SharedStorage::QTile) / 16;
  static constexpr uint32_t kKeyBufferStep = sizeof(typename SharedStorage::KeyTile) / 16;
  static constexpr uint32_t kToGradO = SharedStorage::kToGradO / 16;

 public:
  __device__ __forceinline__ ModifiedConsumer(const ModifiedBackwardParams& params, SharedStorage& smem, int warpgroup)
      : p_(params),
        smem_(smem),
        warpgroup_(warpgroup),
        desc_k_(tile::k_major_descriptor(smem.k[0][0][64 * warpgroup])),
        desc_v_(tile::k_major_descriptor(smem.v[0][0][64 * warpgroup])),
        desc_q_(tile::k_major_descriptor(smem.q[0])),
        desc_q_rows_(tile::mn_major_descriptor(smem.q[0], Config::kTileQ)),
        desc_ds_(tile::k_major_descriptor(smem.ds[0][0][64 * (warpgroup / Config::kPanels)])),
        desc_k_rows_(tile::mn_major_descriptor(smem.k[0][warpgroup % Config::kPanels], Config::kTileKv)),
        parts_(smem, warpgroup) {
    const int thread = threadIdx.x % 128, lane = thread % 32, matrix = lane / 8, row = lane % 8;
    s_ds_ = ptx::shared_address(smem.ds[0][warpgroup]) + tile::swizzled_offset_bytes(matrix / 2 * 8 + row, thread / 32 * 2 + matrix % 2);
  }

  __device__ __forceinline__ void run() {
#pragma unroll 1
    for (RingCursor buffer;; buffer.advance()) {
      ptx::mbarrier_wait(&smem_.k_full[buffer.stage], buffer.phase);
      const KeyWork work = uniform_work(smem_.work[buffer.stage]);
      if (work.kind == KeyWork::kNone) {
        break;
      }
      Gradient grad_k, grad_v;
      NextScores next;
#pragma unroll
      for (int i = 0; i < Config::kGradients; ++i) {
        grad_k[i] = 0.0f;
        grad_v[i] = 0.0f;
      }
      const RingCursor values = value_cursor<Config>(buffer);
      if constexpr (!Config::kValuesLate) {
        ptx::mbarrier_wait(&smem_.v_full[values.stage], values.phase);
      }
      value_phase_ = values.phase;
      if (work.kind == KeyWork::kWithSteps) {
        take_keys(work, buffer.stage);
        if constexpr (Config::Policy::kBias) {
          // What the item of the batch entry before stored of the gradient of a shared bias is there before this one adds to it.
          if (threadIdx.x % 128 == 0) {
            ptx::bulk_wait();
          }
        }
#pragma unroll 1
        for (int group_head = 0; group_head < p_.group_size; ++group_head) {
          take_head(work, group_head);
          if constexpr (Config::Policy::kMask) {
            go_through_list(next, grad_k, grad_v, listed_.template take<Config::kTileQ>(p_, work, group_head), buffer.stage);
          } else {
            go_through(next, grad_k, grad_v, work, buffer.stage);
          }
        }
      }
      if constexpr (Config::kValuesLate) {
        ptx::mbarrier_wait(&smem_.v_full[0], values.phase);  // also where the warpgroup's keys were never seen
      }
      if constexpr (Config::kAddsInBulk) {
        __syncwarp();
        if (threadIdx.x % 32 == 0) {
          ptx::mbarrier_arrive(&smem_.v_empty);
        }
      }
      const bool bad_key = has_nonfinite_keys<Config>(smem_, work, warpgroup_, buffer.stage);
      if constexpr (!Config::kAddsInBulk) {
        report_nonfinite<Config>(p_, bad_key, grad_k, grad_v, work, warpgroup_);
      }
      hand_over(grad_k, grad_v, work, buffer.stage, bad_key);
    }
    if (p_.finish_inside) {
      finish_blocks<Config>(p_);  // beside the spare warps, for which the heads of the last section would be many
    }
  }

 private:
  /// All query tiles of a head in the order of step_in_order: those that only one warpgroup sees, masked ones and whole ones. Each loop stands once in the code
  /// and has nothing in it that only another needs.
  __device__ __forceinline__ void go_through(NextScores& next, Gradient& grad_k, Gradient& grad_v, const KeyWork& work, int buffer) {
    int step = work.end_step - 1, first = work.first_stored;
    bool late = false;
    key_step_ = buffer * kKeyBufferStep;
#pragma unroll 1
    while (true) {
      if constexpr (Config::kEdgeLoop) {
        const int stop = step >= edge_.end ? max(first, edge_.end) : step < edge_.first ? first : step + 1;
#pragma unroll 1
        for (; step >= stop; --step) {
          process<true, true>(next, grad_k, grad_v, work, step);
        }
      }
      const int stop = step >= work.whole_last    ? max(first, work.whole_last)
                       : step >= work.whole_first ? step + 1
                       : Config::kEdgeLoop        ? max(first, edge_.first)
                                                  : first;
#pragma unroll 1
      for (; step >= stop; --step) {
        process<true, !Config::kEdgeLoop>(next, grad_k, grad_v, work, step);
      }
      if constexpr (Config::kBeginsScores) {
        begin_whole_scores(next.s, step);
      }
      const int whole_stop = max(first, work.whole_first);
#pragma unroll 1
      for (; step >= whole_stop; --step) {
        process<false, false>(next, grad_k, grad_v, work, step);
      }
      if (step < first) {
        // The next part.
        if (late) {
          break;
        }
        late = first == work.first_step;
        const int last = (late ? work.first_stored : work.first_late) - 1;
        first = late ? work.first_late : work.first_step;
        if constexpr (!Config::kAddsInBulk) {
          g_lane_ += int64_t{last - step} * (Config::kTileQ * Config::kHeadDim);
        }
        step = last;
      }
    }
  }

  /// All entries of a head's list: those that show keys of one warpgroup, other mixed ones, whole ones.
  __device__ __forceinline__ void go_through_list(NextScores& next, Gradient& grad_k, Gradient& grad_v, const KeyWork& work, int buffer) {
    int step = 0;
    key_step_ = buffer * kKeyBufferStep;
#pragma unroll 1
    for (; step < work.first_stored; ++step) {
      process<true, true>(next, grad_k, grad_v, work, step);
    }
#pragma unroll 1
    for (; step < work.whole_first; ++step) {
      process<true, false>(next, grad_k, grad_v, work, step);
    }
#pragma unroll 1
    for (; step < work.end_step; ++step) {
      process<false, false>(next, grad_k, grad_v, work, step);
    }
  }

  /// What is the same for all steps of a query head.
  __device__ __forceinline__ void take_head(const KeyWork& work, int group_head) {
    if constexpr (!Config::Policy::kMask && !Config::kAddsInBulk) {
      const int64_t first_row = (work.workspace_head + group_head) * p_.padded_rows + work.row_begin + (work.end_step - 1) * Config::kTileQ;
      g_lane_ = p_.grad_q_accumulator + first_row * Config::kHeadDim + warpgroup_ * kGradQBlock + 4 * (threadIdx.x % 128);
    }
    if constexpr (Config::Policy::kAlibi) {
      slope_log2_ = alibi_slope_log2(p_.scores, work.sequence, work.kv_head * p_.group_size + group_head);
      if constexpr (Config::kBeginsScores) {
        slope_raw_ = slope_log2_ / p_.scores.scale_log2;
      }
    }
    if constexpr (Config::Policy::kBias) {
      query_head_ = work.kv_head * p_.group_size + group_head;
    }
  }

  /// What a thread needs to know of its two keys.
  __device__ __forceinline__ void take_keys(const KeyWork& work, int buffer) {
    const PairRange range = work.range(p_);
    const int thread = threadIdx.x % 128, lane = thread % 32;
    const int first_key = work.first_key + 64 * warpgroup_ + thread / 32 * 16 + lane / 4;
    first_key_position_ = first_key - range.offset;
    if (!Config::Policy::kMask && work.has_foreign_keys(p_, Config::kTileKv)) {
      // Hidden pairs weigh 0, but grad_q would take 0 * NaN.
      clean_rows<Config>(smem_.k[buffer], work.len_kv - work.first_key, warpgroup_);
    }
    const int own_tiles = p_.table.data != nullptr ? work.len_q / Config::kTileQ : work.end_step;
    const HalfSteps halves =
        half_steps(range, {work.first_step, work.end_step}, {work.whole_first, work.whole_last}, own_tiles, work.first_key, Config::kTileQ, Config::kTileKv);
    seen_ = warpgroup_ == 0 ? halves.seen[0] : halves.seen[1];
    edge_ = halves.both;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      // Relative to the thread's first column. Nobody sees a key at the padding.
      const int key = first_key + 8 * r;
      begin_row_[r] = range.begin_row(key) - lane % 4 * 2;
      end_row_[r] = key < range.len_kv ? range.end_row(key) - lane % 4 * 2 : 0;
    }
  }

  /// One tile of queries. Every product is waited for before the end: a group in flight across the loop's back edge makes ptxas serialise all of them (C7514).
  /// Of queries that see none of the warpgroup's keys, only the other's, dS of its own keys is 0 and there is nothing to do but its part of grad_q. Both
  /// warpgroups come to the same barrier instruction none the less (synccheck takes two of them for divergence), and in the masked form with no product in
  /// flight, since what is around it is conditional.
  template <bool kMasked, bool kConditional>
  __device__ __forceinline__ void process(NextScores& next, Gradient& grad_k, Gradient& grad_v, const KeyWork& work, int step) {
    using namespace ptx;
    constexpr bool kListed = Config::Policy::kMask;
    const int stage = cursor_.stage, first_query = step * Config::kTileQ;
    const uint32_t stage_step = stage * kQStageStep, buffer_step = key_step_;
    const bool seen = !kConditional || (kListed ? (step < work.first_step) == (warpgroup_ == 0) : step >= seen_.first && step < seen_.end);
    Operand p_operand, ds_operand;
    mbarrier_wait(&smem_.q_full[stage], cursor_.phase);
    if constexpr (kConditional && !kListed) {
      clean_queries(work, first_query);
    }
    if (seen) {
      form_scores<kMasked>(next, p_operand, ds_operand, first_query, step);
    } else {
      skip_scores(p_operand, ds_operand);
    }
    share_ds(ds_operand, stage);

    // grad_v, then grad_q and grad_k, for both of which dS of both warpgroups must be there
    if constexpr (!kConditional) {
      wgmma_fence();
      accumulate(grad_v, p_operand, stage_step + kToGradO);
      wgmma_commit_group();
    }
    fence_proxy_async_shared();
    named_barrier_sync(Config::kBarrierConsumers, Config::kConsumerThreads);
    float grad_q[Config::kGradQ];
    wgmma_fence();
    if (seen) {
      if constexpr (kConditional) {
        accumulate(grad_v, p_operand, stage_step + kToGradO);
        wgmma_commit_group();
      }
      multiply_grad_q(grad_q, buffer_step, stage);
      wgmma_commit_group();
      accumulate(grad_k, ds_operand, stage_step);
      wgmma_commit_group();
      if constexpr (Config::Policy::kBias) {
        store_grad_bias(work, first_query, stage);
      }

      wgmma_wait_group<1>();
      pin_registers(grad_q);
      if (threadIdx.x % 32 == 0) {
        mbarrier_arrive(&smem_.grad_o_empty[stage]);
      }
      pass_on_grad_q(grad_q, work, step, stage);
      if constexpr (!kMasked && Config::kBeginsScores) {
        begin_whole_scores(next.s, step - 1);
      }
      wgmma_wait_group<0>();
      pin_registers(grad_v);
      pin_registers(grad_k);
      release_q(stage);
    } else {
      multiply_grad_q(grad_q, buffer_step, stage);
      wgmma_commit_group();
      if constexpr (Config::Policy::kBias) {
        store_grad_bias(work, first_query, stage);
      }
      wgmma_wait_group<0>();
      pin_registers(grad_q);
      pass_on_grad_q(grad_q, work, step, stage);
      release_q(stage);
    }
    advance();
  }

  /// Gives q back, and with a bias the memory of dS, where the next one comes. It also says that grad_q is stored (StoredTiles, BegunTiles).
  __device__ __forceinline__ void release_q(int stage) {
    __syncwarp();
    if (threadIdx.x % 32 == 0) {
      if constexpr (Config::Policy::kBias) {
        if (threadIdx.x % 128 == 0) {
          ptx::bulk_wait_read();
        }
      }
      ptx::mbarrier_arrive(&smem_.q_empty[stage]);
    }
  }

  /// dS, which lies in shared memory, is the gradient of the bias.
  __device__ __forceinline__ void store_grad_bias(const KeyWork& work, int first_query, int stage) {
    if (!p_.writes_grad_bias || threadIdx.x % 128 != 0) {
      return;
    }
    const int first_key = work.first_key + 64 * warpgroup_;
    if (p_.batch_inside > 1 && work.batch > 0) {
      ptx::tma_reduce_add_4d(&p_.map_grad_bias, smem_.ds[stage][warpgroup_], first_key, first_query, query_head_, 0);
    } else {
      ptx::tma_store_4d(&p_.map_grad_bias, smem_.ds[stage][warpgroup_], first_key, first_query, query_head_, work.batch);
    }
    ptx::bulk_commit();
  }

  /// P and dS of a step whose q is there. With lists first_query is not what it says: the step's entry does.
  template <bool kMasked>
  __device__ __forceinline__ void form_scores(NextScores& next, Operand& p_operand, Operand& ds_operand, int first_query, int step) {
    using namespace ptx;
    const int stage = cursor_.stage;
    const uint32_t stage_step = stage * kQStageStep, buffer_step = key_step_;
    constexpr bool kBegun = !kMasked && Config::kBeginsScores;  // the slope's term is in S, what is left is a range
    Scores own, dp;
    Scores& s = scores_of(next, own);

    const float* s_shift = &smem_.shift[stage][threadIdx.x % 4 * 2];
    const float* s_delta = &smem_.delta[stage][threadIdx.x % 4 * 2];
    ColumnStatistics<Config::kStatisticsEarly, Config::kScores / 4> statistics;
    statistics.load(s_shift);  // behind the wait for S they would come late: the products leave little of shared memory's time

    // S^T = K Q^T, dP^T = V dO^T
    wgmma_fence();
    multiply_scores<kBegun>(s, desc_k_, buffer_step, stage_step);
    wgmma_commit_group();
    // In the shade of the products: what stands before the first one both warpgroups wait for at the same time.
    [[maybe_unused]] VisibleEntry entry{0};
    if constexpr (kMasked && Config::Policy::kMask) {
      entry = said_entry(stage);
    }
    if constexpr (Config::kValuesLate) {
      mbarrier_wait(&smem_.v_full[0], value_phase_);
    }
    mbarrier_wait(&smem_.grad_o_full[stage], cursor_.phase);
    multiply_scores<false>(dp, desc_v_, Config::kAddsInBulk ? value_step_ : buffer_step, stage_step + kToGradO);
    wgmma_commit_group();

    StepScores scores;
    scores.scale_log2 = p_.scores.scale_log2;
    scores.softcap_factor = p_.scores.twice_inverse_softcap_log2;
    scores.softcap_log2 = p_.scores.softcap_log2;
    scores.slope_log2 = slope_log2_;
    scores.distance = static_cast<float>(first_query - first_key_position_);
    if constexpr (kMasked && Config::Policy::kMask) {
      if (p_.visible.bits != nullptr) {
        listed_.template load_visible<Config::kTileQ>(p_, entry, scores.visible);
      } else {
        show_range(scores.visible, entry.tile() * Config::kTileQ, ListedTiles::visible_units<Config::kTileQ>(entry));
      }
    } else if constexpr (kMasked) {
      show_range(scores.visible, first_query, 0xFFFFFFFFu);
    }

    // P, dS
    if constexpr (Config::Policy::kBias) {
      const uint32_t s_bias = s_ds_ + stage * static_cast<uint32_t>(sizeof(smem_.ds[0]));
      constexpr int kSlices = Config::kTileQ / 16;
      constexpr bool kAhead = kSlices == 4;  // registers for the whole bias while S^T is computed
      uint32_t bias[kSlices][4];
#pragma unroll
      for (int k = 0; k < kSlices && kAhead; ++k) {
        load_bias(bias[k], s_bias, k);
      }
      wgmma_wait_group<1>();
      pin_registers(s);
#pragma unroll
      for (int k = 0; k < kSlices; ++k) {
        if constexpr (!kAhead) {
          load_bias(bias[k], s_bias, k);
        }
        weigh_biased_scores<Element, kMasked>(s, p_operand, bias[k], k, s_shift, scores);
      }
      wgmma_wait_group<0>();
      pin_registers(dp);
      statistics.load(s_delta);
      differentiate_scores<Element, kMasked>(ds_operand, dp, s, statistics, scores);
      clear_hidden<Element>(ds_operand, s_bias);
    } else {
      wgmma_wait_group<1>();
      pin_registers(s);
      using Left = std::conditional_t<kBegun, HopperScores<kSm90RangeVariants>, typename Config::Policy>;
      weigh_scores<Element, Left, kMasked>(s, p_operand, statistics, scores);
      if constexpr (Config::kExponentiatesEarly) {
        mbarrier_wait(&smem_.q_full[stage], cursor_.phase);  // long complete; but a branch, which keeps some of the exponentials in front of the next wait
      }
      statistics.load(s_delta);
      wgmma_wait_group<0>();
      pin_registers(dp);
      differentiate_scores<Element, kMasked, kSwapsRows<typename Config::Policy>>(ds_operand, dp, s, statistics, scores);
    }
  }

  /// Pairs of the thread's keys that the range shows, of some queries of the tile (as column_bits has them).
  __device__ __forceinline__ void show_range(uint32_t (&visible)[2], int first_query, uint32_t of_queries) const {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      visible[r] = column_bits<Config::kScores / 2>(begin_row_[r] - first_query, end_row_[r] - first_query) & of_queries;
    }
  }

  /// kBeginsScores: written while the products of the step before still run.
  __device__ __forceinline__ void begin_whole_scores(Scores& s, int step) {
    begin_scores(s, slope_raw_, static_cast<float>(step * Config::kTileQ - first_key_position_));
  }

  /// Of a step whose queries see none of the warpgroup's keys: gives grad_o back and, where no bias comes with it, q.
  __device__ __forceinline__ void skip_scores(Operand& p_operand, Operand& ds_operand) {
    ptx::mbarrier_wait(&smem_.grad_o_full[cursor_.stage], cursor_.phase);
    if (threadIdx.x % 32 == 0) {
      ptx::mbarrier_arrive(&smem_.grad_o_empty[cursor_.stage]);
    }
#pragma unroll
    for (int i = 0; i < Config::kScores / 2; ++i) {
      p_operand[i] = ds_operand[i] = 0;
    }
  }

  /// Ends a step. key_step_ does not change, but the compiler must not know: it would compute all descriptors of k and v before the loop and keep them in local
  /// memory.
  __device__ __forceinline__ void advance() {
    cursor_.advance();
    key_step_ += static_cast<uint32_t>(p_.zero);
    if constexpr (Config::kAddsInBulk) {
      value_step_ += static_cast<uint32_t>(p_.zero);
    }
  }

  /// Before the first product of a step whose q is there: rows behind the end of the sequence count for nothing, whatever was loaded. All consumers come here.
  __device__ __forceinline__ void clean_queries(const KeyWork& work, int first_query) {
    if (work.has_foreign_queries(p_, first_query + Config::kTileQ)) {
      ptx::mbarrier_wait(&smem_.grad_o_full[cursor_.stage], cursor_.phase);
      clean_rows<Config>(smem_.q[cursor_.stage], work.len_q - first_query, warpgroup_);
      clean_rows<Config>(smem_.grad_o[cursor_.stage], work.len_q - first_query, warpgroup_);
    }
  }

  /// scores = the warpgroup's 64 rows of k or v times a tile of q or grad_o, transposed; kAccumulate: in addition to what they are.
  template <bool kAccumulate>
  __device__ __forceinline__ void multiply_scores(Scores& scores, const tile::Descriptor& keys, uint32_t key_step, uint32_t query_step) {
#pragma unroll
    for (int k = 0; k < Config::kHeadDim / 16; ++k) {
      ScoreProduct::ss(scores, keys.at(key_step + tile::k_major_step(k, Config::kTileKv)), desc_q_.at(query_step + tile::k_major_step(k, Config::kTileQ)),
                       kAccumulate || k != 0);
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

  /// dS^T from registers to shared memory as dS.
  __device__ __forceinline__ void share_ds(const Operand& operand, int stage) {
    const uint32_t s_ds = s_ds_ + stage * static_cast<uint32_t>(sizeof(smem_.ds[0]));
#pragma unroll
    for (int k = 0; k < Config::kTileQ / 16; ++k) {
      ptx::stmatrix_x4_trans(s_ds + k * 16 * tile::kPanelRowBytes, operand[4 * k], operand[4 * k + 1], operand[4 * k + 2], operand[4 * k + 3]);
    }
  }

  /// The warpgroup's 64 x 64 block of the tile of grad_q = dS K: block w is its rows 64w … (64 columns) or its columns 64w … (64 rows).
  __device__ __forceinline__ void multiply_grad_q(float (&grad_q)[Config::kGradQ], uint32_t key_step, int stage) {
#pragma unroll
    for (int k = 0; k < Config::kTileKv / 16; ++k) {
      GradQProduct::ss_mn(grad_q, desc_ds_.at(stage * static_cast<uint32_t>(sizeof(smem_.ds[0]) / 16) + tile::k_major_step(k, Config::kTileQ)),
                          desc_k_rows_.at(key_step + tile::mn_major_step(k)), k != 0);
    }
  }

  /// What the producer says of the step. An index of which the compiler does not know that it is the same in all threads: what is read from one address it
  /// moves to a uniform register at once, and so waits for it before the step's next product.
  __device__ __forceinline__ int said(const int (&s_words)[Config::kStages], int stage) const {
    return s_words[stage + static_cast<int>(s_ds_) * p_.zero];
  }
  /// The same by one lane, whose arrival at q_empty then orders the read for all.
  __device__ __forceinline__ int said_to_first(const int (&s_words)[Config::kStages], int stage) const {
    return __shfl_sync(0xFFFFFFFF, threadIdx.x % 32 == 0 ? said(s_words, stage) : 0, 0);
  }
  __device__ __forceinline__ VisibleEntry said_entry(int stage) const {
    return {static_cast<uint32_t>(said(smem_.entry, stage))};
  }

  /// The step's part of grad_q leaves the registers.
  __device__ __forceinline__ void pass_on_grad_q(const float (&grad_q)[Config::kGradQ], const KeyWork& work, int step, int stage) {
    if constexpr (Config::kAddsInBulk) {
      parts_.leave(grad_q);
    } else {
      add_grad_q(grad_q, !Config::Policy::kMask && step >= work.first_stored, stage);
    }
  }

  /// Adds to the accumulator, or begins its sum. With lists the producer says whether, and of which tile.
  __device__ __forceinline__ void add_grad_q(const float (&grad_q)[Config::kGradQ], bool begins, int stage) {
    float* g_lane = g_lane_;
    if constexpr (Config::Policy::kMask) {
      begins = said_to_first(smem_.stored_flag, stage) != 0;
      const int64_t tile = listed_.first_tile + VisibleEntry{static_cast<uint32_t>(said_to_first(smem_.entry, stage))}.tile();
      g_lane = p_.grad_q_accumulator + (tile * (Config::kTileQ * Config::kHeadDim) + warpgroup_ * kGradQBlock + 4 * (threadIdx.x % 128));
    }
    // Opaque, so that the additions differ by constants in their instructions instead of by addresses of their own.
    asm("" : "+l"(g_lane));
    if (begins) {
#pragma unroll
      for (int j = 0; j < Config::kGradQ / 4; ++j) {
        ptx::store_v4(g_lane + 4 * 128 * j, grad_q[4 * j], grad_q[4 * j + 1], grad_q[4 * j + 2], grad_q[4 * j + 3]);
      }
    } else {
#pragma unroll
      for (int j = 0; j < Config::kGradQ / 4; ++j) {
        ptx::reduce_add_v4(g_lane + 4 * 128 * j, grad_q[4 * j], grad_q[4 * j + 1], grad_q[4 * j + 2], grad_q[4 * j + 3]);
      }
    }
    if constexpr (!Config::Policy::kMask) {
      g_lane_ -= Config::kTileQ * Config::kHeadDim;
    }
  }

  /// Where the item's grad_v is left.
  __device__ __forceinline__ typename SharedStorage::KeyTile& grad_v_tile(int buffer) {
    if constexpr (Config::kAddsInBulk) {
      return staged_grad_v(smem_);
    } else {
      return smem_.v[buffer];
    }
  }

  /// grad_k and grad_v into shared memory, from where a spare thread stores them (store_items, add_and_store_items).
  __device__ __forceinline__ void hand_over(const Gradient& grad_k, const Gradient& grad_v, const KeyWork& work, int buffer, bool bad_key) {
    using namespace ptx;
    named_barrier_sync(Config::kBarrierConsumers, Config::kConsumerThreads);  // the other warpgroup has read k for the last time
    stage_gradient<Element>(smem_.k[buffer], grad_k, warpgroup_, p_.scale);
    if constexpr (Config::kAddsInBulk) {
      report_nonfinite<Config>(p_, bad_key, grad_k, grad_v, work, warpgroup_);  // while the last parts of grad_q are read
      parts_.wait_for_all();
    }
    auto& s_grad_v = grad_v_tile(buffer);
    stage_gradient<Element>(s_grad_v, grad_v, warpgroup_, 1.0f);
    fence_proxy_async_shared();
    if (work.has_foreign_keys(p_, Config::kTileKv)) {
      named_barrier_sync(Config::kBarrierWarpgroup + warpgroup_, 128);
      const int rows = min(work.len_kv - work.first_key - 64 * warpgroup_, 64);
      copy_rows(p_.grad_k, p_.grad_k_strides, p_.head_dim, smem_.k[buffer], warpgroup_, rows, work);
      copy_rows(p_.grad_v, p_.grad_v_strides, p_.head_dim_v, s_grad_v, warpgroup_, rows, work);
    }
    __syncwarp();
    if (threadIdx.x % 32 == 0) {
      mbarrier_arrive(&smem_.done[buffer]);
      mbarrier_arrive(&smem_.kv_empty[buffer]);  // the item itself has been read
    }
  }

  const ModifiedBackwardParams& p_;
  SharedStorage& smem_;
  const int warpgroup_;
  const tile::Descriptor desc_k_;       // A of S^T
  const tile::Descriptor desc_v_;       // A of dP^T
  const tile::Descriptor desc_q_;       // B of S^T, and of dP^T at kToGradO
  const tile::Descriptor desc_q_rows_;  // B of grad_k, and of grad_v at kToGradO
  const tile::Descriptor desc_ds_;      // A of grad_q
  const tile::Descriptor desc_k_rows_;  // B of grad_q
  RingCursor cursor_;
  uint32_t key_step_ = 0;     // from the first buffer of k and v to that of the item, in descriptor units
  uint32_t value_step_ = 0;   // kAddsInBulk: 0, as key_step_ for v
  uint32_t value_phase_ = 0;  // kValuesLate: of v_full
  LeftParts<Config> parts_;   // kAddsInBulk
  float* g_lane_ = nullptr;   // the thread's first element of the next step's block of the accumulator
  float slope_log2_ = 0.0f;   // kAlibi: of the query head
  float slope_raw_ = 0.0f;    // kBeginsScores: in units of S, before it is scaled
  int query_head_;            // kBias
  StepRange seen_;            // query tiles that see a key of the warpgroup
  StepRange edge_;            // those between these both warpgroups see, at least in front of the whole ones and behind them
  int first_key_position_;    // the thread's first key, as a query's number
  int begin_row_[2];          // queries that see the thread's keys, less the thread's first column
  int end_row_[2];
  uint32_t s_ds_;  // the lane's row of stmatrix in stage 0
  std::conditional_t<Config::Policy::kMask, ListedTiles, NoList> listed_;
};

}  // namespace fa::sm90
