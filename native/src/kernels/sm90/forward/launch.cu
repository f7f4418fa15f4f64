#include "dispatch/dispatch.h"
#include "kernels/sm80/sequences/prepare.h"
#include "kernels/sm90/forward/config.h"
#include "kernels/sm90/forward/launch.h"
#include "kernels/sm90/visible_tiles/prepare.h"
#include "runtime/cuda_check.h"

namespace fa {

namespace sm90 {

namespace {

using Launcher = void (*)(const SharedForwardParams&, int64_t, cudaStream_t);
using ModifiedLauncher = void (*)(const ModifiedForwardParams&, int64_t, cudaStream_t);

/// All are handed what those need that share tiles.
template <typename Element, int kVariant>
void launch_planned(const SharedForwardParams& params, int64_t blocks, cudaStream_t stream) {
  if constexpr (kSm90ForwardTiles[kVariant].own_sharing_kernel) {
    if (params.round.tiles > 0) {
      launch_forward<ForwardConfig<Element, SharingPlannedTile<kVariant>>>(params, blocks, stream);
      return;
    }
  }
  launch_forward<ForwardConfig<Element, PlannedTile<kVariant>>>(params, blocks, stream);
}

/// [variant][0: fp16, 1: bf16], in the order of kSm90ForwardTiles.
constexpr Launcher kLaunchers[][2] = {
    {launch_planned<__half, 0>, launch_planned<__nv_bfloat16, 0>}, {launch_planned<__half, 1>, launch_planned<__nv_bfloat16, 1>},
    {launch_planned<__half, 2>, launch_planned<__nv_bfloat16, 2>}, {launch_planned<__half, 3>, launch_planned<__nv_bfloat16, 3>},
    {launch_planned<__half, 4>, launch_planned<__nv_bfloat16, 4>}, {launch_planned<__half, 5>, launch_planned<__nv_bfloat16, 5>},
    {launch_planned<__half, 6>, launch_planned<__nv_bfloat16, 6>},
};
static_assert(sizeof(kLaunchers) / sizeof(kLaunchers[0]) == kNumSm90ForwardTiles, "one row per tile");

template <int kVariant, int kSet>
constexpr ModifiedLauncher kModified[2] = {launch_forward<ModifiedForward<__half, kVariant, kSet>>,
                                           launch_forward<ModifiedForward<__nv_bfloat16, kVariant, kSet>>};

/// [row of kSm90ModifiedForwardTiles][row of kSm90ScoreSets - 1] -> [0: fp16, 1: bf16].
constexpr const ModifiedLauncher* kModifiedLaunchers[][kSm90PairSet - 1] = {
    {nullptr, kModified<0, 2>, kModified<0, 3>},
    {nullptr, kModified<1, 2>, kModified<1, 3>},
    {kModified<2, 1>, kModified<2, 2>, kModified<2, 3>},
    {nullptr, nullptr, nullptr, kModified<kSm90BiasForwardTile, kSm90BiasSet>},
    {kModified<kSm90RangeForwardTile, 1>},
    {kModified<kSm90NarrowRangeForwardTile, 1>},
};
static_assert(sizeof(kModifiedLaunchers) / sizeof(kModifiedLaunchers[0]) == sizeof(kSm90ModifiedForwardTiles) / sizeof(kSm90ModifiedForwardTiles[0]),
              "a row each");

/// [row of kSm90ModifiedForwardTiles][0: fp16, 1: bf16].
constexpr void (*kMaskedLaunchers[][2])(const MaskedForwardParams&, int64_t, cudaStream_t) = {
    {launch_forward<ModifiedForward<__half, 0, kSm90MaskSet>>, launch_forward<ModifiedForward<__nv_bfloat16, 0, kSm90MaskSet>>},
    {launch_forward<ModifiedForward<__half, 1, kSm90MaskSet>>, launch_forward<ModifiedForward<__nv_bfloat16, 1, kSm90MaskSet>>},
};
static_assert(sizeof(kMaskedLaunchers) / sizeof(kMaskedLaunchers[0]) == kSm90LargestMaskTile + 1, "a row each");

/// Sequences: writes the table of query tiles, and the outputs where no sequence is.
void prepare(const Sm90ForwardTile& tile, const ForwardArgs& args) {
  const Problem& problem = args.problem;
  SequenceJob job = sequence_job_of(problem, args.variants);
  job.tables[0] = sequence_table_at(args.workspace, problem, true, tile.tile_q());
  job.gaps[0] = {static_cast<uint16_t*>(args.o.data), args.o.strides, static_cast<int32_t>(problem.heads_q), static_cast<int32_t>(problem.head_dim_v), true};
  job.lse = args.lse;
  prepare_sequences(job, args.device, args.stream);
}

}  // namespace

}  // namespace sm90

void sm90_forward(const Plan& plan, const ForwardArgs& args) {
  if (args.problem.batch == 0 || args.problem.len_q == 0) {
    return;
  }
  const int set = sm90_score_set_of(variants_of(args.problem));
  const Sm90ForwardTile& tile = set > 0 ? kSm90ModifiedForwardTiles[plan.variant] : kSm90ForwardTiles[plan.variant];
  const int64_t q_tiles = sm90_query_tiles(args.problem, tile);
  const Sm90ForwardOrder order = sm90_forward_order(args.problem, tile, q_tiles, plan.blocks);
  const bool is_half = args.problem.dtype == DType::kFloat16;
  const auto stream = static_cast<cudaStream_t>(args.stream);
  if (set == kSm90MaskSet) {
    prepare_visible_tiles(sm90::visible_tiles_job_of(tile, args), args.stream);
    sm90::kMaskedLaunchers[plan.variant][is_half ? 0 : 1](sm90::make_masked_forward_params(tile, args, plan.blocks), plan.blocks, stream);
  } else if (set > 0) {
    if (args.problem.variants.sequences.given) {
      sm90::prepare(tile, args);
    }
    sm90::kModifiedLaunchers[plan.variant][set - 1][is_half ? 0 : 1](sm90::make_modified_forward_params(tile, args, plan.blocks, order), plan.blocks, stream);
  } else {
    const sm90::SharedForwardParams params = sm90::make_shared_forward_params(tile, args, plan.blocks, order);
    if (params.round.tiles > 0) {
      const Sm90SharedRoundLayout layout = sm90_shared_round_layout(params.round, tile.warpgroups, tile.head_dim);
      cuda_check(cudaMemsetAsync(params.arrivals, 0, layout.counters_bytes, stream), "cudaMemsetAsync of the shared tiles' counters");
    }
    sm90::kLaunchers[plan.variant][is_half ? 0 : 1](params, plan.blocks, stream);
  }
}

}  // namespace fa
