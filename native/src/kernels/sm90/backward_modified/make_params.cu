#include <algorithm>

#include "kernels/sm80/sequences/prepare.h"
#include "kernels/sm90/backward/repair_tensors.h"
#include "kernels/sm90/backward_modified/launch.h"
#include "kernels/sm90/tensor_map.h"
#include "kernels/sm90/visible_tiles/prepare.h"

namespace fa::sm90 {

namespace {

template <typename T>
T* workspace_part(const BackwardArgs& args, uint64_t offset_bytes) {
  return reinterpret_cast<T*>(static_cast<char*>(args.workspace) + offset_bytes);
}

/// What the kernel that reads the lengths of sequences does for a call: the table of key tiles, zeros in gradients outside of all sequences.
SequenceJob sequence_job(const Sm90ModifiedBackwardTile& tile, const BackwardArgs& args) {
  const Problem& problem = args.problem;
  const auto gap = [](const Tensor& tensor, int64_t heads, int64_t head_dim, bool of_q) {
    return SequenceGap{static_cast<uint16_t*>(tensor.data), tensor.strides, static_cast<int32_t>(heads), static_cast<int32_t>(head_dim), of_q};
  };
  SequenceJob job = sequence_job_of(problem, args.variants);
  job.tables[0] =
      sequence_table_at(workspace_part<void>(args, sm90_modified_backward_workspace(tile, problem).table_offset_bytes), problem, false, tile.tile_kv());
  job.gaps[0] = gap(args.grad_q, problem.heads_q, problem.head_dim, true);
  job.gaps[1] = gap(args.grad_k, problem.heads_kv, problem.head_dim, false);
  job.gaps[2] = gap(args.grad_v, problem.heads_kv, problem.head_dim_v, false);
  return job;
}

/// A map over a bias or its gradient, with boxes of 64 keys and a query tile.
CUtensorMap encode_pair_map(const PairTensor& pairs, const Problem& problem, int tile_q, const char* argument) {
  const Tensor as_tensor{pairs.data, {pairs.batch_stride, pairs.row_stride, pairs.head_stride}};
  return encode_tensor_map(as_tensor, {pairs.batches, pairs.rows, pairs.heads, problem.len_kv}, problem.dtype, tile_q, argument);
}

/// What the kernels that read boolean and block mask do for a call.
VisibleTilesJob visible_job(const Sm90ModifiedBackwardTile& tile, const BackwardArgs& args) {
  const uint64_t offset = sm90_modified_backward_workspace(tile, args.problem).visible_offset_bytes;
  return visible_tiles_job(score_params_of(args.problem, args.variants), sm90_modified_visible_layout(tile, args.problem), workspace_part<void>(args, offset));
}

}  // namespace

ModifiedBackwardParams make_modified_backward_params(const Sm90ModifiedBackwardTile& tile, const BackwardArgs& args) {
  const Problem& problem = args.problem;
  const Sm90ModifiedBackwardWorkspace workspace = sm90_modified_backward_workspace(tile, problem);
  ModifiedBackwardParams params{};
  params.shift = workspace_part<float>(args, 0);
  params.delta = workspace_part<float>(args, workspace.delta_offset_bytes);
  params.grad_q_accumulator = workspace_part<float>(args, workspace.grad_q_offset_bytes);
  params.work_counter = workspace_part<int>(args, workspace.counter_offset_bytes);
  params.finish_counter = params.work_counter + 1;
  params.tiles_added = params.work_counter + kSm90ModifiedCounters;
  params.count_shift = sm90_modified_count_shift(problem);
  params.count_groups = static_cast<int>(workspace.count_groups);
  params.tiles_stored = params.tiles_added + workspace.key_heads * workspace.count_groups;
  params.repair_flags = workspace_part<int>(args, workspace.flags_offset_bytes);
  params.padded_rows = workspace.padded_rows;
  params.num_heads = static_cast<int>(workspace.num_heads);

  params.scores = score_params_of(problem, args.variants);
  if (params.scores.alibi_slopes != nullptr) {
    // The main kernel divides slopes by it; times a dot product so small a scale adds nothing that fp32 holds.
    params.scores.scale_log2 = std::max(params.scores.scale_log2, 1e-30f);
  }
  if (problem.variants.sequences.given) {
    params.table = sequence_table_at(workspace_part<void>(args, workspace.table_offset_bytes), problem, false, tile.tile_kv()).table;
  }
  if (sm90_modified_lists_tiles(problem)) {
    params.visible = visible_job(tile, args).tiles;
    params.swaps_rows = 1;
  }
  params.grad_k = static_cast<uint16_t*>(args.grad_k.data);
  params.grad_v = static_cast<uint16_t*>(args.grad_v.data);
  params.grad_k_strides = args.grad_k.strides;
  params.grad_v_strides = args.grad_v.strides;
  params.head_dim = static_cast<int>(problem.head_dim);
  params.head_dim_v = static_cast<int>(problem.head_dim_v);
  params.bottom_right = problem.bottom_right();
  params.heads_kv = static_cast<int>(problem.heads_kv);
  params.group_size = static_cast<int>(problem.group_size());
  params.scale = problem.scale;

  params.order.num_tiles = static_cast<int>(workspace.key_tiles);
  params.order.num_heads = static_cast<int>(problem.heads_kv * (problem.variants.sequences.given ? 1 : problem.batch));
  params.order.section_heads = static_cast<int>(sm90_modified_section_heads(tile, problem));
  params.batch_inside = static_cast<int>(sm90_modified_batch_inside(problem));
  params.order.num_heads /= params.batch_inside;
  params.order.section_heads = std::min(params.order.section_heads, std::max(params.order.num_heads, 1));
  params.finish_inside = sm90_modified_finish_inside(tile, problem);
  params.grad_q = static_cast<uint16_t*>(args.grad_q.data);
  params.grad_q_strides = args.grad_q.strides;
  if (workspace.num_work == 0) {
    return params;
  }

  const TensorShape q_shape{problem.batch, problem.len_q, problem.heads_q, problem.head_dim};
  const TensorShape o_shape{problem.batch, problem.len_q, problem.heads_q, problem.head_dim_v};
  const TensorShape k_shape{problem.batch, problem.len_kv, problem.heads_kv, problem.head_dim};
  const TensorShape v_shape{problem.batch, problem.len_kv, problem.heads_kv, problem.head_dim_v};
  params.map_k = encode_tensor_map(args.k, k_shape, problem.dtype, tile.tile_kv(), "params.k");
  params.map_v = encode_tensor_map(args.v, v_shape, problem.dtype, tile.tile_kv(), "params.v");
  params.map_grad_k = encode_tensor_map(args.grad_k, k_shape, problem.dtype, 64, "params.grad_k");
  params.map_grad_v = encode_tensor_map(args.grad_v, v_shape, problem.dtype, 64, "params.grad_v");
  if (problem.len_q > 0) {
    params.map_q = encode_tensor_map(args.q, q_shape, problem.dtype, tile.tile_q, "params.q");
    params.map_grad_o = encode_tensor_map(args.grad_o, o_shape, problem.dtype, tile.tile_q, "params.grad_o");
    params.map_statistics = encode_float_map(params.shift, 2 * workspace.num_heads, workspace.padded_rows, 1, tile.tile_q, "params.workspace");
    if (problem.variants.bias) {
      params.map_bias = encode_pair_map(args.variants.bias, problem, tile.tile_q, "params.bias");
      params.writes_grad_bias = args.grad_bias.data != nullptr && !sm90_sums_grad_bias(problem);
      params.map_grad_bias = params.writes_grad_bias ? encode_pair_map(args.grad_bias, problem, tile.tile_q, "params.grad_bias") : params.map_bias;
    }
  } else {
    // Nothing is loaded, but a map must describe something: k's memory stands in.
    params.map_q = params.map_grad_o = params.map_bias = params.map_grad_bias = params.map_k;
    params.map_statistics = encode_float_map(static_cast<const float*>(args.k.data), 1, 4, 1, 4, "params.k");
  }
  return params;
}

ModifiedPassParams make_modified_pass_params(const Sm90ModifiedBackwardTile& tile, const BackwardArgs& args, const ModifiedBackwardParams& main) {
  const Problem& problem = args.problem;
  ModifiedPassParams params{};
  params.o = static_cast<const uint16_t*>(args.o.data);
  params.grad_o = static_cast<const uint16_t*>(args.grad_o.data);
  params.grad_q = static_cast<uint16_t*>(args.grad_q.data);
  params.lse = args.lse;
  params.grad_lse = args.grad_lse;
  params.grad_sinks = args.grad_sinks;
  params.o_strides = args.o.strides;
  params.grad_o_strides = args.grad_o.strides;
  params.grad_q_strides = args.grad_q.strides;
  params.num_rows = main.num_heads * main.padded_rows;
  if (problem.variants.sequences.given) {
    params.sequences = sequence_inputs_of(problem, args.variants);
  }
  params.len_q = static_cast<int>(problem.len_q);
  params.num_counters = static_cast<int>(sm90_modified_backward_workspace(tile, problem).num_counters);
  params.head_dim = static_cast<int>(problem.head_dim);
  params.head_dim_v = static_cast<int>(problem.head_dim_v);
  params.tile_q = tile.tile_q;
  params.main = main;
  return params;
}

ModifiedRepairParams make_modified_repair_params(const Sm90ModifiedBackwardTile& tile, const BackwardArgs& args, const ModifiedBackwardParams& main) {
  ModifiedRepairParams params{};
  set_repair_tensors(args, &params);
  params.tile_q = tile.tile_q;
  params.tile_kv = tile.tile_kv();
  params.main = main;
  return params;
}

GradBiasZerosParams make_grad_bias_zeros_params(const Sm90ModifiedBackwardTile& tile, const BackwardArgs& args) {
  const PairTensor& g = args.grad_bias;
  GradBiasZerosParams params{};
  params.grad_bias = static_cast<uint16_t*>(g.data);
  params.batch_stride = g.batch_stride;
  params.head_stride = g.head_stride;
  params.row_stride = g.row_stride;
  params.batches = static_cast<int>(g.batches);
  params.heads = static_cast<int>(g.heads);
  params.range = pair_range_of(args.problem);
  params.tile_q = tile.tile_q;
  params.tile_kv = tile.tile_kv();
  return params;
}

void run_modified_backward(const Sm90ModifiedBackwardTile& tile, const BackwardArgs& args, ModifiedBackwardLauncher launch_main, int blocks, int passes) {
  const Problem& problem = args.problem;
  const auto stream = static_cast<cudaStream_t>(args.stream);
  const Sm90ModifiedBackwardWorkspace workspace = sm90_modified_backward_workspace(tile, problem);
  ModifiedBackwardParams main = make_modified_backward_params(tile, args);
  main.finish_inside = main.finish_inside && !(passes & kModifiedFinishOutside);
  const ModifiedPassParams around = make_modified_pass_params(tile, args, main);
  if (passes & kModifiedPassPrepare) {
    if (problem.variants.sequences.given) {
      prepare_sequences(sequence_job(tile, args), args.device, args.stream);
    }
    if (sm90_modified_lists_tiles(problem)) {
      prepare_visible_tiles(visible_job(tile, args), args.stream);
    }
    launch_modified_prepare(around, problem.dtype, tile.head_dim, stream);
    // Without rows the sums are empty: the kernel writes zeros.
    if (args.grad_sinks != nullptr) {
      launch_modified_grad_sinks(around, stream);
    }
    if (sm90_modified_zeros_grad_bias(problem)) {
      launch_modified_grad_bias_zeros(make_grad_bias_zeros_params(tile, args), stream);
    }
  }
  if (workspace.num_work > 0 && (passes & kModifiedPassMain)) {
    launch_main(main, blocks, stream);
  }
  if (around.num_rows > 0 && !main.finish_inside && (passes & kModifiedPassFinish)) {
    launch_modified_finish(around, problem.dtype, tile.head_dim, stream);
  }
  if (workspace.num_work > 0 && (passes & kModifiedPassFinish)) {
    launch_modified_repair(make_modified_repair_params(tile, args, main), problem.dtype, stream);
  }
}

}  // namespace fa::sm90
