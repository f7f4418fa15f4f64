#include <algorithm>
#include <cstdio>

#include "plan/plan.h"
#include "plan/sequence_tables.h"
#include "plan/sm90_backward_tiles.h"
#include "plan/sm90_forward_tiles.h"
#include "plan/sm90_scores.h"

namespace fa {

namespace {

/// Sequences and products of sizes are 32-bit inside the kernel (tensor map coordinates are); addresses are 64-bit.
constexpr int64_t kMaxLength = int64_t{1} << 30;
constexpr int64_t kMaxTiles = int64_t{1} << 30;

/// Variants that plans are made for: those of kernels that have run on a GPU.
constexpr uint32_t kPlannedVariants = kSm90AlibiVariants | kSm90SoftcapVariants;

bool has_masks(const Problem& problem) {
  return problem.variants.visible || problem.variants.block_mask;
}

uint32_t planned_variants(const Problem& problem) {
  const bool bias =
      problem.variants.bias_in_tiles && std::max(problem.head_dim, problem.head_dim_v) <= kSm90ModifiedForwardTiles[kSm90BiasForwardTile].head_dim;
  const bool masks = has_masks(problem) && std::min({problem.batch, problem.len_q, problem.len_kv}) > 0 &&
                     std::max(problem.head_dim, problem.head_dim_v) <= kSm90ModifiedForwardTiles[kSm90LargestMaskTile].head_dim;
  return kPlannedVariants | (bias ? kVariantBias : 0u) | (masks ? kVariantVisible | kVariantBlockMask : 0u);
}

bool supported(const Problem& problem, const DeviceCaps& caps, Reason* why_not) {
  const auto integer = [](int64_t value) { return static_cast<long long>(value); };
  const int64_t largest_dim = std::max(problem.head_dim, problem.head_dim_v);
  if (caps.compute_capability != 90) {
    why_not->set("it needs compute capability 9.0 (wgmma), the device has %d.%d", caps.compute_capability / 10, caps.compute_capability % 10);
  } else if (problem.dtype == DType::kFloat32) {
    why_not->set("it computes float16 and bfloat16, not %s", dtype_name(problem.dtype));
  } else if (largest_dim > kSm90ForwardTiles[kNumSm90ForwardTiles - 1].head_dim) {
    why_not->set("head_dim and head_dim_v must be at most %d, got %lld and %lld", kSm90ForwardTiles[kNumSm90ForwardTiles - 1].head_dim,
                 integer(problem.head_dim), integer(problem.head_dim_v));
  } else if (problem.head_dim % 8 != 0 || problem.head_dim_v % 8 != 0) {
    why_not->set("head_dim and head_dim_v must be multiples of 8 (16-byte rows), got %lld and %lld", integer(problem.head_dim), integer(problem.head_dim_v));
  } else if (!problem.aligned_16_bytes) {
    why_not->set("addresses and strides of all tensors must be multiples of 16 bytes (TMA)");
  } else if (problem.len_q > kMaxLength || problem.len_kv > kMaxLength) {
    why_not->set("sequences must be at most %lld long, got %lld and %lld", integer(kMaxLength), integer(problem.len_q), integer(problem.len_kv));
  } else {
    return true;
  }
  return false;
}

}  // namespace

bool plan_sm90(const Problem& problem, const DeviceCaps& caps, Plan* plan, Reason* why_not) {
  if (problem.pass == Pass::kBackward) {
    return plan_sm90_backward(problem, caps, plan, why_not);
  }
  if (!supported(problem, caps, why_not) || refuse_variants(problem, planned_variants(problem), why_not)) {
    return false;
  }
  if (sm90_score_set_of(variants_of(problem)) == kSm90PairSet) {
    if (has_masks(problem)) {
      why_not->set("it does not compute %s together with a boolean or block mask", first_variant_beyond(problem, kSm90MaskVariants));
    } else {
      why_not->set("it computes softcap, ALiBi slopes and a bias each by itself, not together");
    }
    return false;
  }
  const bool modified = variants_of(problem) != 0;
  const int variant = modified ? sm90_modified_forward_tile_of(problem) : sm90_forward_tile_of(problem, caps.multiprocessors);
  const Sm90ForwardTile& tile = modified ? kSm90ModifiedForwardTiles[variant] : kSm90ForwardTiles[variant];
  const bool masks = has_masks(problem);
  if (masks && !visible_tiles_fit(sm90_mask_layout(problem, tile))) {
    why_not->set("its lists of the tiles and pairs that boolean and block mask show would take more than 4 GiB, or 32-bit indexes");
    return false;
  }
  if (caps.shared_memory_per_block_bytes < tile.shared_memory_bytes()) {
    why_not->set("it needs %lld bytes of shared memory per block, the device has %lld", static_cast<long long>(tile.shared_memory_bytes()),
                 static_cast<long long>(caps.shared_memory_per_block_bytes));
    return false;
  }
  const bool sequences = problem.variants.sequences.given;
  const int64_t q_tiles = sm90_query_tiles(problem, tile);
  const double head_tiles =
      sequences ? static_cast<double>(sequence_tiles(problem, true, tile.tile_q())) : static_cast<double>(q_tiles) * static_cast<double>(problem.batch);
  const double tiles = head_tiles * static_cast<double>(problem.heads_q);
  if (tiles > static_cast<double>(kMaxTiles)) {
    why_not->set("batch * heads_q * ceil(len_q / %d) must be at most %lld", tile.tile_q(), static_cast<long long>(kMaxTiles));
    return false;
  }

  const int64_t num_tiles = std::max<int64_t>(static_cast<int64_t>(tiles), sequences ? 1 : 0);
  const Sm90ForwardOrder order = sm90_forward_order(problem, tile, q_tiles, caps.multiprocessors);
  const bool persistent =
      sequences || masks || order == Sm90ForwardOrder::kPairs || sm90_persistent(problem, tile, q_tiles, int64_t{caps.multiprocessors} * tile.teams);
  plan->variant = variant;
  plan->tile_q = tile.tile_q();
  plan->tile_kv = tile.tile_kv;
  plan->stages = tile.stages;
  plan->threads = tile.threads();
  plan->registers_per_thread = tile.consumer_registers();
  plan->launches = masks ? 3 : sequences ? 2 : 1;
  plan->blocks = persistent ? std::min<int64_t>(num_tiles, caps.multiprocessors) : (num_tiles + tile.teams - 1) / tile.teams;
  if (order == Sm90ForwardOrder::kAdjacentTiles) {
    const int64_t even = sm90_even_blocks(tile, q_tiles, problem.batch * problem.heads_q, caps.multiprocessors);
    plan->blocks = even > 0 ? even : plan->blocks;
  }
  const Sm90SharedRound shared_round = modified ? Sm90SharedRound{} : sm90_shared_round_of(problem, tile, plan->blocks);
  plan->shared_memory_bytes = tile.shared_memory_bytes();
  plan->workspace_bytes = masks       ? sm90_mask_layout(problem, tile).total_bytes
                          : sequences ? sequence_table_bytes(sequence_tiles(problem, true, tile.tile_q()))
                                      : sm90_shared_round_layout(shared_round, tile.warpgroups, tile.head_dim).total_bytes;
  std::snprintf(plan->kernel_name, sizeof(plan->kernel_name), "sm90_forward_d%d_%dx%d%s", tile.head_dim, tile.tile_q(), tile.tile_kv,
                kSm90ScoreNames[sm90_score_set_of(variants_of(problem))]);
  plan->reason.set("Hopper: wgmma and TMA, %d x %d consumer warpgroups of 64 query rows, head_dim padded to %d; %s", tile.teams, tile.warpgroups, tile.head_dim,
                   masks                                        ? "persistent blocks go through lists of visible tiles, longest first"
                   : sequences                                  ? "persistent blocks, tiles of the longest sequence first"
                   : shared_round.tiles > 0                     ? "persistent blocks, all tiles alike, those of the last round shared along the keys"
                   : order == Sm90ForwardOrder::kSequence       ? "persistent blocks, all tiles alike"
                   : order == Sm90ForwardOrder::kShortTilesLast ? "persistent blocks, tiles that see fewer keys last"
                   : order == Sm90ForwardOrder::kPairs          ? "persistent blocks, causal tiles in pairs of equal work"
                   : order == Sm90ForwardOrder::kAdjacentTiles  ? "persistent blocks, causal tiles of a head side by side, back and forth"
                   : persistent                                 ? "persistent blocks, causal tiles longest first, back and forth"
                                                                : "one block per causal tile, longest first");
  return true;
}

}  // namespace fa
