// A block's place in its cluster and in the problem.
#pragma once

#include "kernels/sm90/backward/steps.cuh"
#include "kernels/sm90/backward_wide/config.h"
#include "ptx/cluster.cuh"

namespace fa::sm90 {

struct ClusterBlock {
  KeyTile tile;   ///< the cluster's
  int rank;       ///< in the cluster, 0 or 1
  int first_key;  ///< of the block
  int peer_key;   ///< first key of the other block
};

/// A query tile of one head of the group, and its part of the grad_q accumulator.
struct QueryTile {
  int group_head;
  int query_tile;
  float* g_tile = nullptr;
};

/// Key tiles that come to a query tile: the first ones.
template <typename Config>
__device__ __forceinline__ int num_visitors(const BackwardParams& params, int query_tile) {
  const int end_key = (query_tile + 1) * Config::kTileQ + params.causal_offset;
  return params.causal ? min((end_key + Config::kTileKv - 1) / Config::kTileKv, params.order.num_tiles) : params.order.num_tiles;
}

template <typename Config>
__device__ __forceinline__ ClusterBlock cluster_block(const BackwardParams& params) {
  ClusterBlock block;
  block.tile = key_tile<Config>(params);
  block.rank = ptx::cluster_rank();
  block.first_key = block.tile.first_key + block.rank * Config::kBlockKeys;
  block.peer_key = block.tile.first_key + (block.rank ^ 1) * Config::kBlockKeys;
  return block;
}

/// The panel of grad_q's columns that a warpgroup works on: of four panels block 0 takes the first two and block 1 the last two, from the outside in; of three
/// the second warpgroups of both blocks share the middle one.
template <typename Config>
__device__ __forceinline__ int grad_q_panel(int rank, int warpgroup) {
  return rank == 0 ? warpgroup : Config::kPanels - 1 - warpgroup;
}

/// First column of the warpgroup's share, within its panel.
template <typename Config>
__device__ __forceinline__ int grad_q_column(int rank, int warpgroup) {
  return warpgroup == 1 && Config::kGradQColumns1 < 64 ? rank * Config::kGradQColumns1 : 0;
}

}  // namespace fa::sm90
