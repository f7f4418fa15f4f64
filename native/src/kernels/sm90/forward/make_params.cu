#include <algorithm>
#include <climits>

#include "kernels/sm90/forward/launch.h"
#include "kernels/sm90/tensor_map.h"

namespace fa::sm90 {

namespace {

/// Keys up to the last that some query sees.
int64_t visible_len_kv(const Problem& problem) {
  const int64_t right = problem.is_causal() ? 0 : problem.variants.window_right;
  if (problem.mask == Mask::kNone || right < 0 || problem.variants.sequences.given) {
    return problem.len_kv;
  }
  const int64_t offset = problem.bottom_right() ? problem.len_kv - problem.len_q : 0;
  return std::clamp<int64_t>(problem.len_q + offset + std::min(right, problem.len_kv), 0, problem.len_kv);
}

GlobalView view(const Tensor& tensor) {
  return {tensor.data, tensor.strides.batch, tensor.strides.seq, tensor.strides.head};
}

}  // namespace

ForwardParams make_forward_params(const Sm90ForwardTile& tile, const ForwardArgs& args, int64_t blocks, Sm90ForwardOrder order) {
  const Problem& problem = args.problem;
  const int64_t len_kv = visible_len_kv(problem);
  // Without keys nothing is loaded, but a map must describe something: q's memory stands in.
  const bool has_keys = len_kv > 0;
  const TensorShape q_shape{problem.batch, problem.len_q, problem.heads_q, problem.head_dim};
  const TensorShape o_shape{problem.batch, problem.len_q, problem.heads_q, problem.head_dim_v};
  const TensorShape k_shape{problem.batch, len_kv, problem.heads_kv, problem.head_dim};
  const TensorShape v_shape{problem.batch, len_kv, problem.heads_kv, problem.head_dim_v};

  ForwardParams params{};
  params.map_q = encode_tensor_map(args.q, q_shape, problem.dtype, tile.tile_q(), "params.q");
  params.map_k = encode_tensor_map(has_keys ? args.k : args.q, has_keys ? k_shape : q_shape, problem.dtype, tile.tile_kv, "params.k");
  params.map_v = encode_tensor_map(has_keys ? args.v : args.q, has_keys ? v_shape : q_shape, problem.dtype, tile.tile_kv, "params.v");
  params.map_o = encode_tensor_map(args.o, o_shape, problem.dtype, 16, "params.o");
  params.q = view(args.q);
  params.k = view(args.k);
  params.v = view(args.v);
  params.o = view(args.o);
  params.lse = args.lse;
  params.len_q = static_cast<int>(problem.len_q);
  params.len_kv = static_cast<int>(len_kv);
  params.heads_q = static_cast<int>(problem.heads_q);
  params.group_size = FastDivisor(problem.group_size());
  params.head_dim = static_cast<int>(problem.head_dim);
  params.head_dim_v = static_cast<int>(problem.head_dim_v);
  // Row i sees keys below i + causal_offset + 1; an offset of minus len_q or less hides all keys, however far below it is.
  params.causal_limit = problem.is_causal() ? static_cast<int>(std::max(problem.causal_offset(), -problem.len_q) + 1) : params.len_kv;
  params.scale = problem.scale;
  params.scale_log2 = problem.scale * 1.4426950408889634f;
  const int64_t q_tiles = sm90_query_tiles(problem, tile);
  const int64_t all_heads = problem.batch * problem.heads_q;
  const int64_t section_heads = sm90_section_heads(problem, order, q_tiles, blocks * tile.teams);
  const int64_t units_of_head = order == Sm90ForwardOrder::kPairs ? q_tiles / 2 : q_tiles;
  params.adjacent_tiles = order == Sm90ForwardOrder::kAdjacentTiles;
  params.sections = order == Sm90ForwardOrder::kSections || params.adjacent_tiles;
  params.num_units = static_cast<int>(units_of_head * all_heads);
  params.unit_shift = order == Sm90ForwardOrder::kPairs ? 1 : 0;
  params.q_tiles = static_cast<int>(q_tiles);
  params.first_row = problem.is_causal() ? -static_cast<int>((q_tiles * tile.tile_q() - problem.len_q) / 64 * 64) : 0;
  params.units_of_head = FastDivisor(units_of_head);
  params.heads = FastDivisor(problem.heads_q);
  params.section_tiles = FastDivisor(section_heads * q_tiles);
  params.section_heads = FastDivisor(section_heads);
  // What is left over is a section by itself; adjacent tiles leave it to the last whole one, whose long tiles it needs for balance. Even rounds need neither.
  const int64_t whole_sections = all_heads / section_heads;
  const bool even = params.adjacent_tiles && sm90_even_blocks(tile, q_tiles, all_heads, blocks) == blocks;
  params.last_section = static_cast<int>(even ? whole_sections : params.adjacent_tiles ? whole_sections - 1 : (all_heads - 1) / section_heads);
  params.last_section_heads = FastDivisor(std::max<int64_t>(all_heads - params.last_section * section_heads, 1));
  params.last_head = static_cast<int>(all_heads - 1);
  params.causal = problem.is_causal();
  return params;
}

SharedForwardParams make_shared_forward_params(const Sm90ForwardTile& tile, const ForwardArgs& args, int64_t blocks, Sm90ForwardOrder order) {
  SharedForwardParams params{make_forward_params(tile, args, blocks, order), sm90_shared_round_of(args.problem, tile, blocks)};
  if (params.round.tiles > 0) {
    params.by_sharers = FastDivisor(params.round.sharers);
    params.by_key_tiles = FastDivisor(params.round.key_tiles);
    params.whole_rounds = static_cast<int>(params.num_units / blocks);
    params.parts = static_cast<float4*>(args.workspace);
    const Sm90SharedRoundLayout layout = sm90_shared_round_layout(params.round, tile.warpgroups, tile.head_dim);
    params.arrivals = reinterpret_cast<int*>(static_cast<char*>(args.workspace) + layout.counters_offset);
  }
  return params;
}

ModifiedForwardParams make_modified_forward_params(const Sm90ForwardTile& tile, const ForwardArgs& args, int64_t blocks, Sm90ForwardOrder order) {
  const Problem& problem = args.problem;
  ModifiedForwardParams params{make_forward_params(tile, args, blocks, order), score_params_of(problem, args.variants)};
  params.packed = problem.variants.sequences.packed;
  params.whole_units = INT_MAX;
  if (order == Sm90ForwardOrder::kShortTilesLast) {
    const int64_t q_tiles = params.q_tiles, short_tiles = sm90_short_tiles(problem, tile, q_tiles, blocks), all_heads = problem.batch * problem.heads_q;
    params.first_row = static_cast<int>(short_tiles * tile.tile_q());
    params.units_of_head = FastDivisor(std::max<int64_t>(q_tiles - short_tiles, 1));
    params.whole_units = static_cast<int>((q_tiles - short_tiles) * all_heads);
    params.last_section_heads = FastDivisor(all_heads);
  }
  if (problem.variants.sequences.given) {
    params.sequences = sequence_table_at(args.workspace, problem, true, tile.tile_q()).table;
    const Sm90SequenceSections sections = sm90_sequence_sections(problem);
    params.section_heads = FastDivisor(sections.heads);
    params.last_section = static_cast<int>(sections.last);
    params.last_section_heads = FastDivisor(sections.last_heads);
    params.unit_shift = 0;
  }
  if (tile.staged_bias) {
    const PairTensor& bias = args.variants.bias;
    params.batch_inside = bias.batches == 1 && !problem.variants.sequences.given;
    if (params.batch_inside) {
      params.heads = FastDivisor(problem.batch);
    }
    const Tensor as_tensor{bias.data, {bias.batch_stride, bias.row_stride, bias.head_stride}};
    params.map_bias = encode_tensor_map(as_tensor, {bias.batches, bias.rows, bias.heads, problem.max_len_kv()}, problem.dtype, tile.tile_q(), "params.bias");
  }
  return params;
}

VisibleTilesJob visible_tiles_job_of(const Sm90ForwardTile& tile, const ForwardArgs& args) {
  return visible_tiles_job(score_params_of(args.problem, args.variants), sm90_mask_layout(args.problem, tile), args.workspace);
}

MaskedForwardParams make_masked_forward_params(const Sm90ForwardTile& tile, const ForwardArgs& args, int64_t blocks) {
  MaskedForwardParams params{make_modified_forward_params(tile, args, blocks, Sm90ForwardOrder::kSequence)};
  params.visible_tiles = visible_tiles_job_of(tile, args).tiles;
  const Sm90MaskOrder order = sm90_mask_order(args.problem);
  params.section_work = FastDivisor(params.visible_tiles.group_lists * order.section_sharers);
  params.section_sharers = FastDivisor(order.section_sharers);
  params.sharer_sections = FastDivisor(order.sharers / order.section_sharers);
  params.lists_of_plane = FastDivisor(params.visible_tiles.tiles);
  return params;
}

}  // namespace fa::sm90
