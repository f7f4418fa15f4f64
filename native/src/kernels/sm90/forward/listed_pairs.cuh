// The test of single pairs in a key tile of a list (attention/visible_tiles.h): what a consumer warpgroup does where masks hide some pairs of its 64 rows.
#pragma once

#include "kernels/sm90/forward/modified_scores.cuh"
#include "ptx/shared_load.cuh"

namespace fa::sm90 {

/// What the producer says of a key tile with its k: the list's entry, and the unit of the tile's first 64 rows.
__device__ __forceinline__ int4 listed_message(const VisibleEntry& entry, int unit) {
  return make_int4(static_cast<int>(entry.packed), unit, 0, 0);
}

/// Without lists of tiles, nothing.
template <typename Config, bool kMask = Config::Scores::kMask>
class ListedPairs {
 public:
  template <typename... Anything>
  __device__ __forceinline__ void read(const Anything&...) {}
};

template <typename Config>
class ListedPairs<Config, true> {
 public:
  /// Before the products, since the bits are asked for here and needed only behind them. The lane that releases k reads the message, so that its arrival orders
  /// the read for all. mixed: the tile is one of those in which pairs are tested.
  __device__ __forceinline__ void read(const MaskedForwardParams& params, typename Config::SharedStorage& smem, int stage, int warpgroup, bool mixed) {
    if (!mixed) {
      return;
    }
    const int4 message = ptx::load_shared_by_first_lane(&smem.list.messages[stage]);
    entry_.packed = static_cast<uint32_t>(__shfl_sync(0xFFFFFFFF, message.x, 0));
    unit_ = __shfl_sync(0xFFFFFFFF, message.y, 0);
    const int state = entry_.state(warpgroup);
    bits_.x = bits_.y = state == kVisibleAll ? 0xFFFFFFFFu : 0u;
    if (state == kVisibleSome) {
      const VisibleTiles& tiles = params.visible_tiles;
      const int thread = ptx::thread_index_anew() % 128, place = thread / 32 * 64 + thread % 32 * 2;
      bits_ = __ldg(reinterpret_cast<const uint2*>(tiles.unit_bits(unit_ + warpgroup * tiles.key_units) + place));
    }
  }

  /// Whether the masks hide the tile from all rows of the warpgroup.
  __device__ __forceinline__ bool hidden(int warpgroup) const { return entry_.state(warpgroup) == kVisibleNone; }

  /// Hides what the range and the masks hide. first_row: the warpgroup's; row: the thread's.
  template <int kNum>
  __device__ __forceinline__ void hide(float (&s)[kNum], const MaskedForwardParams& params, const SequenceWorkTile& tile, int first_row, int row) const {
    if (entry_.ranged()) {
      const ScoreModifier<Config> modifier(params, tile, 0.0f);
      modifier.mask(s, first_row, row, entry_.tile() * Config::kTileKv);
    }
#pragma unroll
    for (int i = 0; i < kNum; ++i) {
      const uint32_t bits = fragment_row(i) == 0 ? bits_.x : bits_.y;
      s[i] = (bits >> ((i >> 2) * 2 + (i & 1)) & 1u) != 0 ? s[i] : kMinusInfinity;
    }
  }

 private:
  VisibleEntry entry_;
  int unit_;
  uint2 bits_;  ///< of the thread's two rows
};

}  // namespace fa::sm90
