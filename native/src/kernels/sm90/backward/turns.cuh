// Deterministic mode: key tiles add to grad_q from the last to the first. A word per key tile says how many steps it has added, over all query heads of the
// group; it has one writer, or there are two words with one each, for every other step. Each block waits for the word of the key tile behind its own: where it
// adds in bulk, the threads that do (bulk_additions.cuh), otherwise the loading thread, with grad_o of a query tile, without which there is nothing to add.
//
// Nobody waits for a block of the grid behind its own: key tiles are launched in the order in which they are added. Under the causal mask a block begins where
// its key tile does, a tile of keys in front of the one behind it, and so meets no query tile in which it would have to wait long.
#pragma once

#include <cstdint>

#include "kernels/sm90/backward/steps.cuh"
#include "ptx/fence_proxy.cuh"
#include "ptx/ldmatrix.cuh"
#include "ptx/reduce.cuh"

namespace fa::sm90 {

/// The query tiles of each head in front of this one a key tile begins: no key tile behind it sees them.
template <typename Config>
__device__ __forceinline__ int end_begun(const BackwardParams& params, const KeyTile& tile) {
  const int next_key = tile.first_key + Config::kTileKv;
  if (next_key >= params.order.num_tiles * Config::kTileKv) {
    return params.num_q_tiles;
  }
  return params.causal ? first_causal_step<Config>(params, next_key) : 0;
}

/// One word for each of the key tile's adders: of every Config::kAdders steps, one.
template <typename Config>
__device__ __forceinline__ int* added_steps_words(const BackwardParams& params, const KeyTile& tile) {
  return params.grad_q_counters +
         ((tile.batch * params.heads_kv + tile.kv_head) * static_cast<int64_t>(params.order.num_tiles) + tile.first_key / Config::kTileKv) * Config::kAdders;
}

/// What a thread knows of the key tile behind, and the loading thread's part where consumers add from their registers.
template <typename Config>
class Turns {
 public:
  __device__ __forceinline__ Turns(const BackwardParams& params, typename Config::SharedStorage& smem, const KeyTile& tile)
      : s_steps_added_(ptx::shared_address(&smem.steps_added)),
        g_next_(added_steps_words<Config>(params, tile) + Config::kAdders),
        next_first_(end_begun<Config>(params, tile)),
        next_steps_(params.num_q_tiles - next_first_) {}

  /// Behind the wait for a free buffer of q, once per load and kStages times more: the step that used the buffer has added its part.
  __device__ __forceinline__ void report() {
    if (++loads_ > Config::kStages) {
      ptx::raise_release_shared(s_steps_added_, loads_ - Config::kStages);
    }
  }

  /// Whether the key tile behind has added its part of a query tile, by a look at its word unless that is known.
  __device__ __forceinline__ bool has_come(int group_head, int query_tile) {
    const int step = group_head * next_steps_ + query_tile - next_first_, word = step % Config::kAdders;
    if (query_tile < next_first_) {
      return true;
    }
    int added = word == 0 ? next_added_[0] : next_added_[Config::kAdders - 1];
    const int wanted = step / Config::kAdders + 1;
    if (added < wanted) {
      added = ptx::load_acquire(g_next_ + word);
      if constexpr (Config::kAddsInBulk) {
        ptx::fence_proxy_async_global();  // additions come by the asynchronous proxy
      }
      next_added_[0] = word == 0 ? added : next_added_[0];
      next_added_[Config::kAdders - 1] = word == Config::kAdders - 1 ? added : next_added_[Config::kAdders - 1];
    }
    return added >= wanted;
  }

 private:
  static_assert(Config::kAdders <= 2, "words");
  const uint32_t s_steps_added_;
  const int* const g_next_;  // read only where a key tile behind sees the query tile
  const int next_first_;
  const int next_steps_;
  int next_added_[Config::kAdders] = {};
  int loads_ = 0;
};

/// Not in bulk: publishes the steps that the loading thread reports. Runs in another thread, since a release for the device takes about a microsecond; whoever
/// falls behind publishes several at a time.
template <typename Config>
__device__ __forceinline__ void publish_added_steps(const BackwardParams& params, typename Config::SharedStorage& smem) {
  const KeyTile tile = key_tile<Config>(params);
  if (tile.first_key == 0) {
    return;
  }
  int* g_word = added_steps_words<Config>(params, tile);
  const uint32_t s_steps_added = ptx::shared_address(&smem.steps_added);
  const int steps = params.group_size * (params.num_q_tiles - tile.first_step);
  for (int published = 0; published < steps;) {
    const int added = ptx::load_acquire_shared(s_steps_added);
    if (added > published) {
      ptx::store_release(g_word, added);
      published = added;
    } else {
      __nanosleep(40);
    }
  }
}

}  // namespace fa::sm90
