// One configuration of the Hopper backward kernel as a shared object for lab_backward.py, which defines LAB_TILE, the initialiser of its Sm90BackwardTile.
#include <cuda_runtime.h>

#include "kernels/sm90/backward/launch_kernel.cuh"
#include "kernels/sm90/backward_wide/launch_kernel.cuh"
#include "lab_exports.cuh"

/// A call as lab_backward.py describes it; strides in elements (batch, seq, head). Outside the unnamed namespace, since exported functions take it.
struct LabCall {
  void *q, *k, *v, *o, *grad_o, *grad_q, *grad_k, *grad_v;
  float *lse, *grad_lse;
  void* workspace;
  int64_t batch, len_q, len_kv, heads_q, heads_kv, head_dim, head_dim_v;
  int64_t q_strides[3], k_strides[3], v_strides[3], o_strides[3], grad_o_strides[3], grad_q_strides[3], grad_k_strides[3], grad_v_strides[3];
  float scale;
  int32_t mask;  // 0 none, 1 causal top-left, 2 causal bottom-right
  int32_t is_bfloat16;
  int32_t passes;  // 1 prepare, 2 main, 4 finish and repair; their sum
  void* stream;    // null: the default stream
};

namespace {

struct LabTile {
  static constexpr fa::Sm90BackwardTile kTile = LAB_TILE;
};

fa::Tensor tensor(void* data, const int64_t (&strides)[3]) {
  return {data, {strides[0], strides[1], strides[2]}};
}

fa::BackwardArgs args_of(const LabCall& call) {
  fa::BackwardArgs args;
  fa::Problem& problem = args.problem;
  problem.pass = fa::Pass::kBackward;
  problem.dtype = call.is_bfloat16 ? fa::DType::kBFloat16 : fa::DType::kFloat16;
  problem.mask = call.mask == 0 ? fa::Mask::kNone : call.mask == 1 ? fa::Mask::kCausalTopLeft : fa::Mask::kCausalBottomRight;
  problem.batch = call.batch;
  problem.len_q = call.len_q;
  problem.len_kv = call.len_kv;
  problem.heads_q = call.heads_q;
  problem.heads_kv = call.heads_kv;
  problem.head_dim = call.head_dim;
  problem.head_dim_v = call.head_dim_v;
  problem.scale = call.scale;
  problem.deterministic = LabTile::kTile.deterministic;
  args.q = tensor(call.q, call.q_strides);
  args.k = tensor(call.k, call.k_strides);
  args.v = tensor(call.v, call.v_strides);
  args.o = tensor(call.o, call.o_strides);
  args.grad_o = tensor(call.grad_o, call.grad_o_strides);
  args.grad_q = tensor(call.grad_q, call.grad_q_strides);
  args.grad_k = tensor(call.grad_k, call.grad_k_strides);
  args.grad_v = tensor(call.grad_v, call.grad_v_strides);
  args.lse = call.lse;
  args.grad_lse = call.grad_lse;
  args.workspace = call.workspace;
  args.stream = call.stream;
  return args;
}

template <typename Element>
void launch_main(const fa::sm90::BackwardParams& params, cudaStream_t stream) {
  if constexpr (LabTile::kTile.is_wide()) {
    fa::sm90::launch_backward_wide<fa::sm90::BackwardWideConfig<Element, LabTile>>(params, stream);
  } else {
    fa::sm90::launch_backward<fa::sm90::BackwardConfig<Element, LabTile>>(params, stream);
  }
}

void launch(const LabCall& call) {
  fa::sm90::run_backward(LabTile::kTile, args_of(call), call.is_bfloat16 ? launch_main<__nv_bfloat16> : launch_main<__half>, call.passes);
}

}  // namespace

extern "C" int64_t lab_workspace_bytes(const LabCall* call) {
  return static_cast<int64_t>(fa::sm90_backward_workspace(LabTile::kTile, args_of(*call).problem).total_bytes);
}

/// One call on its stream. 0, or 1 and lab_message().
extern "C" int lab_run(const LabCall* call) {
  return guarded([&] { launch(*call); });
}

/// Times of `repeats` calls in milliseconds, one after the other on the default stream, by events.
extern "C" int lab_time(const LabCall* call, int repeats, float* milliseconds) {
  return guarded([&] { time_launches(repeats, milliseconds, [&] { launch(*call); }); });
}
