// The last round of query tiles, shared by all blocks along the keys (plan/sm90_shared_round.h): which parts a block works on, and how the parts of a query
// tile become one.
#pragma once

#include "kernels/sm90/forward/schedule.cuh"
#include "kernels/sm90/forward/softmax.cuh"
#include "ptx/special_registers.cuh"

namespace fa::sm90 {

/// What a block works on of a query tile that is shared; `parts` is at most 1 where a tile is not.
struct TilePart {
  int begin;       ///< first key tile; the end is in the message (work_message)
  int tile;        ///< among the shared ones
  int first_slot;  ///< of the tile's parts
  int part;        ///< which of them
  int parts;

  /// As it travels, if there are several.
  __device__ __forceinline__ int4 message() const { return make_int4(begin, tile, first_slot, part << 16 | parts); }
  /// By the lane that releases q tiles for its warp, as the message of the work tile is read.
  static __device__ __forceinline__ TilePart read(const int4& s_message) {
    int4 message = make_int4(0, 0, 0, 0);
    if (threadIdx.x % 32 == 0) {
      message = s_message;
    }
    return {__shfl_sync(0xFFFFFFFF, message.x, 0), __shfl_sync(0xFFFFFFFF, message.y, 0), __shfl_sync(0xFFFFFFFF, message.z, 0),
            __shfl_sync(0xFFFFFFFF, message.w, 0) >> 16, __shfl_sync(0xFFFFFFFF, message.w, 0) & 0xFFFF};
  }
};

/// Whole tiles in rounds, then this block's one or two parts of the shared ones.
template <typename Config>
class SharedWorkIterator : WorkIterator<Config> {
  using Base = WorkIterator<Config>;

 public:
  __device__ __forceinline__ SharedWorkIterator(const SharedForwardParams& params, int team) : Base(params, team), shared_(params) {}

  __device__ __forceinline__ bool done() const {
    if (shared_.round.tiles == 0) {
      return Base::done();
    }
    return !whole() && first_step() >= end_step();
  }
  using Base::advance;

  __device__ __forceinline__ WorkTile tile() const {
    return whole() ? Base::tile() : Base::tile_of(shared_.whole_rounds * static_cast<int>(gridDim.x) + shared_.by_key_tiles.quotient(first_step()));
  }

  /// Narrows `keys` to this part of them.
  __device__ __forceinline__ TilePart part(KeyTiles& keys) const {
    if (whole()) {
      return {};
    }
    const int first = first_step(), tile = shared_.by_key_tiles.quotient(first), key_tiles = shared_.round.key_tiles, tile_begin = tile * key_tiles;
    keys.begin = first - tile_begin;
    keys.end = min(end_step() - tile_begin, key_tiles);
    const int block = static_cast<int>(blockIdx.x);
    const auto blocks = Sm90SharedRound::blocks_around(block, tile_begin, tile_begin + key_tiles, [&](int other) { return begin(other); });
    return {keys.begin, tile, Sm90SharedRound::slot(blocks.begin, tile), block - blocks.begin, blocks.end - blocks.begin};
  }

 private:
  __device__ __forceinline__ bool whole() const { return shared_.round.tiles == 0 || Base::count_ < shared_.whole_rounds; }
  __device__ __forceinline__ int begin(int block) const {
    return shared_.round.begin(
        block, [&](int n) { return shared_.by_sharers.quotient(n); }, [&](int n) { return shared_.by_key_tiles.quotient(n); });
  }
  __device__ __forceinline__ int end_step() const {
    const int block = static_cast<int>(blockIdx.x);
    return block < shared_.round.sharers ? begin(block + 1) : 0;
  }
  /// Of the part at hand: the second one begins with a tile.
  __device__ __forceinline__ int first_step() const {
    const int first = begin(static_cast<int>(blockIdx.x)), nth = Base::count_ - shared_.whole_rounds;
    return nth == 0 ? first : (shared_.by_key_tiles.quotient(first) + nth) * shared_.round.key_tiles;
  }

  const SharedForwardParams& shared_;
};

/// Each warp by itself, with its 16 rows of a query tile. Of a shared tile it leaves its part in the workspace, and the warp that comes last reads all of them,
/// in their order, so that results do not depend on who that is. True if rows and o are those of the whole tile.
template <typename Config>
__device__ __forceinline__ bool join_parts(const SharedForwardParams& params, const TilePart& part, RowState& rows, float (&o)[Config::kOutputs]) {
  if (part.parts <= 1) {
    return true;
  }
  constexpr int kThreads = 128 * Config::kWarpgroups, kQuads = Config::kOutputs / 4, kSlot = (kQuads + 1) * kThreads;
  const int thread = ptx::thread_index_anew();
  float4* g_parts = params.parts + static_cast<int64_t>(part.first_slot) * kSlot + thread;
  float4* g_own = g_parts + part.part * kSlot;
#pragma unroll
  for (int i = 0; i < kQuads; ++i) {
    __stcg(g_own + i * kThreads, make_float4(o[4 * i], o[4 * i + 1], o[4 * i + 2], o[4 * i + 3]));
  }
  __stcg(g_own + kQuads * kThreads, make_float4(rows.reference[0], rows.reference[1], rows.sum[0], rows.sum[1]));
  __threadfence();
  __syncwarp();
  int before = 0;
  if (thread % 32 == 0) {
    before = atomicAdd(params.arrivals + part.tile * (kThreads / 32) + thread / 32, 1);
    __threadfence();
  }
  if (__shfl_sync(0xFFFFFFFF, before, 0) != part.parts - 1) {
    return false;
  }
  float maximum[2] = {kMinusInfinity, kMinusInfinity};
#pragma unroll 1
  for (int i = 0; i < part.parts; ++i) {
    const float4 state = __ldcg(g_parts + i * kSlot + kQuads * kThreads);
    maximum[0] = fmaxf(maximum[0], state.x);
    maximum[1] = fmaxf(maximum[1], state.y);
  }
  // In pieces, since what is read takes as many registers as what it is added to.
  constexpr int kPiece = kQuads < 16 ? kQuads : 16;
#pragma unroll
  for (int begin = 0; begin < kQuads; begin += kPiece) {
    rows.sum[0] = rows.sum[1] = 0.0f;
#pragma unroll
    for (int j = begin; j < begin + kPiece; ++j) {
      o[4 * j] = o[4 * j + 1] = o[4 * j + 2] = o[4 * j + 3] = 0.0f;
    }
#pragma unroll 1
    for (int i = 0; i < part.parts; ++i) {
      const float4* g_part = g_parts + i * kSlot;
      const float4 state = __ldcg(g_part + kQuads * kThreads);
      // As in move_reference: rows that have seen nothing but -infinity weigh nothing.
      const float weight[2] = {ptx::exp2_approx((state.x - (maximum[0] == kMinusInfinity ? 0.0f : maximum[0])) * params.scale_log2),
                               ptx::exp2_approx((state.y - (maximum[1] == kMinusInfinity ? 0.0f : maximum[1])) * params.scale_log2)};
      rows.sum[0] = fmaf(weight[0], state.z, rows.sum[0]);
      rows.sum[1] = fmaf(weight[1], state.w, rows.sum[1]);
#pragma unroll
      for (int j = begin; j < begin + kPiece; ++j) {
        const float4 values = __ldcg(g_part + j * kThreads);
        o[4 * j] = fmaf(weight[0], values.x, o[4 * j]);
        o[4 * j + 1] = fmaf(weight[0], values.y, o[4 * j + 1]);
        o[4 * j + 2] = fmaf(weight[1], values.z, o[4 * j + 2]);
        o[4 * j + 3] = fmaf(weight[1], values.w, o[4 * j + 3]);
      }
    }
  }
  rows.reference[0] = maximum[0];
  rows.reference[1] = maximum[1];
  return true;
}

template <typename Config>
__device__ __forceinline__ bool join_parts(const ForwardParams&, const TilePart&, RowState&, float (&)[Config::kOutputs]) {
  return true;
}

}  // namespace fa::sm90
