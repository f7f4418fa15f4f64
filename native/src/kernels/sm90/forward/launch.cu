#include "dispatch/dispatch.h"
#include "kernels/sm90/forward/config.h"
#include "kernels/sm90/forward/launch.h"

namespace fa {

namespace sm90 {

namespace {

template <typename Element, int kVariant>
using Planned = ForwardConfig<Element, PlannedTile<kVariant>>;

using Launcher = void (*)(const ForwardParams&, int64_t, cudaStream_t);

/// [variant][0: fp16, 1: bf16], in the order of kSm90ForwardTiles.
constexpr Launcher kLaunchers[][2] = {
    {launch_forward<Planned<__half, 0>>, launch_forward<Planned<__nv_bfloat16, 0>>},
    {launch_forward<Planned<__half, 1>>, launch_forward<Planned<__nv_bfloat16, 1>>},
    {launch_forward<Planned<__half, 2>>, launch_forward<Planned<__nv_bfloat16, 2>>},
    {launch_forward<Planned<__half, 3>>, launch_forward<Planned<__nv_bfloat16, 3>>},
    {launch_forward<Planned<__half, 4>>, launch_forward<Planned<__nv_bfloat16, 4>>},
    {launch_forward<Planned<__half, 5>>, launch_forward<Planned<__nv_bfloat16, 5>>},
};
static_assert(sizeof(kLaunchers) / sizeof(kLaunchers[0]) == kNumSm90ForwardTiles, "one row per tile");

}  // namespace

}  // namespace sm90

void sm90_forward(const Plan& plan, const ForwardArgs& args) {
  if (args.problem.batch == 0 || args.problem.len_q == 0) {
    return;
  }
  const Sm90ForwardTile& tile = kSm90ForwardTiles[plan.variant];
  const int64_t q_tiles = (args.problem.len_q + tile.tile_q() - 1) / tile.tile_q();
  const sm90::ForwardParams params = sm90::make_forward_params(tile, args, plan.blocks, sm90_forward_order(args.problem, tile, q_tiles, plan.blocks));
  sm90::kLaunchers[plan.variant][args.problem.dtype == DType::kFloat16 ? 0 : 1](params, plan.blocks, static_cast<cudaStream_t>(args.stream));
}

}  // namespace fa
