// Launches what the plan chose: prepare, main, finish.
#include "kernels/sm90/backward/launch.h"

#include "dispatch/dispatch.h"
#include "kernels/sm90/backward/config.h"

namespace fa {

namespace sm90 {

namespace {

template <typename Element, int kVariant>
using Planned = BackwardConfig<Element, PlannedBackwardTile<kVariant>>;

using BackwardLauncher = void (*)(const BackwardParams&, cudaStream_t);

/// [variant][0: fp16, 1: bf16], in the order of kSm90BackwardTiles.
constexpr BackwardLauncher kBackwardLaunchers[][2] = {
    {launch_backward<Planned<__half, 0>>, launch_backward<Planned<__nv_bfloat16, 0>>},
    {launch_backward<Planned<__half, 1>>, launch_backward<Planned<__nv_bfloat16, 1>>},
};
static_assert(sizeof(kBackwardLaunchers) / sizeof(kBackwardLaunchers[0]) == kNumSm90BackwardTiles, "one row per tile");

}  // namespace

}  // namespace sm90

void sm90_backward(const Plan& plan, const BackwardArgs& args) {
  const Problem& problem = args.problem;
  const Sm90BackwardTile& tile = kSm90BackwardTiles[plan.variant];
  const auto stream = static_cast<cudaStream_t>(args.stream);
  const bool has_queries = problem.batch > 0 && problem.len_q > 0;
  if (has_queries) {
    sm90::launch_backward_prepare(sm90::make_backward_pass_params(tile, args), problem.dtype, tile.head_dim, stream);
  }
  if (problem.batch > 0 && problem.len_kv > 0) {
    sm90::kBackwardLaunchers[plan.variant][problem.dtype == DType::kFloat16 ? 0 : 1](sm90::make_backward_params(tile, args), stream);
  }
  if (has_queries) {
    sm90::launch_backward_finish(sm90::make_backward_pass_params(tile, args), problem.dtype, tile.head_dim, stream);
  }
}

}  // namespace fa
