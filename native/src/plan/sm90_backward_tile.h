// A tile configuration of the Hopper backward kernels, and what follows from it. The configurations there are: sm90_backward_tiles.h.
#pragma once

#include <cstdint>

namespace fa {

struct Sm90BackwardTile {
  int head_dim;  ///< columns of all tiles in shared memory; smaller head dims are padded with zeros
  int tile_q;    ///< query rows per step
  /// True: key tiles are added to grad_q in a fixed order. In the wide kernel in the order of their keys, the first begins the sum and the last rounds it;
  /// otherwise, with first_tile_stores, from the last key tile to the first, and query tiles from the first to the last.
  bool deterministic;
  int64_t min_len_q;  ///< chosen for at least so many queries
  /// A deterministic tile also serves calls that ask for no order, where it is faster: those of any_order_min … any_order_max queries, at most as many keys and
  /// at least any_order_heads key heads, since few would wait for each other's turns.
  int64_t any_order_min = 1;
  int64_t any_order_max = 0;
  int64_t any_order_heads = 1;
  /// Not in the wide kernel: the first key tile stores its part of grad_q, and the others wait for that before they add theirs, so that nothing need be
  /// cleared; query tiles from the last to the first. Deterministic: the last key tile that sees a query tile stores, and each waits for the one behind it.
  bool first_tile_stores = false;
  /// With first_tile_stores: blocks also round grad_q of heads that are complete by then, all but those of the last sections (plan/sm90_backward_order.h).
  bool finishes_earlier_heads = false;
  /// With those two: parts of grad_q go through shared memory, and a thread of the producer warpgroup adds, or in turns stores, both of a step in one piece;
  /// otherwise the threads that have computed them add them from their registers. Statistics are loaded, and parts announced, such that no step waits for
  /// shared memory; in any order nobody stores then, and the accumulator is cleared.
  bool adds_in_bulk = false;
  /// With any_order_max: without a mask only up to so many queries and keys; 0: the same.
  int64_t any_order_full_max = 0;

  static constexpr int kWarpgroups = 2;  ///< consumer warpgroups, each with 64 keys; in the wide kernel both with the 64 keys of their block
  static constexpr int kStages = 2;      ///< tiles of q and of grad_o in flight, and of dS
  static constexpr int kCluster = 2;     ///< blocks that share a tile of keys, if any do
  constexpr int tile_kv() const { return 64 * kWarpgroups; }
  /// A head's rows are padded to a multiple of this.
  static constexpr int64_t row_padding() { return 128; }
  constexpr int threads() const { return 128 * (1 + kWarpgroups); }
  constexpr int consumer_registers() const { return is_wide() || finishes_earlier_heads ? 232 : 240; }
  constexpr int producer_registers() const { return is_wide() || finishes_earlier_heads ? 40 : 24; }
  constexpr int64_t q_tile_bytes() const { return int64_t{2} * tile_q * head_dim; }
  constexpr int64_t kv_tile_bytes() const { return int64_t{2} * tile_kv() * head_dim; }
  constexpr int64_t score_tile_bytes() const { return int64_t{2} * tile_q * tile_kv(); }
  /// The main kernel begins the sums of grad_q by itself, and rounds them when they are complete.
  constexpr bool finishes_grad_q() const { return deterministic && is_wide(); }

  // The wide kernel (src/kernels/sm90/backward_wide), for more than 128 columns: a cluster of two blocks shares a tile of keys, each with 64 of them.
  constexpr bool is_wide() const { return head_dim > 128; }
  constexpr bool from_last_query_tile() const { return !from_last_key_tile() && (is_wide() || first_tile_stores); }
  /// Key tiles are launched, and added, from the last to the first: under the causal mask each comes to a query tile a tile of keys later than the one behind
  /// it, without having waited.
  constexpr bool from_last_key_tile() const { return deterministic && !is_wide(); }
  constexpr bool turns_in_bulk() const { return from_last_key_tile() && adds_in_bulk; }
  /// Threads that add in bulk. In turns one has to see its addition complete, and publish that, before its next: two, each for every other step.
  constexpr int adders() const { return adds_in_bulk && deterministic ? 2 : 1; }
  /// The accumulator is cleared for the heads of the first two sections by the pass in front, for later ones by blocks of the main kernel two sections before.
  constexpr bool clears_later_heads() const { return adds_in_bulk && !deterministic; }
  /// The accumulator need not be cleared: whoever comes to a query tile first stores.
  constexpr bool begins_grad_q() const { return finishes_grad_q() || (first_tile_stores && !clears_later_heads()); }
  constexpr int blocks_per_tile() const { return is_wide() ? kCluster : 1; }
  /// grad_o comes in parts of whole 64-column panels, each with a barrier of its own, where two whole tiles do not fit.
  constexpr int grad_o_parts() const { return head_dim == 256 ? 2 : 1; }
  constexpr int grad_o_slots() const { return head_dim == 256 ? 3 : 2; }
  /// Tiles of dS, of the block's own and of the other block's.
  constexpr int ds_stages() const { return head_dim == 256 ? 1 : 2; }
  static constexpr int64_t kPBytes = int64_t{4} * 64 * 64;
  static constexpr int64_t kDsBytes = int64_t{2} * 64 * 64;
  /// Two panels of the other block's keys.
  static constexpr int64_t peer_k_bytes() { return int64_t{2} * 2 * 64 * 64; }
  /// Rows of the boxes by which TMA loads q and grad_o (the wide kernel: half a tile per block, for both), k and v.
  constexpr int q_box_rows() const { return is_wide() ? tile_q / kCluster : tile_q; }
  constexpr int kv_box_rows() const { return tile_kv() / blocks_per_tile(); }

  /// Per stage a row of log-sum-exp and one of delta, then barriers; sizes are multiples of the 1024 bytes that tiles are aligned to.
  static constexpr int64_t kTailBytes = 3072;
  constexpr int64_t shared_memory_bytes() const {
    if (is_wide()) {
      return 2 * kv_tile_bytes() / kCluster + peer_k_bytes() + kStages * q_tile_bytes() + grad_o_slots() * q_tile_bytes() / grad_o_parts() + kPBytes +
             2 * ds_stages() * kDsBytes + kTailBytes;
    }
    const int64_t grad_q_bytes = adds_in_bulk ? int64_t{4} * tile_q * head_dim * kStages : 0;
    return 2 * kv_tile_bytes() + kStages * (2 * q_tile_bytes() + score_tile_bytes()) + grad_q_bytes + kTailBytes;
  }
};

}  // namespace fa
