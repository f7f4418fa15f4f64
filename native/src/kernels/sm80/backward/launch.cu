// Launches the backward kernels that the plan chose: prepare, main, then either finish (grad_q summed by the main kernel) or the grad_q kernel (deterministic).
#include <cuda_runtime_api.h>

#include "dispatch/dispatch.h"
#include "kernels/sm80/backward/passes.h"
#include "kernels/sm80/backward/table.h"
#include "kernels/sm80/launch.h"
#include "kernels/sm80/sequences/prepare.h"
#include "runtime/cuda_check.h"

namespace fa {
namespace sm80 {
namespace {

/// Row: Plan::variant. Column 0: float16, 1: bfloat16.
constexpr BackwardKernelOf kKernels[kNumBackward][2] = {
    {backward_kernel_of<0, __half>, backward_kernel_of<0, __nv_bfloat16>}, {backward_kernel_of<1, __half>, backward_kernel_of<1, __nv_bfloat16>},
    {backward_kernel_of<2, __half>, backward_kernel_of<2, __nv_bfloat16>}, {backward_kernel_of<3, __half>, backward_kernel_of<3, __nv_bfloat16>},
    {backward_kernel_of<4, __half>, backward_kernel_of<4, __nv_bfloat16>}, {backward_kernel_of<5, __half>, backward_kernel_of<5, __nv_bfloat16>},
    {backward_kernel_of<6, __half>, backward_kernel_of<6, __nv_bfloat16>}, {backward_kernel_of<7, __half>, backward_kernel_of<7, __nv_bfloat16>},
    {backward_kernel_of<8, __half>, backward_kernel_of<8, __nv_bfloat16>}, {backward_kernel_of<9, __half>, backward_kernel_of<9, __nv_bfloat16>},
};

/// Row: index into kGradQ.
constexpr BackwardKernelOf kGradQKernels[kNumGradQ][2] = {
    {grad_q_kernel_of<0, __half>, grad_q_kernel_of<0, __nv_bfloat16>}, {grad_q_kernel_of<1, __half>, grad_q_kernel_of<1, __nv_bfloat16>},
    {grad_q_kernel_of<2, __half>, grad_q_kernel_of<2, __nv_bfloat16>}, {grad_q_kernel_of<3, __half>, grad_q_kernel_of<3, __nv_bfloat16>},
    {grad_q_kernel_of<4, __half>, grad_q_kernel_of<4, __nv_bfloat16>},
};

/// The same with ModifiedScores. Row: place in kModifiedBackward.
constexpr ModifiedBackwardKernelOf kModifiedKernels[][2] = {
    {modified_backward_kernel_of<0, __half>, modified_backward_kernel_of<0, __nv_bfloat16>},
    {modified_backward_kernel_of<1, __half>, modified_backward_kernel_of<1, __nv_bfloat16>},
    {modified_backward_kernel_of<5, __half>, modified_backward_kernel_of<5, __nv_bfloat16>},
    {modified_backward_kernel_of<6, __half>, modified_backward_kernel_of<6, __nv_bfloat16>},
};
static_assert(sizeof(kModifiedKernels) / sizeof(kModifiedKernels[0]) == sizeof(kModifiedBackward) / sizeof(kModifiedBackward[0]), "one row each");

/// Row: place in kModifiedGradQ.
constexpr ModifiedBackwardKernelOf kModifiedGradQKernels[][2] = {
    {modified_grad_q_kernel_of<0, __half>, modified_grad_q_kernel_of<0, __nv_bfloat16>},
    {modified_grad_q_kernel_of<1, __half>, modified_grad_q_kernel_of<1, __nv_bfloat16>},
    {modified_grad_q_kernel_of<3, __half>, modified_grad_q_kernel_of<3, __nv_bfloat16>},
};
static_assert(sizeof(kModifiedGradQKernels) / sizeof(kModifiedGradQKernels[0]) == sizeof(kModifiedGradQ) / sizeof(kModifiedGradQ[0]), "one row each");

/// Row: index into kGradBias.
constexpr GradBiasKernelOf kGradBiasKernels[kNumGradBias][2] = {
    {grad_bias_kernel_of<0, __half>, grad_bias_kernel_of<0, __nv_bfloat16>},
    {grad_bias_kernel_of<1, __half>, grad_bias_kernel_of<1, __nv_bfloat16>},
    {grad_bias_kernel_of<2, __half>, grad_bias_kernel_of<2, __nv_bfloat16>},
};

BackwardParams make_params(const BackwardVariant& variant, const BackwardArgs& args) {
  const Problem& problem = args.problem;
  BackwardParams params{};
  params.q = static_cast<const uint16_t*>(args.q.data);
  params.k = static_cast<const uint16_t*>(args.k.data);
  params.v = static_cast<const uint16_t*>(args.v.data);
  params.o = static_cast<const uint16_t*>(args.o.data);
  params.grad_o = static_cast<const uint16_t*>(args.grad_o.data);
  params.grad_q = static_cast<uint16_t*>(args.grad_q.data);
  params.grad_k = static_cast<uint16_t*>(args.grad_k.data);
  params.grad_v = static_cast<uint16_t*>(args.grad_v.data);
  params.lse = args.lse;
  params.grad_lse = args.grad_lse;
  params.q_strides = args.q.strides;
  params.k_strides = args.k.strides;
  params.v_strides = args.v.strides;
  params.o_strides = args.o.strides;
  params.grad_o_strides = args.grad_o.strides;
  params.grad_q_strides = args.grad_q.strides;
  params.grad_k_strides = args.grad_k.strides;
  params.grad_v_strides = args.grad_v.strides;
  const BackwardWorkspace workspace = backward_workspace(problem, variant);
  char* base = static_cast<char*>(args.workspace);
  params.lse_log2 = reinterpret_cast<float*>(base);
  params.delta = reinterpret_cast<float*>(base + workspace.delta_offset_bytes);
  params.grad_q_accumulator = accumulates_grad_q(variant, problem.deterministic) ? reinterpret_cast<float*>(base + workspace.grad_q_offset_bytes) : nullptr;
  params.padded_rows = workspace.padded_rows;
  params.padded_dim = variant.padded_dim;
  params.shape = shape_of(problem);
  params.num_q_tiles = static_cast<int>(ceil_div(problem.len_q, variant.tile_q));
  params.num_rows = workspace.heads * workspace.padded_rows;
  params.tile_q = variant.tile_q;
  params.warps_dq_rows = variant.warps_dq;
  params.warps_dq_cols = warps_of(variant) / variant.warps_dq;
  return params;
}

/// Tiles of all heads, the heads of a section at a time: what a head's blocks stream through, bytes_per_head, is to stay in the second-level cache.
BlockOrder make_order(int64_t tiles, int64_t batch, int64_t heads, int64_t bytes_per_head, bool last_first, fa_device device) {
  const int fitting = TileOrder::choose_section(batch * heads, bytes_per_head, l2_bytes_of(device));
  return {tiles, batch, heads, TileOrder::even_section(batch * heads, fitting), last_first};
}

/// Whether the main kernel's dS is the gradient of the bias, element by element: each pair has its own, none is skipped, and both are rounded to 16 bits.
bool writes_grad_bias(const BackwardArgs& args) {
  const Problem& problem = args.problem;
  const Variants& v = problem.variants;
  const PairTensor& g = args.grad_bias;
  const bool every_pair = g.batches == problem.batch && g.heads == problem.heads_q && g.rows == problem.len_q && v.bias_dtype != DType::kFloat32;
  const bool all_seen = problem.mask == Mask::kNone && v.chunk == 0 && !v.block_mask && !v.sequences.given;
  return g.data != nullptr && every_pair && all_seen && v.softcap == 0.0f && !problem.deterministic && lies_in_pairs(g, 2, problem.len_kv);
}

/// Queues a main or grad_q kernel: the plain one, or the modified one where the problem sets a variant. bias_bytes: a tile of the bias of each stage, for
/// kernels that have a place for it.
void launch_either(BackwardKernel plain, ModifiedBackwardKernel modified, const char* name, const BackwardArgs& args, int64_t blocks, int warps,
                   int64_t shared_bytes, const BackwardParams& params, const SequenceTable& table, int64_t bias_bytes = 0, int blocks_per_sm = 1) {
  if (modified == nullptr) {
    launch(plain, name, args.device, blocks, 32 * warps, shared_bytes, args.stream, params);
    return;
  }
  ModifiedBackwardParams with_scores{params, score_params_of(args.problem, args.variants), args.grad_sinks, args.problem.batch, args.problem.len_q, table};
  if (args.problem.variants.sequences.given) {
    with_scores.batch = 1;
    with_scores.sink_rows = params.padded_rows;
  }
  if (bias_bytes > 0) {
    shared_bytes += stage_bias(&with_scores.scores, args.device, shared_bytes, bias_bytes, blocks_per_sm);
    if (writes_grad_bias(args)) with_scores.direct_grad_bias = args.grad_bias;
  }
  launch(modified, name, args.device, blocks, 32 * warps, shared_bytes, args.stream, with_scores);
}

/// The tables of tiles of sequences; all-zero where all have full length.
struct SequenceTables {
  SequenceTable keys, queries;
  const SequenceTile* by_number = nullptr;  ///< if the gradient of a bias is wanted
};

/// Queues the kernel that reads the lengths.
SequenceTables read_sequences(const BackwardVariant& variant, const BackwardArgs& args, const BackwardParams& params) {
  const Problem& problem = args.problem;
  const BackwardWorkspace workspace = backward_workspace(problem, variant);
  char* base = static_cast<char*>(args.workspace);
  SequenceJob job = sequence_job_of(problem, args.variants);
  job.tables[0] = sequence_table_at(base + workspace.key_table_offset_bytes, problem, /*of_q=*/false, variant.tile_kv);
  job.tables[1] = sequence_table_at(base + workspace.query_table_offset_bytes, problem, /*of_q=*/true, kGradQRows);
  job.gaps[0] = {params.grad_q, params.grad_q_strides, params.shape.heads_q, params.shape.head_dim, /*of_q=*/true};
  job.gaps[1] = {params.grad_k, params.grad_k_strides, params.shape.heads_kv, params.shape.head_dim, /*of_q=*/false};
  job.gaps[2] = {params.grad_v, params.grad_v_strides, params.shape.heads_kv, params.shape.head_dim_v, /*of_q=*/false};
  if (problem.variants.grad_bias) job.by_number = reinterpret_cast<SequenceTile*>(base + workspace.by_number_offset_bytes);
  prepare_sequences(job, args.device, args.stream);
  return {job.tables[0].table, job.tables[1].table, job.by_number};
}

/// Rows of the workspace that a pass goes through.
int64_t pass_rows(const BackwardParams& params, const SequenceTables& tables) {
  return tables.queries.data == nullptr ? params.num_rows : int64_t{tables.queries.capacity} * kGradQRows * params.shape.heads_q;
}

/// Rows of the workspace that no sequence owns, for the sums over sinks, which go through all: a log-sum-exp of 2^127 or so makes P = 0, and delta is 0.
void fill_workspace_rows(const BackwardArgs& args, const BackwardParams& params) {
  const size_t bytes = static_cast<size_t>(params.num_rows) * sizeof(float);
  const cudaStream_t stream = static_cast<cudaStream_t>(args.stream);
  cuda_check(cudaMemsetAsync(params.lse_log2, 0x7e, bytes, stream), "cudaMemsetAsync of the log-sum-exp");
  cuda_check(cudaMemsetAsync(params.delta, 0, bytes, stream), "cudaMemsetAsync of delta");
}

void launch_prepare(const BackwardArgs& args, const BackwardParams& params, const SequenceTables& tables) {
  const bool f16 = args.problem.dtype != DType::kBFloat16;
  const int64_t rows = pass_rows(params, tables);
  if (rows == 0) return;
  const int64_t blocks = ceil_div(rows, kPassThreads / lanes_per_row(params.padded_dim));
  constexpr const char* kName = "sm80_backward_prepare";
  if (tables.queries.data == nullptr) {
    const bool modified = variants_of(args.problem) != 0;
    launch(f16 ? prepare_kernel_of<__half>(modified) : prepare_kernel_of<__nv_bfloat16>(modified), kName, args.device, blocks, kPassThreads, 0, args.stream,
           params);
    return;
  }
  SequencePassParams with_tiles{params, tables.queries, kGradQRows};
  with_tiles.num_rows = rows;
  launch(f16 ? prepare_sequence_kernel_of<__half>() : prepare_sequence_kernel_of<__nv_bfloat16>(), kName, args.device, blocks, kPassThreads, 0, args.stream,
         with_tiles);
}

void launch_finish(const BackwardArgs& args, const BackwardParams& params, const SequenceTables& tables) {
  const bool f16 = args.problem.dtype != DType::kBFloat16;
  const int64_t rows = pass_rows(params, tables);
  if (rows == 0) return;
  const int64_t blocks = ceil_div(rows / 8 * ceil_div(args.problem.head_dim, 32) * 32, kPassThreads);
  constexpr const char* kName = "sm80_backward_finish";
  if (tables.queries.data == nullptr) {
    launch(f16 ? finish_kernel_of<__half>() : finish_kernel_of<__nv_bfloat16>(), kName, args.device, blocks, kPassThreads, 0, args.stream, params);
    return;
  }
  SequencePassParams with_tiles{params, tables.queries, kGradQRows};
  with_tiles.num_rows = rows;
  launch(f16 ? finish_sequence_kernel_of<__half>() : finish_sequence_kernel_of<__nv_bfloat16>(), kName, args.device, blocks, kPassThreads, 0, args.stream,
         with_tiles);
}

void launch_grad_bias(const BackwardArgs& args, const BackwardParams& params, const SequenceTables& tables) {
  const Problem& problem = args.problem;
  int row = 0;
  while (kGradBias[row].padded_dim < params.padded_dim) ++row;
  const GradBiasVariant& variant = kGradBias[row];
  GradBiasParams with_bias{{params, score_params_of(problem, args.variants), nullptr, problem.num_sequences(), 0, {}}, args.grad_bias};
  with_bias.is_float = problem.variants.bias_dtype == DType::kFloat32;
  with_bias.rows = static_cast<int>(problem.max_len_q());
  with_bias.columns = static_cast<int>(problem.max_len_kv());
  with_bias.sequences_by_number = tables.by_number;
  with_bias.key_tiles = static_cast<int>(ceil_div(problem.max_len_kv(), variant.tile_kv));
  with_bias.row_tiles = static_cast<int>(ceil_div(args.grad_bias.rows, variant.tile_q));
  const int64_t blocks = int64_t{with_bias.key_tiles} * with_bias.row_tiles * args.grad_bias.heads * args.grad_bias.batches;
  if (blocks == 0) return;
  const int column = problem.dtype == DType::kBFloat16 ? 1 : 0;
  const int64_t shared_bytes = grad_bias_shared_bytes(variant);
  const int64_t bias_bytes = stage_bias(&with_bias.scores, args.device, shared_bytes, bias_tile_bytes(variant.tile_q, variant.tile_kv), variant.blocks_per_sm);
  launch(kGradBiasKernels[row][column](), variant.name, args.device, blocks, kGradBiasThreads, shared_bytes + bias_bytes, args.stream, with_bias);
}

}  // namespace
}  // namespace sm80

void sm80_backward(const Plan& plan, const BackwardArgs& args) {
  using namespace sm80;
  const Problem& problem = args.problem;
  const BackwardVariant& variant = kBackward[plan.variant];
  const int column = problem.dtype == DType::kBFloat16 ? 1 : 0;
  const bool modified = variants_of(problem) != 0, sequences = problem.variants.sequences.given;
  BackwardParams params = make_params(variant, args);
  const SequenceTables tables = sequences ? read_sequences(variant, args, params) : SequenceTables{};
  if (sequences && args.grad_sinks != nullptr) fill_workspace_rows(args, params);
  launch_prepare(args, params, tables);
  // Without rows the sums are empty: the kernel writes zeros.
  if (args.grad_sinks != nullptr) {
    launch_either(nullptr, grad_sinks_kernel_of(), "sm80_backward_grad_sinks", args, problem.heads_q, kPassThreads / 32, 0, params, {});
  }
  if (args.grad_bias.data != nullptr && !writes_grad_bias(args)) launch_grad_bias(args, params, tables);
  // A head's blocks are to find what they stream through in the cache: the queries of one sequence at a time.
  const int64_t batch = sequences ? 1 : problem.batch;
  if (plan.blocks > 0) {
    const int64_t bytes = problem.max_len_q() * (2 * (problem.head_dim + problem.head_dim_v) + 4 * variant.padded_dim) * problem.group_size();
    params.order = make_order(sequences ? tables.keys.capacity : ceil_div(problem.len_kv, variant.tile_kv), batch, problem.heads_kv, bytes,
                              /*last_first=*/false, args.device);
    launch_either(kKernels[plan.variant][column](), modified ? kModifiedKernels[place_of(plan.variant, kModifiedBackward)][column]() : nullptr,
                  plan.kernel_name, args, plan.blocks, warps_of(variant), backward_shared_bytes(variant), params, tables.keys,
                  variant.stages * bias_tile_bytes(variant.tile_q, variant.tile_kv), variant.blocks_per_sm);
  }
  if (params.num_rows == 0) return;
  if (accumulates_grad_q(variant, problem.deterministic)) {
    launch_finish(args, params, tables);
    return;
  }
  int row = 0;
  while (kGradQ[row].padded_dim < variant.padded_dim) ++row;
  const GradQVariant& grad_q = kGradQ[row];
  const int64_t tiles = sequences ? tables.queries.capacity : ceil_div(problem.len_q, grad_q.tile_q);
  const int64_t blocks = tiles * batch * problem.heads_q;
  if (blocks == 0) return;
  params.order = make_order(tiles, batch, problem.heads_q, 2 * problem.max_len_kv() * (problem.head_dim + problem.head_dim_v) / problem.group_size(),
                            problem.is_causal() && !sequences, args.device);
  launch_either(kGradQKernels[row][column](), modified ? kModifiedGradQKernels[place_of(row, kModifiedGradQ)][column]() : nullptr, grad_q.name, args, blocks,
                grad_q.warps, grad_q_shared_bytes(grad_q), params, tables.queries);
}

}  // namespace fa
