// Which key tile a block works on, and which query tiles that needs. Producer and consumers walk the same sequence: for every query head of the group, the
// query tiles from the first that sees a key of the block's tile.
#pragma once

#include "kernels/sm90/backward/params.h"

namespace fa::sm90 {

struct KeyTile {
  int batch;
  int kv_head;
  int first_key;
  int first_step;  ///< first query tile that sees the first key; may lie behind the last
  int end_masked;  ///< query tiles before this one need the mask
  int first_head;  ///< first query head of the group, counted through all batches
};

/// First query tile that sees a key of a tile, which may lie behind the last. Under the causal mask.
template <typename Config>
__device__ __forceinline__ int first_causal_step(const BackwardParams& params, int first_key) {
  return min(max(0, first_key - params.causal_offset) / Config::kTileQ, params.num_q_tiles);
}

template <typename Config>
__device__ __forceinline__ KeyTile key_tile(const BackwardParams& params) {
  const TileOrder::Work work = params.order.work(blockIdx.x / Config::kClusterSize);
  KeyTile tile;
  tile.batch = work.head / params.heads_kv;
  tile.kv_head = work.head - tile.batch * params.heads_kv;
  tile.first_key = work.tile * Config::kTileKv;
  tile.first_step = 0;
  tile.end_masked = 0;
  if (params.causal) {
    tile.first_step = first_causal_step<Config>(params, tile.first_key);
    const int first_full_row = max(0, tile.first_key + Config::kTileKv - 1 - params.causal_offset);
    tile.end_masked = min((first_full_row + Config::kTileQ - 1) / Config::kTileQ, params.num_q_tiles);
  }
  if (tile.first_key + Config::kTileKv > params.visible_len_kv) {
    tile.end_masked = params.num_q_tiles;
  }
  tile.first_head = work.head * params.group_size;
  return tile;
}

/// A row's index in the workspace.
__device__ __forceinline__ int64_t workspace_row(const BackwardParams& params, const KeyTile& tile, int group_head, int row) {
  return static_cast<int64_t>(tile.first_head + group_head) * params.padded_rows + row;
}

/// Position in the rings of kStages buffers, and the parity of the barrier phase that the current round completes.
template <int kStages>
struct StepCursor {
  int stage = 0;
  uint32_t phase = 0;

  __device__ __forceinline__ void advance() {
    if (++stage == kStages) {
      stage = 0;
      phase ^= 1;
    }
  }
};

}  // namespace fa::sm90
