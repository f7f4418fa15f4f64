// Launches the backward kernels that the plan chose: prepare, main, then either finish (grad_q summed by the main kernel) or the grad_q kernel (deterministic).
#include <cuda_runtime_api.h>

#include "dispatch/dispatch.h"
#include "kernels/sm80/backward/passes.h"
#include "kernels/sm80/backward/table.h"
#include "kernels/sm80/launch.h"

namespace fa {
namespace sm80 {
namespace {

/// Row: Plan::variant. Column 0: float16, 1: bfloat16.
constexpr BackwardKernelOf kKernels[kNumBackward][2] = {
    {backward_kernel_of<0, __half>, backward_kernel_of<0, __nv_bfloat16>}, {backward_kernel_of<1, __half>, backward_kernel_of<1, __nv_bfloat16>},
    {backward_kernel_of<2, __half>, backward_kernel_of<2, __nv_bfloat16>}, {backward_kernel_of<3, __half>, backward_kernel_of<3, __nv_bfloat16>},
    {backward_kernel_of<4, __half>, backward_kernel_of<4, __nv_bfloat16>}, {backward_kernel_of<5, __half>, backward_kernel_of<5, __nv_bfloat16>},
    {backward_kernel_of<6, __half>, backward_kernel_of<6, __nv_bfloat16>},
};

/// Row: index into kGradQ.
constexpr BackwardKernelOf kGradQKernels[kNumGradQ][2] = {
    {grad_q_kernel_of<0, __half>, grad_q_kernel_of<0, __nv_bfloat16>},
    {grad_q_kernel_of<1, __half>, grad_q_kernel_of<1, __nv_bfloat16>},
    {grad_q_kernel_of<2, __half>, grad_q_kernel_of<2, __nv_bfloat16>},
    {grad_q_kernel_of<3, __half>, grad_q_kernel_of<3, __nv_bfloat16>},
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
  const BackwardWorkspace workspace = backward_workspace(problem.batch * problem.heads_q, problem.len_q, variant.padded_dim, problem.deterministic);
  char* base = static_cast<char*>(args.workspace);
  params.lse_log2 = reinterpret_cast<float*>(base);
  params.delta = reinterpret_cast<float*>(base + workspace.delta_offset_bytes);
  params.grad_q_accumulator = problem.deterministic ? nullptr : reinterpret_cast<float*>(base + workspace.grad_q_offset_bytes);
  params.padded_rows = workspace.padded_rows;
  params.padded_dim = variant.padded_dim;
  params.shape = shape_of(problem);
  params.num_q_tiles = static_cast<int>(ceil_div(problem.len_q, variant.tile_q));
  params.num_rows = problem.batch * problem.heads_q * workspace.padded_rows;
  params.tile_q = variant.tile_q;
  params.warps_dq_rows = variant.warps_dq;
  params.warps_dq_cols = variant.warps_kv * variant.warps_q / variant.warps_dq;
  return params;
}

/// Tiles of all heads, the heads of a section at a time: what a head's blocks stream through, bytes_per_head, is to stay in the second-level cache.
TileOrder make_order(int64_t tiles, int64_t heads, int64_t bytes_per_head, fa_device device) {
  TileOrder order;
  order.num_tiles = static_cast<int>(tiles);
  order.num_heads = static_cast<int>(heads);
  order.section_heads = TileOrder::even_section(heads, TileOrder::choose_section(heads, bytes_per_head, l2_bytes_of(device)));
  return order;
}

/// Queues a main or grad_q kernel: the plain one, or the modified one where the problem sets a variant.
void launch_either(BackwardKernel plain, ModifiedBackwardKernel modified, const char* name, const BackwardArgs& args, int64_t blocks, int warps,
                   int64_t shared_bytes, const BackwardParams& params) {
  if (modified == nullptr) {
    launch(plain, name, args.device, blocks, 32 * warps, shared_bytes, args.stream, params);
    return;
  }
  const ModifiedBackwardParams with_scores{params, score_params_of(args.problem, args.variants), args.grad_sinks, args.problem.batch};
  launch(modified, name, args.device, blocks, 32 * warps, shared_bytes, args.stream, with_scores);
}

void launch_grad_bias(const BackwardArgs& args, const BackwardParams& params) {
  const Problem& problem = args.problem;
  int row = 0;
  while (kGradBias[row].padded_dim < params.padded_dim) ++row;
  const GradBiasVariant& variant = kGradBias[row];
  GradBiasParams with_bias{{params, score_params_of(problem, args.variants), nullptr, problem.batch}, args.grad_bias};
  with_bias.is_float = problem.variants.bias_dtype == DType::kFloat32;
  with_bias.key_tiles = static_cast<int>(ceil_div(problem.len_kv, variant.tile_kv));
  with_bias.row_tiles = static_cast<int>(ceil_div(args.grad_bias.rows, variant.tile_q));
  const int64_t blocks = int64_t{with_bias.key_tiles} * with_bias.row_tiles * args.grad_bias.heads * args.grad_bias.batches;
  if (blocks == 0) return;
  const int column = problem.dtype == DType::kBFloat16 ? 1 : 0;
  launch(kGradBiasKernels[row][column](), variant.name, args.device, blocks, kGradBiasThreads, grad_bias_shared_bytes(variant), args.stream, with_bias);
}

}  // namespace
}  // namespace sm80

void sm80_backward(const Plan& plan, const BackwardArgs& args) {
  using namespace sm80;
  const Problem& problem = args.problem;
  const BackwardVariant& variant = kBackward[plan.variant];
  const int column = problem.dtype == DType::kBFloat16 ? 1 : 0;
  const bool modified = variants_of(problem) != 0;
  BackwardParams params = make_params(variant, args);
  if (params.num_rows > 0) {
    const auto prepare = column == 0 ? prepare_kernel_of<__half>(modified) : prepare_kernel_of<__nv_bfloat16>(modified);
    launch(prepare, "sm80_backward_prepare", args.device, ceil_div(params.num_rows, kPassThreads / lanes_per_row(variant.padded_dim)), kPassThreads, 0,
           args.stream, params);
  }
  // Without rows the sums are empty: the kernel writes zeros.
  if (args.grad_sinks != nullptr) {
    launch_either(nullptr, grad_sinks_kernel_of(), "sm80_backward_grad_sinks", args, problem.heads_q, kPassThreads / 32, 0, params);
  }
  if (args.grad_bias.data != nullptr) launch_grad_bias(args, params);
  if (plan.blocks > 0) {
    const int64_t bytes = problem.len_q * (2 * (problem.head_dim + problem.head_dim_v) + 4 * variant.padded_dim) * problem.group_size();
    params.order = make_order(ceil_div(problem.len_kv, variant.tile_kv), problem.batch * problem.heads_kv, bytes, args.device);
    launch_either(kKernels[plan.variant][column](), modified ? kModifiedKernels[place_of(plan.variant, kModifiedBackward)][column]() : nullptr,
                  plan.kernel_name, args, plan.blocks, variant.warps_kv * variant.warps_q, backward_shared_bytes(variant), params);
  }
  if (params.num_rows == 0) return;
  if (!problem.deterministic) {
    const auto finish = column == 0 ? finish_kernel_of<__half>() : finish_kernel_of<__nv_bfloat16>();
    const int64_t units = params.num_rows / 8 * ceil_div(problem.head_dim, 32) * 32;
    launch(finish, "sm80_backward_finish", args.device, ceil_div(units, kPassThreads), kPassThreads, 0, args.stream, params);
    return;
  }
  int row = 0;
  while (kGradQ[row].padded_dim < variant.padded_dim) ++row;
  const GradQVariant& grad_q = kGradQ[row];
  const int64_t tiles = ceil_div(problem.len_q, grad_q.tile_q);
  params.order =
      make_order(tiles, problem.batch * problem.heads_q, 2 * problem.len_kv * (problem.head_dim + problem.head_dim_v) / problem.group_size(), args.device);
  params.order.last_first = problem.is_causal();
  launch_either(kGradQKernels[row][column](), modified ? kModifiedGradQKernels[place_of(row, kModifiedGradQ)][column]() : nullptr, grad_q.name, args,
                tiles * problem.batch * problem.heads_q, grad_q.warps, grad_q_shared_bytes(grad_q), params);
}

}  // namespace fa
