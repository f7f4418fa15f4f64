// Launches the forward kernel that the plan chose.
#include <cuda_runtime_api.h>

#include "dispatch/dispatch.h"
#include "kernels/sm80/forward/table.h"
#include "kernels/sm80/launch.h"
#include "kernels/sm80/sequences/prepare.h"

namespace fa {
namespace sm80 {
namespace {

/// Row: Plan::variant. Column 0: float16, 1: bfloat16.
constexpr ForwardKernelOf kKernels[kNumForward][2] = {
    {forward_kernel_of<0, __half>, forward_kernel_of<0, __nv_bfloat16>},
    {forward_kernel_of<1, __half>, forward_kernel_of<1, __nv_bfloat16>},
    {forward_kernel_of<2, __half>, forward_kernel_of<2, __nv_bfloat16>},
    {forward_kernel_of<3, __half>, forward_kernel_of<3, __nv_bfloat16>},
    {forward_kernel_of<4, __half>, forward_kernel_of<4, __nv_bfloat16>},
    {forward_kernel_of<5, __half>, forward_kernel_of<5, __nv_bfloat16>},
    {nullptr, nullptr},
    {forward_kernel_of<7, __half>, forward_kernel_of<7, __nv_bfloat16>},
    {forward_kernel_of<8, __half>, forward_kernel_of<8, __nv_bfloat16>},
};

/// The same with ModifiedScores. Row: place in kModifiedForward.
constexpr ModifiedForwardKernelOf kModifiedKernels[][2] = {
    {modified_forward_kernel_of<6, __half>, modified_forward_kernel_of<6, __nv_bfloat16>},
    {modified_forward_kernel_of<1, __half>, modified_forward_kernel_of<1, __nv_bfloat16>},
    {modified_forward_kernel_of<5, __half>, modified_forward_kernel_of<5, __nv_bfloat16>},
};
static_assert(sizeof(kModifiedKernels) / sizeof(kModifiedKernels[0]) == sizeof(kModifiedForward) / sizeof(kModifiedForward[0]), "one row each");

/// Heads worked on at a time: enough to have long tiles beside the short ones of a causal mask, few enough that loading their keys and values for the first
/// time does not come in bursts.
constexpr int kSectionHeads = 8;

ForwardParams make_params(const ForwardVariant& variant, const ForwardArgs& args) {
  const Problem& problem = args.problem;
  ForwardParams params{};
  params.q = static_cast<const uint16_t*>(args.q.data);
  params.k = static_cast<const uint16_t*>(args.k.data);
  params.v = static_cast<const uint16_t*>(args.v.data);
  params.o = static_cast<uint16_t*>(args.o.data);
  params.lse = args.lse;
  params.q_strides = args.q.strides;
  params.k_strides = args.k.strides;
  params.v_strides = args.v.strides;
  params.o_strides = args.o.strides;
  params.shape = shape_of(problem);
  params.order = {ceil_div(problem.len_q, variant.tile_q), problem.batch, problem.heads_q,
                  TileOrder::even_section(problem.batch * problem.heads_q, kSectionHeads), problem.is_causal()};
  return params;
}

/// Queues the kernel that reads the lengths, and makes the main kernel work through its table.
void follow_sequences(const ForwardVariant& variant, const ForwardArgs& args, ModifiedForwardParams* params) {
  const Problem& problem = args.problem;
  SequenceJob job = sequence_job_of(problem, args.variants);
  job.tables[0] = sequence_table_at(args.workspace, problem, /*of_q=*/true, variant.tile_q);
  job.gaps[0] = {params->o, params->o_strides, params->shape.heads_q, params->shape.head_dim_v, /*of_q=*/true};
  job.lse = args.lse;
  prepare_sequences(job, args.device, args.stream);
  params->sequences = job.tables[0].table;
  params->long_tiles_last = problem.is_causal();
  params->order = {params->sequences.capacity, /*batch=*/1, problem.heads_q, TileOrder::even_section(problem.heads_q, kSectionHeads)};
}

}  // namespace
}  // namespace sm80

void sm80_forward(const Plan& plan, const ForwardArgs& args) {
  using namespace sm80;
  if (args.problem.batch == 0 || args.problem.len_q == 0) return;  // no query rows: nothing to write
  const ForwardVariant& variant = kForward[plan.variant];
  const int column = args.problem.dtype == DType::kBFloat16 ? 1 : 0;
  if (variants_of(args.problem) != 0) {
    const ModifiedForwardKernel modified = kModifiedKernels[place_of(plan.variant, kModifiedForward)][column]();
    ModifiedForwardParams params{make_params(variant, args), score_params_of(args.problem, args.variants), {}, false};
    if (args.problem.variants.sequences.given) follow_sequences(variant, args, &params);
    if (plan.blocks == 0) return;  // every query row is outside of all sequences
    const int64_t shared_bytes = forward_shared_bytes(variant);
    const int64_t bias_bytes = stage_bias(&params.scores, args.device, shared_bytes, bias_tile_bytes(variant.tile_q, variant.tile_kv), variant.blocks_per_sm);
    launch(modified, plan.kernel_name, args.device, plan.blocks, 32 * variant.warps, shared_bytes + bias_bytes, args.stream, params);
    return;
  }
  const ForwardKernel kernel = kKernels[plan.variant][column]();
  launch(kernel, plan.kernel_name, args.device, plan.blocks, 32 * variant.warps, forward_shared_bytes(variant), args.stream, make_params(variant, args));
}

}  // namespace fa
