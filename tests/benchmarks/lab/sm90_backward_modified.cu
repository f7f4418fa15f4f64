// The Hopper backward kernels with modified scores as a shared object for lab_modified.py: what the library plans, without the library.
#include <cuda_runtime.h>

#include "kernels/sm90/backward/config.h"
#include "kernels/sm90/backward/launch.h"
#include "kernels/sm90/backward_modified/launch.h"
#include "lab_exports.cuh"
#include "plan/error.h"

/// A call as lab_modified.py describes it; strides in elements (batch, seq, head). Outside the unnamed namespace, since exported functions take it.
struct LabCall {
  void *q, *k, *v, *o, *grad_o, *grad_q, *grad_k, *grad_v;
  float *lse, *grad_lse, *grad_sinks;
  void* workspace;
  int64_t batch, len_q, len_kv, heads_q, heads_kv, head_dim, head_dim_v;
  int64_t strides[8][3];  // of q … grad_v
  int64_t window_left, window_right, chunk, alibi_batch_stride, count, max_len_q, max_len_kv;
  const float *alibi_slopes, *sinks;
  const int32_t *cu_seqlens_q, *cu_seqlens_kv, *seqused_q, *seqused_kv;
  float scale, softcap;
  int32_t mask;  // fa::Mask
  int32_t is_bfloat16, left_padded;
  int32_t passes;  // a sum of kModifiedPass…
};

namespace {

fa::BackwardArgs args_of(const LabCall& call) {
  fa::BackwardArgs args;
  fa::Problem& problem = args.problem;
  problem.pass = fa::Pass::kBackward;
  problem.dtype = call.is_bfloat16 ? fa::DType::kBFloat16 : fa::DType::kFloat16;
  problem.mask = static_cast<fa::Mask>(call.mask);
  problem.batch = call.batch;
  problem.len_q = call.len_q;
  problem.len_kv = call.len_kv;
  problem.heads_q = call.heads_q;
  problem.heads_kv = call.heads_kv;
  problem.head_dim = call.head_dim;
  problem.head_dim_v = call.head_dim_v;
  problem.scale = call.scale;
  problem.aligned_16_bytes = true;
  fa::Variants& variants = problem.variants;
  variants.window_left = call.window_left;
  variants.window_right = call.window_right;
  variants.chunk = call.chunk;
  variants.softcap = call.softcap;
  variants.alibi = call.alibi_slopes != nullptr;
  variants.sinks = call.sinks != nullptr;
  variants.grad_sinks = call.grad_sinks != nullptr;
  if (call.count > 0) {
    variants.sequences = {true, call.cu_seqlens_q != nullptr, call.left_padded != 0, call.count, call.max_len_q, call.max_len_kv};
  }
  fa::Tensor* const tensors[8] = {&args.q, &args.k, &args.v, &args.o, &args.grad_o, &args.grad_q, &args.grad_k, &args.grad_v};
  void* const data[8] = {call.q, call.k, call.v, call.o, call.grad_o, call.grad_q, call.grad_k, call.grad_v};
  for (int i = 0; i < 8; ++i) {
    *tensors[i] = {data[i], {call.strides[i][0], call.strides[i][1], call.strides[i][2]}};
  }
  args.device = {FA_DEVICE_CUDA, 0};
  args.lse = call.lse;
  args.grad_lse = call.grad_lse;
  args.grad_sinks = call.grad_sinks;
  args.workspace = call.workspace;
  args.variants.alibi_slopes = call.alibi_slopes;
  args.variants.alibi_batch_stride = call.alibi_batch_stride;
  args.variants.sinks = call.sinks;
  args.variants.cu_seqlens_q = call.cu_seqlens_q;
  args.variants.cu_seqlens_kv = call.cu_seqlens_kv;
  args.variants.seqused_q = call.seqused_q;
  args.variants.seqused_kv = call.seqused_kv;
  return args;
}

/// Bit of passes: the plain kernel of head_dim 128, to compare with.
constexpr int kPlain = 8;

void launch_plain(const fa::BackwardArgs& args, int passes) {
  constexpr int kTile = 1;
  using Tile = fa::sm90::PlannedBackwardTile<kTile>;
  const bool is_half = args.problem.dtype == fa::DType::kFloat16;
  fa::sm90::run_backward(
      Tile::kTile, args,
      is_half ? fa::sm90::launch_backward<fa::sm90::BackwardConfig<__half, Tile>> : fa::sm90::launch_backward<fa::sm90::BackwardConfig<__nv_bfloat16, Tile>>,
      passes);
}

fa::Plan plan_of(const fa::BackwardArgs& args) {
  fa::Plan plan;
  fa::Reason reason;
  if (!fa::plan_sm90_backward_modified(args.problem, fa::assumed_cuda_caps(90, 0), &plan, &reason)) {
    fa::fail(FA_STATUS_UNSUPPORTED, "%s", reason.text);
  }
  return plan;
}

void launch(const LabCall& call) {
  const fa::BackwardArgs args = args_of(call);
  if (call.passes & kPlain) {
    launch_plain(args, call.passes & 7);
    return;
  }
  fa::sm90::launch_modified_backward(plan_of(args), args, call.passes);
}

}  // namespace

/// Bytes of workspace, or -1 and lab_message().
extern "C" int64_t lab_workspace_bytes(const LabCall* call) {
  int64_t bytes = -1;
  guarded([&] { bytes = static_cast<int64_t>(plan_of(args_of(*call)).workspace_bytes); });
  return bytes;
}

/// One call on the default stream. 0, or 1 and lab_message().
extern "C" int lab_run(const LabCall* call) {
  return guarded([&] { launch(*call); });
}

/// Times of `repeats` calls in milliseconds, one after the other on the default stream, by events.
extern "C" int lab_time(const LabCall* call, int repeats, float* milliseconds) {
  return guarded([&] { time_launches(repeats, milliseconds, [&] { launch(*call); }); });
}
