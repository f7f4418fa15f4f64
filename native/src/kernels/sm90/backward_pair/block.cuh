// A block's place in its cluster and in the problem. All roles of both blocks walk the same sequence: for every query head of the group, pairs of query tiles
// from the first that sees a key of the cluster.
#pragma once

#include "kernels/sm90/backward/params.h"

namespace fa::sm90 {

struct PairBlock {
  int rank;  ///< in the cluster, 0 or 1
  int batch;
  int kv_head;
  int first_key;   ///< of the block
  int peer_key;    ///< first key of the other block
  int first_pair;  ///< may lie behind the last
  int end_masked;  ///< pairs before this one need the mask
  int end_pair;
  int end_complete;  ///< to pairs before this one no cluster behind comes
  int first_head;    ///< first query head of the group, counted through all batches

  /// The query tile of a pair that a stage holds: 0 the other block's, 1 the own.
  __device__ __forceinline__ int query_tile(int pair, int stage) const { return 2 * pair + (rank ^ 1 ^ stage); }
};

template <typename Config>
__device__ __forceinline__ PairBlock pair_block(const BackwardParams& params) {
  constexpr int kRows = 2 * Config::kTileQ;
  PairBlock b;
  b.rank = static_cast<int>(blockIdx.x) % Config::kClusterSize;
  const TileOrder::Work work = params.order.work(blockIdx.x / Config::kClusterSize);
  b.batch = work.head / params.heads_kv;
  b.kv_head = work.head - b.batch * params.heads_kv;
  const int first_cluster_key = work.tile * Config::kClusterKeys;
  b.first_key = first_cluster_key + b.rank * Config::kTileKv;
  b.peer_key = first_cluster_key + (b.rank ^ 1) * Config::kTileKv;
  b.end_pair = (params.len_q + kRows - 1) / kRows;
  b.first_pair = 0;
  b.end_masked = 0;
  if (params.causal) {
    b.first_pair = min(max(0, first_cluster_key - params.causal_offset) / kRows, b.end_pair);
    const int first_full_row = max(0, b.first_key + Config::kTileKv - 1 - params.causal_offset);
    b.end_masked = min((first_full_row + kRows - 1) / kRows, b.end_pair);
  }
  if (work.tile == params.order.num_tiles - 1) {
    b.end_complete = b.end_pair;
  } else {
    b.end_complete = params.causal ? min(max(0, first_cluster_key + Config::kClusterKeys - params.causal_offset) / kRows, b.end_pair) : 0;
  }
  if (b.first_key + Config::kTileKv > params.visible_len_kv) {
    b.end_masked = b.end_pair;
  }
  b.first_head = work.head * params.group_size;
  return b;
}

}  // namespace fa::sm90
