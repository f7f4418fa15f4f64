#include "kernels/sm90/backward_modified/config.h"
#include "kernels/sm90/backward_modified/launch.h"
#include "kernels/sm90/grad_bias/launch.h"

namespace fa::sm90 {

namespace {

template <typename Element, int kTileIndex, int kSet>
constexpr ModifiedBackwardLauncher kLauncher = launch_modified_backward<ModifiedBackwardConfig<Element, kTileIndex, kSet>>;

/// [tile][set - 1][0: fp16, 1: bf16], in the order of kSm90ModifiedBackwardTiles and kSm90ScoreSets.
constexpr ModifiedBackwardLauncher kLaunchers[][kNumSm90ModifiedBackwardSets][2] = {
    {{kLauncher<__half, 0, 1>, kLauncher<__nv_bfloat16, 0, 1>},
     {kLauncher<__half, 0, 2>, kLauncher<__nv_bfloat16, 0, 2>},
     {kLauncher<__half, 0, 3>, kLauncher<__nv_bfloat16, 0, 3>},
     {kLauncher<__half, 0, 4>, kLauncher<__nv_bfloat16, 0, 4>},
     {kLauncher<__half, 0, kSm90MaskSet>, kLauncher<__nv_bfloat16, 0, kSm90MaskSet>}},
    {{kLauncher<__half, 1, 1>, kLauncher<__nv_bfloat16, 1, 1>},
     {kLauncher<__half, 1, 2>, kLauncher<__nv_bfloat16, 1, 2>},
     {kLauncher<__half, 1, 3>, kLauncher<__nv_bfloat16, 1, 3>},
     {kLauncher<__half, 1, 4>, kLauncher<__nv_bfloat16, 1, 4>},
     {kLauncher<__half, 1, kSm90MaskSet>, kLauncher<__nv_bfloat16, 1, kSm90MaskSet>}},
};
static_assert(sizeof(kLaunchers) / sizeof(kLaunchers[0]) == kNumSm90ModifiedBackwardTiles, "one row per tile");

}  // namespace

void launch_modified_backward(const Plan& plan, const BackwardArgs& args, int passes) {
  const int place = plan.variant - kFirstSm90ModifiedBackwardVariant;
  const int tile = place % kNumSm90ModifiedBackwardTiles, set = place / kNumSm90ModifiedBackwardTiles;
  const int element = args.problem.dtype == DType::kFloat16 ? 0 : 1;
  run_modified_backward(kSm90ModifiedBackwardTiles[tile], args, kLaunchers[tile][set - 1][element], static_cast<int>(plan.blocks), passes);
  if (sm90_sums_grad_bias(args.problem) && (passes & kModifiedPassMain)) {
    const Sm90ModifiedBackwardWorkspace workspace = sm90_modified_backward_workspace(kSm90ModifiedBackwardTiles[tile], args.problem);
    const auto* base = static_cast<const char*>(args.workspace);
    launch_shared_grad_bias(args, reinterpret_cast<const float*>(base), reinterpret_cast<const float*>(base + workspace.delta_offset_bytes),
                            workspace.padded_rows);
  }
}

}  // namespace fa::sm90
