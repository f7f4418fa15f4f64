// Plans of the Hopper backward kernels with modified scores.
#include <algorithm>
#include <cstdio>

#include "plan/sm90_backward_modified.h"

namespace fa {

namespace {

/// Positions are 32-bit inside the kernels, with room for sums and differences of two of them; so are work items and tiles of the accumulator.
constexpr int64_t kMaxLength = int64_t{1} << 29;
constexpr double kMaxWork = 1.0e8;
constexpr double kMaxRows = 2147483647.0 * 8;
constexpr double kMaxPairs = 17592186044416.0;

/// Variants that plans are made for: what the sets have together.
constexpr uint32_t kPlannedVariants = kSm90AlibiVariants | kSm90SoftcapVariants | kVariantSequences | kSm90MaskVariants;
constexpr uint32_t kMasks = kVariantVisible | kVariantBlockMask;

/// Place in kSm90ScoreSets of what the kernel computes between the products.
int set_of(const Problem& problem) {
  return sm90_score_set_of(variants_of(problem) & ~(kVariantSequences | kVariantGradBias));
}

/// Why the kernels do not take the problem's bias; null if they do, or if there is none.
const char* bias_refusal(const Problem& problem) {
  const Variants& v = problem.variants;
  if (!v.bias) {
    return nullptr;
  }
  if (!v.bias_in_tiles) {
    return "it does not compute an additive bias other than one of 16 bits with a row for every query and rows of whole 16 bytes";
  }
  if (v.sequences.given) {
    return "its backward pass does not compute an additive bias together with sequences of different lengths";
  }
  if (!v.grad_bias) {
    return nullptr;
  }
  if (problem.batch == 0 && v.bias_batches > 0) {
    return "it does not write the gradient of a bias that no batch entry reads";  // zeros: without entries no kernel comes to its tiles
  }
  if (!v.grad_bias_in_tiles) {
    return "address and strides of the gradient of the bias, and len_kv, must be multiples of 16 bytes (TMA)";
  }
  if (static_cast<double>(problem.len_q) * static_cast<double>(problem.len_kv) * static_cast<double>(v.bias_heads * v.bias_batches) > kMaxPairs) {
    return "the gradient of the bias must have at most 2^44 elements";
  }
  return nullptr;
}

bool supported(const Problem& problem, const DeviceCaps& caps, Reason* why_not) {
  const auto integer = [](int64_t value) { return static_cast<long long>(value); };
  const Sm90ModifiedBackwardTile& largest = kSm90ModifiedBackwardTiles[kNumSm90ModifiedBackwardTiles - 1];
  if (refuse_variants(problem, kPlannedVariants | kVariantBias | kVariantGradBias, why_not)) {
    return false;
  }
  if (bias_refusal(problem) != nullptr) {
    why_not->set("%s", bias_refusal(problem));
  } else if (caps.compute_capability != 90) {
    why_not->set("it needs compute capability 9.0 (wgmma), the device has %d.%d", caps.compute_capability / 10, caps.compute_capability % 10);
  } else if ((variants_of(problem) & kMasks) != 0 && (variants_of(problem) & ~kSm90MaskVariants) != 0) {
    why_not->set("its backward pass computes a boolean or block mask beside causal mask, window, chunks and sinks, not together with %s",
                 first_variant_beyond(problem, kSm90MaskVariants));
  } else if (set_of(problem) > kNumSm90ModifiedBackwardSets) {
    why_not->set("its backward pass computes softcap, ALiBi slopes and a bias each by itself, not together");
  } else if (problem.deterministic) {
    why_not->set("its deterministic backward pass computes no mask and score variants");
  } else if (problem.dtype == DType::kFloat32) {
    why_not->set("it computes float16 and bfloat16, not %s", dtype_name(problem.dtype));
  } else if (std::max(problem.head_dim, problem.head_dim_v) > largest.head_dim) {
    why_not->set("its backward pass with mask and score variants takes head_dim and head_dim_v of at most %d, got %lld and %lld", largest.head_dim,
                 integer(problem.head_dim), integer(problem.head_dim_v));
  } else if (problem.head_dim % 8 != 0 || problem.head_dim_v % 8 != 0) {
    why_not->set("head_dim and head_dim_v must be multiples of 8 (16-byte rows), got %lld and %lld", integer(problem.head_dim), integer(problem.head_dim_v));
  } else if (!problem.aligned_16_bytes) {
    why_not->set("addresses and strides of all tensors must be multiples of 16 bytes (TMA)");
  } else if (problem.len_q > kMaxLength || problem.len_kv > kMaxLength) {
    why_not->set("sequences must be at most %lld long, got %lld and %lld", integer(kMaxLength), integer(problem.len_q), integer(problem.len_kv));
  } else if (caps.shared_memory_per_block_bytes < largest.shared_memory_bytes()) {
    why_not->set("it needs %lld bytes of shared memory per block, the device has %lld", integer(largest.shared_memory_bytes()),
                 integer(caps.shared_memory_per_block_bytes));
  } else {
    return true;
  }
  return false;
}

}  // namespace

bool plan_sm90_backward_modified(const Problem& problem, const DeviceCaps& caps, Plan* plan, Reason* why_not) {
  if (!supported(problem, caps, why_not)) {
    return false;
  }
  const int tile_index = std::max(problem.head_dim, problem.head_dim_v) <= kSm90ModifiedBackwardTiles[0].head_dim ? 0 : 1;
  const Sm90ModifiedBackwardTile& tile = kSm90ModifiedBackwardTiles[tile_index];
  const double heads = static_cast<double>(problem.batch) * static_cast<double>(problem.heads_q);
  const double sequences = static_cast<double>(problem.num_sequences()) * static_cast<double>(problem.heads_q);
  const double work = (heads * static_cast<double>(problem.len_kv / tile.tile_kv() + 1) + sequences),
               rows = heads * static_cast<double>(problem.len_q) + 128 * sequences;
  if (work > kMaxWork || rows > kMaxRows) {
    why_not->set("batch * heads * len_kv / %d must be at most %.0f, batch * heads_q * len_q at most %.0f", tile.tile_kv(), kMaxWork, kMaxRows);
    return false;
  }
  if (sm90_modified_lists_tiles(problem) && !visible_tiles_fit(sm90_modified_visible_layout(tile, problem))) {
    why_not->set("its lists of the tiles and pairs that boolean and block mask show would take more than 4 GiB, or 32-bit indexes");
    return false;
  }
  // Sequences alone take the set with the fewest variants.
  const int set = std::max(set_of(problem), 1);
  const Sm90ModifiedBackwardWorkspace workspace = sm90_modified_backward_workspace(tile, problem);
  plan->variant = sm90_modified_backward_variant(tile_index, set);
  plan->tile_q = tile.tile_q;
  plan->tile_kv = tile.tile_kv();
  plan->stages = tile.kStages;
  plan->threads = tile.threads();
  plan->registers_per_thread = tile.consumer_registers();
  plan->launches = 4 - (sm90_modified_finish_inside(tile, problem) ? 1 : 0) + (problem.variants.sequences.given ? 1 : 0) +
                   (problem.variants.grad_sinks ? 1 : 0) + (sm90_modified_zeros_grad_bias(problem) || sm90_sums_grad_bias(problem) ? 1 : 0) +
                   (sm90_modified_lists_tiles(problem) ? 2 : 0);
  plan->blocks = std::min<int64_t>(workspace.num_work, caps.multiprocessors);
  plan->shared_memory_bytes = tile.shared_memory_bytes();
  plan->workspace_bytes = workspace.total_bytes;
  std::snprintf(plan->kernel_name, sizeof(plan->kernel_name), "sm90_backward_d%d_%dx%d%s%s", tile.head_dim, tile.tile_q, tile.tile_kv(), kSm90ScoreNames[set],
                problem.variants.sequences.given ? "_sequences" : "");
  plan->reason.set(
      "Hopper: wgmma and TMA, persistent blocks of 2 consumer warpgroups of 64 keys, head_dim padded to %d; key tiles go through the query tiles "
      "that see them; grad_q by fp32 additions in any order",
      tile.head_dim);
  return true;
}

}  // namespace fa
