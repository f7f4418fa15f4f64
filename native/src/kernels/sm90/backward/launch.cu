#include "dispatch/dispatch.h"
#include "kernels/sm90/backward/config.h"
#include "kernels/sm90/backward/launch.h"
#include "kernels/sm90/backward_modified/launch.h"
#include "kernels/sm90/backward_wide/config.h"
#include "kernels/sm90/backward_wide/launch.h"

namespace fa {

namespace sm90 {

namespace {

template <typename Element, int kVariant>
using Planned = BackwardConfig<Element, PlannedBackwardTile<kVariant>>;
template <typename Element, int kVariant>
using PlannedWide = BackwardWideConfig<Element, PlannedBackwardTile<kVariant>>;

using BackwardLauncher = void (*)(const BackwardParams&, cudaStream_t);

/// [variant][0: fp16, 1: bf16], in the order of kSm90BackwardTiles.
constexpr BackwardLauncher kBackwardLaunchers[][2] = {
    {launch_backward<Planned<__half, 0>>, launch_backward<Planned<__nv_bfloat16, 0>>},
    {launch_backward<Planned<__half, 1>>, launch_backward<Planned<__nv_bfloat16, 1>>},
    {launch_backward_wide<PlannedWide<__half, 2>>, launch_backward_wide<PlannedWide<__nv_bfloat16, 2>>},
    {launch_backward_wide<PlannedWide<__half, 3>>, launch_backward_wide<PlannedWide<__nv_bfloat16, 3>>},
    {launch_backward<Planned<__half, 4>>, launch_backward<Planned<__nv_bfloat16, 4>>},
    {launch_backward<Planned<__half, 5>>, launch_backward<Planned<__nv_bfloat16, 5>>},
    {launch_backward<Planned<__half, 6>>, launch_backward<Planned<__nv_bfloat16, 6>>},
    {launch_backward_wide<PlannedWide<__half, 7>>, launch_backward_wide<PlannedWide<__nv_bfloat16, 7>>},
    {launch_backward_wide<PlannedWide<__half, 8>>, launch_backward_wide<PlannedWide<__nv_bfloat16, 8>>},
    {launch_backward<Planned<__half, 9>>, launch_backward<Planned<__nv_bfloat16, 9>>},
    {launch_backward<Planned<__half, 10>>, launch_backward<Planned<__nv_bfloat16, 10>>},
    {launch_backward<Planned<__half, 11>>, launch_backward<Planned<__nv_bfloat16, 11>>},
};
static_assert(sizeof(kBackwardLaunchers) / sizeof(kBackwardLaunchers[0]) == kNumSm90BackwardTiles, "one row per tile");

}  // namespace

}  // namespace sm90

void sm90_backward(const Plan& plan, const BackwardArgs& args) {
  if (plan.variant >= kFirstSm90ModifiedBackwardVariant) {
    sm90::launch_modified_backward(plan, args);
    return;
  }
  sm90::run_backward(kSm90BackwardTiles[plan.variant], args, sm90::kBackwardLaunchers[plan.variant][args.problem.dtype == DType::kFloat16 ? 0 : 1]);
}

}  // namespace fa
