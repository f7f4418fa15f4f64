// The producer: one warp that takes up work items, brings their k and v, and keeps the rings of q and grad_o tiles full, each with its row of shifts or
// deltas.
#pragma once

#include <type_traits>

#include "kernels/sm90/backward_modified/begun_tiles.cuh"
#include "kernels/sm90/backward_modified/config.h"
#include "kernels/sm90/backward_modified/listed_tiles.cuh"
#include "kernels/sm90/backward_modified/stored_tiles.cuh"
#include "ptx/mbarrier.cuh"
#include "ptx/tma.cuh"

namespace fa::sm90 {

/// With lists, steps still to be loaded when the next work item is taken up.
inline constexpr int kStepsBeforeNext = 2;

template <typename Config>
class ModifiedProducer {
  using SharedStorage = typename Config::SharedStorage;

 public:
  __device__ __forceinline__ ModifiedProducer(const ModifiedBackwardParams& params, SharedStorage& smem)
      : p_(params), smem_(smem), first_lane_(threadIdx.x % 32 == 0), stored_(params.tiles_stored, smem.q_empty, smem.stored_flag, smem.untold_flag) {}

  /// Runs in a whole warp, of which one lane does what is to be done once: so the compiler knows that all operands of the copies are the same in all lanes.
  __device__ __forceinline__ void run() {
    const int num_tiles = num_key_tiles(p_), num_work = num_tiles * p_.order.num_heads;
    if constexpr (Config::Policy::kMask) {
      run_listed(num_tiles, num_work);
      return;
    }
    int index = take_item();
#pragma unroll 1
    while (index < num_work) {
      KeyWork work = uniform_work(ordered_key_work(p_, index, num_tiles, Config::kTileQ, Config::kTileKv));
      if constexpr (Config::kBeginsScores) {
        // Rows far behind the last key, whose visible pairs all have large distances, take the masked form: a sum that begins with a large number loses bits.
        work.whole_last = max(min(work.whole_last, (work.len_kv - work.range(p_).offset + Config::kNearRows) / Config::kTileQ), work.whole_first);
      }
      if constexpr (Config::Policy::kBias) {
        int left = p_.batch_inside;
#pragma unroll 1
        while (true) {
          produce(work);
          if (--left == 0) {
            break;
          }
          buffer_.advance();
          work = of_batch(p_, work, 1, num_work);
        }
      } else {
        produce(work);
      }
      // Not earlier: what is taken up while a long item is loaded waits behind it when others have nothing left to do.
      index = take_item();
      buffer_.advance();
    }
    end_work();
  }

 private:
  /// An item is known by what stands in memory: who and how long its list is. So the next one is taken up a few steps before the present one's end, not at it.
  __device__ __forceinline__ void run_listed(int num_tiles, int num_work) {
    const auto work_of = [&](int index) { return key_work(p_, index, num_tiles, Config::kTileQ, Config::kTileKv); };
    int index = take_item();
    ListedItem item(p_, work_of(min(index, num_work - 1)));
#pragma unroll 1
    while (index < num_work) {
      const KeyWork work = uniform_work(item.of(work_of(index)));
      bool taken = false;
      const auto take_next = [&] {
        index = take_item();
        item = ListedItem(p_, work_of(min(index, num_work - 1)));
        taken = true;
      };
      produce(work, [&](int steps_left) {
        if (!taken && steps_left <= kStepsBeforeNext) {
          take_next();
        }
      });
      if (!taken) {
        take_next();
      }
      buffer_.advance();
    }
    end_work();
  }

  __device__ __forceinline__ void end_work() {
    stored_.finish(cursor_);
    ptx::mbarrier_wait(&smem_.kv_empty[buffer_.stage], buffer_.phase ^ 1);
    if (first_lane_) {
      smem_.work[buffer_.stage].kind = KeyWork::kNone;
      ptx::mbarrier_arrive(&smem_.k_full[buffer_.stage]);
    }
  }

  /// The next item, the first one too: a block that does not run yet must not have one, for the blocks that run wait for all items of a head (finish_blocks).
  __device__ __forceinline__ int take_item() const {
    return __shfl_sync(0xFFFFFFFF, first_lane_ ? atomicAdd(p_.work_counter, 1) : 0, 0);
  }

  struct Nothing {
    __device__ __forceinline__ void operator()(int) const {}
  };

  /// All loads of one work item. after_step(steps left): with lists, when those of a step of the last query head are queued.
  template <class AfterStep = Nothing>
  __device__ __forceinline__ void produce(const KeyWork& work, AfterStep&& after_step = {}) {
    const int buffer = buffer_.stage;
    ptx::mbarrier_wait(&smem_.kv_empty[buffer], buffer_.phase ^ 1);
    if (first_lane_) {
      smem_.work[buffer] = work;
    }
    if (work.kind == KeyWork::kUnseen) {
      if (first_lane_) {
        ptx::mbarrier_arrive(&smem_.k_full[buffer]);
        wait_for_values();
        ptx::mbarrier_arrive(&smem_.v_full[value_cursor<Config>(buffer_).stage]);
      }
      return;
    }
    load_keys(&p_.map_k, smem_.k[buffer], &smem_.k_full[buffer], work);
    bool v_loaded = false;
#pragma unroll 1
    for (int group_head = 0; group_head < p_.group_size; ++group_head) {
      if constexpr (Config::Policy::kMask) {
        load_list(work, group_head, v_loaded, after_step);
      } else {
        load_range(work, group_head, v_loaded);
      }
    }
  }

  /// The query tiles of a head.
  __device__ __forceinline__ void load_range(const KeyWork& work, int group_head, bool& v_loaded) {
    const int head = work.kv_head * p_.group_size + group_head, statistics_row = work.workspace_head + group_head;
    stored_.begin_head(static_cast<int>(statistics_row * (p_.padded_rows / Config::kTileQ)) + work.row_begin / Config::kTileQ);
    const int num_steps = work.end_step - work.first_step;
#pragma unroll 1
    for (int i = 0; i < num_steps; ++i) {
      const int step = work.visited_step(i);
      const int first_row = step * Config::kTileQ, stage = cursor_.stage;
      ptx::mbarrier_wait(&smem_.q_empty[stage], cursor_.phase ^ 1);
      stored_.begin_step(step, work, stage);
      load_queries(&p_.map_q, smem_.q[stage], smem_.shift[stage], statistics_row, &smem_.q_full[stage], first_row, head, work,
                   Config::Policy::kBias ? sizeof(smem_.ds[0]) : 0);
      if constexpr (Config::Policy::kBias) {
        load_bias(stage, first_row, head, work);
      }
      if constexpr (!Config::kAddsInBulk) {
        load_values(work, v_loaded);
      }
      stored_.wait_for(step, work, cursor_);  // without grad_o nothing is added
      ptx::mbarrier_wait(&smem_.grad_o_empty[stage], cursor_.phase ^ 1);
      load_queries(&p_.map_grad_o, smem_.grad_o[stage], smem_.delta[stage], p_.num_heads + statistics_row, &smem_.grad_o_full[stage], first_row, head, work);
      if constexpr (Config::kAddsInBulk) {
        load_values(work, v_loaded);  // waits for the last product of the item before
      }
      stored_.end_step(i + 1 < num_steps ? work.visited_step(i + 1) : work.first_stored, work);
      cursor_.advance();
    }
  }

  /// The query tiles of a head's list, in its order.
  template <class AfterStep>
  __device__ __forceinline__ void load_list(const KeyWork& work, int group_head, bool& v_loaded, AfterStep&& after_step) {
    const int head = work.kv_head * p_.group_size + group_head, statistics_row = work.workspace_head + group_head;
    ListedSteps steps(p_, work, group_head);
    stored_.begin_head(static_cast<int>(statistics_row * (p_.padded_rows / Config::kTileQ)));
    VisibleEntry entry = steps.entry(0);
    int state = 0;
#pragma unroll 1
    for (int step = 0; step < steps.end(); ++step) {
      const int first_row = entry.tile() * Config::kTileQ, stage = cursor_.stage;
      ptx::mbarrier_wait(&smem_.q_empty[stage], cursor_.phase ^ 1);
      if (first_lane_) {
        smem_.entry[stage] = static_cast<int>(entry.packed);
      }
      load_queries(&p_.map_q, smem_.q[stage], smem_.shift[stage], statistics_row, &smem_.q_full[stage], first_row, head, work);
      load_values(work, v_loaded);
      if (step == 0) {
        state = stored_.come_to(steps, 0, entry.tile());
      }
      ptx::mbarrier_wait(&smem_.grad_o_empty[stage], cursor_.phase ^ 1);
      stored_.wait_for(steps, step, state, cursor_);
      const int untold = stored_.say(stage, entry.tile(), state);
      load_queries(&p_.map_grad_o, smem_.grad_o[stage], smem_.delta[stage], p_.num_heads + statistics_row, &smem_.grad_o_full[stage], first_row, head, work);
      stored_.tell(untold);
      steps.touch_bits(step, entry);
      cursor_.advance();
      if (step + 1 < steps.end()) {
        entry = steps.entry(step + 1);
        state = stored_.come_to(steps, step + 1, entry.tile());
      }
      if (group_head == p_.group_size - 1) {
        after_step(steps.end() - 1 - step);
      }
    }
  }

  /// v of an item, behind its first q.
  __device__ __forceinline__ void load_values(const KeyWork& work, bool& v_loaded) const {
    if (!v_loaded) {
      wait_for_values();
      const int buffer = value_cursor<Config>(buffer_).stage;
      load_keys(&p_.map_v, smem_.v[buffer], &smem_.v_full[buffer], work);
      v_loaded = true;
    }
  }

  /// kAddsInBulk: until v of the item before has been read for the last time.
  __device__ __forceinline__ void wait_for_values() const {
    if constexpr (Config::kAddsInBulk) {
      ptx::mbarrier_wait(&smem_.v_empty, value_cursor<Config>(buffer_).phase ^ 1);
    }
  }

  /// Loads a tile of k or v.
  __device__ __forceinline__ void load_keys(const CUtensorMap* map, typename SharedStorage::KeyTile& s_tile, uint64_t* full, const KeyWork& work) const {
    if (!first_lane_) {
      return;
    }
    ptx::mbarrier_arrive_expect_tx(full, sizeof(s_tile));
#pragma unroll
    for (int panel = 0; panel < Config::kPanels; ++panel) {
      ptx::tma_load_4d(map, full, s_tile[panel], 64 * panel, work.kv_begin + work.first_key, work.kv_head, work.batch, ptx::L2Hint::kEvictFirst);
    }
  }

  /// Loads a tile of q or grad_o, and tile_q floats beside it. more_bytes: of what else will be loaded for the same barrier.
  __device__ __forceinline__ void load_queries(const CUtensorMap* map, typename SharedStorage::QTile& s_tile, float (&s_statistics)[Config::kTileQ],
                                               int statistics_row, uint64_t* full, int first_row, int head, const KeyWork& work,
                                               uint32_t more_bytes = 0) const {
    if (!first_lane_) {
      return;
    }
    ptx::mbarrier_arrive_expect_tx(full, sizeof(s_tile) + sizeof(s_statistics) + more_bytes);
#pragma unroll
    for (int panel = 0; panel < Config::kPanels; ++panel) {
      ptx::tma_load_4d(map, full, s_tile[panel], 64 * panel, work.q_begin + first_row, head, work.batch, ptx::L2Hint::kEvictLast);
    }
    ptx::tma_load_2d(&p_.map_statistics, full, s_statistics, work.row_begin + first_row, statistics_row);
  }

  /// Loads the bias of a query tile to where its dS will be.
  __device__ __forceinline__ void load_bias(int stage, int first_row, int query_head, const KeyWork& work) const {
    if (!first_lane_) {
      return;
    }
    const PairTensor& bias = p_.scores.bias;
    const int head = bias.heads > 1 ? query_head : 0, batch = bias.batches > 1 ? work.batch : 0;
#pragma unroll
    for (int panel = 0; panel < Config::kWarpgroups; ++panel) {
      ptx::tma_load_4d(&p_.map_bias, &smem_.q_full[stage], smem_.ds[stage][panel], work.first_key + 64 * panel, first_row, head, batch,
                       ptx::L2Hint::kEvictFirst);
    }
  }

  const ModifiedBackwardParams& p_;
  SharedStorage& smem_;
  const bool first_lane_;
  std::conditional_t<Config::Policy::kMask, BegunTiles, StoredTiles<!Config::kAddsInBulk>> stored_;
  RingCursor buffer_;  // of k and v
  RingCursor cursor_;  // of q and grad_o
};

}  // namespace fa::sm90
