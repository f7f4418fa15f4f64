// The producer warpgroup, a thread per role: one brings k, v and the other block's k, and keeps the stages of q and grad_o full; one exchanges dS with the
// other block; two keep the order of additions to grad_q.
#pragma once

#include "kernels/sm90/backward/producer.cuh"
#include "kernels/sm90/backward/steps.cuh"
#include "kernels/sm90/backward_pair/block.cuh"
#include "kernels/sm90/backward_pair/config.h"
#include "ptx/cluster.cuh"
#include "ptx/mbarrier.cuh"
#include "ptx/reduce.cuh"
#include "ptx/tma.cuh"

namespace fa::sm90 {

template <typename Config>
class PairProducer {
  using SharedStorage = typename Config::SharedStorage;

 public:
  __device__ __forceinline__ PairProducer(const BackwardParams& params, SharedStorage& smem)
      : params_(params), smem_(smem), block_(pair_block<Config>(params)) {}

  __device__ __forceinline__ void load() {
    load_keys(&params_.map_k, smem_.k, &smem_.k_full, block_.first_key);
    bool keys_loaded = false;
    uint32_t phase = 0;
    StepCursor<Config::kQStages> q_cursor;
    for (int group_head = 0; group_head < params_.group_size; ++group_head) {
      const int head = block_.kv_head * params_.group_size + group_head, flat_head = block_.first_head + group_head;
#pragma unroll 1
      for (int pair = block_.end_pair - 1; pair >= block_.first_pair; --pair) {
#pragma unroll 1
        for (int stage = 0; stage < Config::kStages; ++stage) {
          const int first_row = block_.query_tile(pair, stage) * Config::kTileQ;
          load_query_tile<Config>(&params_.map_q, smem_.q[q_cursor.stage], &params_.map_statistics, smem_.lse_log2[q_cursor.stage], flat_head,
                                  &smem_.q_full[q_cursor.stage], &smem_.q_empty[q_cursor.stage], q_cursor.phase, first_row, head, block_.batch);
          q_cursor.advance();
          if (!keys_loaded) {
            load_keys(&params_.map_v, smem_.v, &smem_.v_full, block_.first_key);
          }
          load_query_tile<Config>(&params_.map_grad_o, smem_.grad_o[stage], &params_.map_statistics, smem_.delta[stage],
                                  params_.order.num_heads * params_.group_size + flat_head, &smem_.grad_o_full[stage], &smem_.grad_o_empty[stage], phase,
                                  first_row, head, block_.batch);
          if (!keys_loaded) {
            load_keys(&params_.map_k, smem_.peer_k, &smem_.peer_k_full, block_.peer_key);
            keys_loaded = true;
          }
        }
        phase ^= 1;
      }
    }
    if (!keys_loaded) {
      load_keys(&params_.map_v, smem_.v, &smem_.v_full, block_.first_key);
      load_keys(&params_.map_k, smem_.peer_k, &smem_.peer_k_full, block_.peer_key);
    }
  }

  /// Copies sent_ds, as soon as it is written, to the other block's peer_ds, as soon as that may be overwritten; and tells the other block that its copy has
  /// arrived, since only here is that known.
  __device__ __forceinline__ void exchange() {
    const int peer = block_.rank ^ 1, pairs = num_pairs();
    const uint32_t s_peer_full = ptx::cluster_address(&smem_.peer_full, peer), s_peer_ds = ptx::cluster_address(&smem_.peer_ds, peer);
    const uint32_t s_sent_empty = ptx::cluster_address(&smem_.sent_empty, peer);
#pragma unroll 1
    for (int i = 0; i < pairs; ++i) {
      if (i > 0) {
        ptx::mbarrier_wait(&smem_.peer_full, (i - 1) & 1);
        ptx::mbarrier_arrive_cluster(s_sent_empty);
      }
      ptx::mbarrier_wait(&smem_.sent_full, i & 1);
      ptx::mbarrier_wait(&smem_.peer_empty, i & 1);
      ptx::mbarrier_arrive_expect_tx_cluster(s_peer_full, sizeof(smem_.sent_ds));
      ptx::bulk_copy_cluster(s_peer_ds, &smem_.sent_ds, sizeof(smem_.sent_ds), s_peer_full);
    }
  }

  /// Lets the consumers add to a query tile when the key tiles in front have been added. Nobody waits for a block of the grid behind its own: key tiles are
  /// launched in the order in which they are added.
  __device__ __forceinline__ void open() {
    const int wanted = block_.first_key / Config::kClusterKeys;
    uint32_t phase = 0;
    for_each_counter([&](int* g_counter) {
      while (wanted > 0 && ptx::load_acquire(g_counter) < wanted) {
      }
      ptx::mbarrier_arrive(&smem_.grad_q_open);
      ptx::mbarrier_wait(&smem_.grad_q_open, phase);  // or the next arrival might count for this tile
      phase ^= 1;
    });
  }

  /// Counts the additions. Its arrival at grad_q_open says that it has seen the additions before, and will not miss a phase.
  __device__ __forceinline__ void count() {
    uint32_t phase = 0;
    for_each_counter([&](int* g_counter) {
      ptx::mbarrier_arrive(&smem_.grad_q_open);
      ptx::mbarrier_wait(&smem_.grad_q_added, phase);
      ptx::increment_release(g_counter);
      phase ^= 1;
    });
  }

 private:
  /// Calls body(counter) for the own query tile of each pair.
  template <typename Body>
  __device__ __forceinline__ void for_each_counter(const Body& body) {
    const int tiles = static_cast<int>(params_.padded_rows / Config::kTileQ);
#pragma unroll 1
    for (int group_head = 0; group_head < params_.group_size; ++group_head) {
#pragma unroll 1
      for (int pair = block_.end_pair - 1; pair >= block_.first_pair; --pair) {
        body(params_.grad_q_counters + static_cast<int64_t>(block_.first_head + group_head) * tiles + block_.query_tile(pair, 1));
      }
    }
  }

  __device__ __forceinline__ int num_pairs() const {
    return params_.group_size * (block_.end_pair - block_.first_pair);
  }

  __device__ __forceinline__ void load_keys(const CUtensorMap* map, typename SharedStorage::KeyRows& s_tile, uint64_t* full, int first_key) {
    ptx::mbarrier_arrive_expect_tx(full, sizeof(s_tile));
#pragma unroll
    for (int panel = 0; panel < Config::kPanels; ++panel) {
      ptx::tma_load_4d(map, full, s_tile[panel], 64 * panel, first_key, block_.kv_head, block_.batch, ptx::L2Hint::kEvictFirst);
    }
  }

  const BackwardParams& params_;
  SharedStorage& smem_;
  const PairBlock block_;
};

}  // namespace fa::sm90
