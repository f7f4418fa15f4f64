#include <algorithm>

#include "kernels/sm90/backward/launch.h"
#include "kernels/sm90/backward/repair_tensors.h"
#include "kernels/sm90/tensor_map.h"

namespace fa::sm90 {

namespace {

int64_t visible_len_kv_of(const Problem& problem) {
  return problem.is_causal() ? std::clamp<int64_t>(problem.len_q + problem.causal_offset(), 0, problem.len_kv) : problem.len_kv;
}

/// Rows in front of the first query tile that the main kernel comes to: they see no key.
int unseen_rows_of(const Sm90BackwardTile& tile, const Problem& problem) {
  if (problem.len_kv == 0) {
    return static_cast<int>(problem.len_q);
  }
  return problem.is_causal() ? static_cast<int>(std::max<int64_t>(-problem.causal_offset(), 0) / tile.tile_q * tile.tile_q) : 0;
}

Sm90BackwardWorkspace workspace_of(const Sm90BackwardTile& tile, const Problem& problem) {
  return sm90_backward_workspace(tile, problem);
}

float* workspace_part(const BackwardArgs& args, uint64_t offset_bytes) {
  return reinterpret_cast<float*>(static_cast<char*>(args.workspace) + offset_bytes);
}

/// The order of blocks, and which finish heads that are complete.
void set_order(const Sm90BackwardTile& tile, const BackwardArgs& args, BackwardParams* params) {
  const Problem& problem = args.problem;
  const Sm90BackwardOrder order = sm90_backward_order(tile, problem);
  const int key_heads = static_cast<int>(problem.batch * problem.heads_kv);
  params->order.num_tiles = static_cast<int>((problem.len_kv + tile.tile_kv() - 1) / tile.tile_kv());
  params->order.num_heads = key_heads;
  params->order.section_heads = static_cast<int>(order.section_heads);
  params->order.last_first = tile.from_last_key_tile();
  params->tiles_done = params->grad_q_counters + (tile.from_last_key_tile() ? problem.batch * problem.heads_kv * params->order.num_tiles * tile.adders()
                                                                            : problem.batch * problem.heads_q);
  params->finish_distance = key_heads - static_cast<int>(order.finished_heads);
  params->unseen_rows = unseen_rows_of(tile, problem);
}

}  // namespace

BackwardParams make_backward_params(const Sm90BackwardTile& tile, const BackwardArgs& args) {
  const Problem& problem = args.problem;
  const int64_t visible_len = visible_len_kv_of(problem);
  const TensorShape q_shape{problem.batch, problem.len_q, problem.heads_q, problem.head_dim};
  const TensorShape o_shape{problem.batch, problem.len_q, problem.heads_q, problem.head_dim_v};
  const TensorShape k_shape{problem.batch, problem.len_kv, problem.heads_kv, problem.head_dim};
  const TensorShape v_shape{problem.batch, problem.len_kv, problem.heads_kv, problem.head_dim_v};
  const TensorShape visible_k_shape{problem.batch, std::max<int64_t>(visible_len, 1), problem.heads_kv, problem.head_dim};
  const TensorShape visible_v_shape{problem.batch, std::max<int64_t>(visible_len, 1), problem.heads_kv, problem.head_dim_v};
  // Without queries nothing is loaded, but a map must describe something: k's memory stands in.
  const bool has_queries = problem.len_q > 0;

  BackwardParams params{};
  params.map_q = encode_tensor_map(has_queries ? args.q : args.k, has_queries ? q_shape : k_shape, problem.dtype, tile.q_box_rows(), "params.q");
  params.map_grad_o = encode_tensor_map(has_queries ? args.grad_o : args.k, has_queries ? o_shape : k_shape, problem.dtype, tile.q_box_rows(), "params.grad_o");
  params.map_k = encode_tensor_map(args.k, visible_k_shape, problem.dtype, tile.kv_box_rows(), "params.k");
  params.map_v = encode_tensor_map(args.v, visible_v_shape, problem.dtype, tile.kv_box_rows(), "params.v");
  params.map_grad_k = encode_tensor_map(args.grad_k, k_shape, problem.dtype, 64, "params.grad_k");
  params.map_grad_v = encode_tensor_map(args.grad_v, v_shape, problem.dtype, 64, "params.grad_v");

  const Sm90BackwardWorkspace workspace = workspace_of(tile, problem);
  params.lse_log2 = workspace_part(args, 0);
  params.delta = workspace_part(args, workspace.delta_offset_bytes);
  params.grad_q_accumulator = workspace_part(args, workspace.grad_q_offset_bytes);
  params.grad_q_counters = reinterpret_cast<int*>(workspace_part(args, workspace.counters_offset_bytes));
  params.repair_flags = reinterpret_cast<int*>(workspace_part(args, workspace.flags_offset_bytes));
  params.padded_rows = workspace.padded_rows;
  if (has_queries) {
    params.map_statistics = encode_float_map(params.lse_log2, 2 * problem.batch * problem.heads_q, workspace.padded_rows, 1, tile.tile_q, "params.workspace");
  } else {
    params.map_statistics = encode_float_map(static_cast<const float*>(args.k.data), 1, 4, 1, 4, "params.k");
  }
  params.len_q = static_cast<int>(problem.len_q);
  params.len_kv = static_cast<int>(problem.len_kv);
  params.visible_len_kv = static_cast<int>(visible_len);
  params.heads_q = static_cast<int>(problem.heads_q);
  params.heads_kv = static_cast<int>(problem.heads_kv);
  params.group_size = static_cast<int>(problem.group_size());
  params.causal_offset = static_cast<int>(problem.causal_offset());
  params.causal = problem.is_causal();
  params.scale = problem.scale;
  params.scale_log2 = problem.scale * 1.4426950408889634f;
  params.num_q_tiles = static_cast<int>((problem.len_q + tile.tile_q - 1) / tile.tile_q);

  set_order(tile, args, &params);

  params.grad_q = static_cast<uint16_t*>(args.grad_q.data);
  params.grad_q_strides = args.grad_q.strides;
  params.head_dim = static_cast<int>(problem.head_dim);
  return params;
}

BackwardPassParams make_backward_pass_params(const Sm90BackwardTile& tile, const BackwardArgs& args) {
  const Problem& problem = args.problem;
  const Sm90BackwardWorkspace workspace = workspace_of(tile, problem);
  BackwardPassParams params{};
  params.o = static_cast<const uint16_t*>(args.o.data);
  params.grad_o = static_cast<const uint16_t*>(args.grad_o.data);
  params.grad_q = static_cast<uint16_t*>(args.grad_q.data);
  params.lse = args.lse;
  params.grad_lse = args.grad_lse;
  params.o_strides = args.o.strides;
  params.grad_o_strides = args.grad_o.strides;
  params.grad_q_strides = args.grad_q.strides;
  params.lse_log2 = workspace_part(args, 0);
  params.delta = workspace_part(args, workspace.delta_offset_bytes);
  params.grad_q_accumulator = workspace_part(args, workspace.grad_q_offset_bytes);
  params.padded_rows = workspace.padded_rows;
  params.num_rows = problem.batch * problem.heads_q * workspace.padded_rows;
  const int64_t finished_heads = sm90_backward_order(tile, problem).finished_heads;
  params.clear_rows = tile.begins_grad_q()        ? 0
                      : tile.clears_later_heads() ? (problem.batch * problem.heads_kv - finished_heads) * problem.group_size() * workspace.padded_rows
                                                  : params.num_rows;
  params.counters = reinterpret_cast<int*>(workspace_part(args, workspace.counters_offset_bytes));
  params.num_counters = workspace.num_counters;
  params.unseen_rows = tile.begins_grad_q() || tile.clears_later_heads() ? unseen_rows_of(tile, problem) : 0;
  params.first_finish_row = finished_heads * problem.group_size() * workspace.padded_rows;
  params.len_q = static_cast<int>(problem.len_q);
  params.heads_q = static_cast<int>(problem.heads_q);
  params.head_dim = static_cast<int>(problem.head_dim);
  params.head_dim_v = static_cast<int>(problem.head_dim_v);
  params.visible_len_kv = static_cast<int>(visible_len_kv_of(problem));
  params.causal_offset = static_cast<int>(problem.causal_offset());
  params.causal = problem.is_causal();
  params.scale = problem.scale;
  return params;
}

BackwardRepairParams make_backward_repair_params(const Sm90BackwardTile& tile, const BackwardArgs& args, const BackwardParams& main) {
  BackwardRepairParams params{};
  set_repair_tensors(args, &params);
  params.step_rows = tile.tile_q;
  params.tile_kv = tile.tile_kv();
  params.slices = tile.tile_kv() / kRepairKeys;
  params.main = main;
  return params;
}

}  // namespace fa::sm90
