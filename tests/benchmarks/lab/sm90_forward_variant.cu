// One configuration of the Hopper forward kernel as a shared object for lab.py, which defines LAB_TILE, the initialiser of its Sm90ForwardTile.
#include <cuda_runtime.h>

#include <algorithm>

#include "kernels/sm90/forward/launch_kernel.cuh"
#include "lab_exports.cuh"
#include "plan/plan.h"

/// A call as lab.py describes it; strides in elements (batch, seq, head). Outside the unnamed namespace, since exported functions take it.
struct LabCall {
  void *q, *k, *v, *o;
  float* lse;
  int64_t batch, len_q, len_kv, heads_q, heads_kv, head_dim, head_dim_v;
  int64_t q_strides[3], k_strides[3], v_strides[3], o_strides[3];
  float scale;
  int32_t mask;  // 0 none, 1 causal top-left, 2 causal bottom-right
  int32_t is_bfloat16;
  int64_t multiprocessors;
  int32_t order;  // of work: a number of Sm90ForwardOrder, -1 the planner's choice
};

/// What variants.cpp asks of the planner, which is not here.
void fa::Reason::set(const char*, ...) {}

namespace {

struct LabTile {
  static constexpr fa::Sm90ForwardTile kTile = LAB_TILE;
  static constexpr bool kSharesTiles = false;
};

fa::Tensor tensor(void* data, const int64_t (&strides)[3]) {
  return {data, {strides[0], strides[1], strides[2]}};
}

fa::sm90::ForwardParams params_of(const LabCall& call, int64_t* blocks) {
  fa::ForwardArgs args;
  fa::Problem& problem = args.problem;
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
  args.q = tensor(call.q, call.q_strides);
  args.k = tensor(call.k, call.k_strides);
  args.v = tensor(call.v, call.v_strides);
  args.o = tensor(call.o, call.o_strides);
  args.lse = call.lse;
  const int64_t q_tiles = (call.len_q + LabTile::kTile.tile_q() - 1) / LabTile::kTile.tile_q();
  const int64_t num_tiles = q_tiles * call.batch * call.heads_q;
  constexpr int kTeams = LabTile::kTile.teams;
  using Order = fa::Sm90ForwardOrder;
  const Order order = call.order == -1       ? fa::sm90_forward_order(problem, LabTile::kTile, q_tiles, call.multiprocessors)
                      : !problem.is_causal() ? Order::kSequence
                                             : static_cast<Order>(call.order);
  const bool persistent = order == Order::kPairs || fa::sm90_persistent(problem, LabTile::kTile, q_tiles, call.multiprocessors * kTeams);
  *blocks = persistent ? std::min(num_tiles, call.multiprocessors) : (num_tiles + kTeams - 1) / kTeams;
  if (order == Order::kAdjacentTiles) {
    const int64_t even = fa::sm90_even_blocks(LabTile::kTile, q_tiles, call.batch * call.heads_q, call.multiprocessors);
    *blocks = even > 0 ? even : *blocks;
  }
  return fa::sm90::make_forward_params(LabTile::kTile, args, *blocks, order);
}

void launch(const LabCall& call) {
  int64_t blocks = 0;
  const fa::sm90::ForwardParams params = params_of(call, &blocks);
  if (call.is_bfloat16) {
    fa::sm90::launch_forward<fa::sm90::ForwardConfig<__nv_bfloat16, LabTile>>(params, blocks, nullptr);
  } else {
    fa::sm90::launch_forward<fa::sm90::ForwardConfig<__half, LabTile>>(params, blocks, nullptr);
  }
}

}  // namespace

/// One call on the default stream. 0, or 1 and lab_message().
extern "C" int lab_run(const LabCall* call) {
  return guarded([&] { launch(*call); });
}

/// Times of `repeats` calls in milliseconds, one after the other on the default stream, by events.
extern "C" int lab_time(const LabCall* call, int repeats, float* milliseconds) {
  return guarded([&] { time_launches(repeats, milliseconds, [&] { launch(*call); }); });
}
