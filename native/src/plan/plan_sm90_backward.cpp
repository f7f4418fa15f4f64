// Plans of the Hopper backward kernel.
#include <algorithm>
#include <cstdio>

#include "plan/plan.h"
#include "plan/sm90_backward_modified.h"
#include "plan/sm90_backward_tiles.h"

namespace fa {

namespace {

/// Positions are 32-bit inside the kernels, with room for sums and differences of two of them.
constexpr int64_t kMaxLength = int64_t{1} << 29;
constexpr double kMaxBlocks = 2147483647.0;
/// The passes around the main kernel have up to 32 threads per padded row and 256 threads per block.
constexpr double kMaxRows = 8.0 * kMaxBlocks;

/// Whether a deterministic tile is the faster one for a call that asks for no order: for its lengths and heads.
bool serves_any_order(const Sm90BackwardTile& tile, const Problem& problem) {
  const int64_t longest = problem.is_causal() || tile.any_order_full_max == 0 ? tile.any_order_max : tile.any_order_full_max;
  return !problem.deterministic && tile.deterministic && problem.len_q >= tile.any_order_min && problem.len_q <= longest && problem.len_kv > 0 &&
         problem.len_kv <= longest && problem.batch * problem.heads_kv >= tile.any_order_heads;
}

/// Whether the persistent blocks of the kernel for score variants are the faster ones (README.md of the kernel, log 26): they load the next tile of keys
/// beside the work on the current one, which pays where tiles have few steps and blocks many tiles.
bool takes_persistent_blocks(const Problem& problem) {
  constexpr int64_t kShortest = 129, kLongest = 1024, kTilesPerBlock = 4;
  const Sm90ModifiedBackwardTile& tile = kSm90ModifiedBackwardTiles[0];
  const auto is_short = [](int64_t length) { return length >= kShortest && length <= kLongest; };
  const int64_t tiles = problem.batch * problem.heads_kv * ((problem.len_kv + tile.tile_kv() - 1) / tile.tile_kv());
  return !problem.deterministic && std::max(problem.head_dim, problem.head_dim_v) <= tile.head_dim && is_short(problem.len_q) && is_short(problem.len_kv) &&
         tiles >= kTilesPerBlock * kSm90ResidentBlocks;
}

/// Index of the tile for a problem; -1 if there is none.
int choose_tile(const Problem& problem) {
  const auto better = [&](const Sm90BackwardTile& a, const Sm90BackwardTile& b) {
    if (a.head_dim != b.head_dim) {
      return a.head_dim < b.head_dim;
    }
    return a.deterministic != b.deterministic ? serves_any_order(a, problem) : a.min_len_q > b.min_len_q;
  };
  int best = -1;
  for (int i = 0; i < kNumSm90BackwardTiles; ++i) {
    const Sm90BackwardTile& tile = kSm90BackwardTiles[i];
    const bool fits = (tile.deterministic == problem.deterministic || serves_any_order(tile, problem)) &&
                      tile.head_dim >= std::max(problem.head_dim, problem.head_dim_v) && tile.min_len_q <= problem.len_q;
    if (fits && (best < 0 || better(tile, kSm90BackwardTiles[best]))) {
      best = i;
    }
  }
  return best;
}

/// Largest head_dim of a mode.
int largest_head_dim(bool deterministic) {
  int largest = 0;
  for (const Sm90BackwardTile& tile : kSm90BackwardTiles) {
    largest = tile.deterministic == deterministic ? std::max(largest, tile.head_dim) : largest;
  }
  return largest;
}

bool supported(const Problem& problem, const DeviceCaps& caps, Reason* why_not) {
  const auto integer = [](int64_t value) { return static_cast<long long>(value); };
  const int64_t largest_dim = std::max(problem.head_dim, problem.head_dim_v);
  const int largest_tile_dim = largest_head_dim(problem.deterministic);
  if (caps.compute_capability != 90) {
    why_not->set("it needs compute capability 9.0 (wgmma), the device has %d.%d", caps.compute_capability / 10, caps.compute_capability % 10);
  } else if (problem.dtype == DType::kFloat32) {
    why_not->set("it computes float16 and bfloat16, not %s", dtype_name(problem.dtype));
  } else if (largest_dim > largest_tile_dim) {
    why_not->set("its %sbackward pass takes head_dim and head_dim_v of at most %d, got %lld and %lld", problem.deterministic ? "deterministic " : "",
                 largest_tile_dim, integer(problem.head_dim), integer(problem.head_dim_v));
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

bool plan_sm90_backward(const Problem& problem, const DeviceCaps& caps, Plan* plan, Reason* why_not) {
  if (variants_of(problem) != 0) {
    return plan_sm90_backward_modified(problem, caps, plan, why_not);
  }
  if (!supported(problem, caps, why_not)) {
    return false;
  }
  if (Reason ignored; takes_persistent_blocks(problem) && plan_sm90_backward_modified(problem, caps, plan, &ignored)) {
    std::snprintf(plan->kernel_name, sizeof(plan->kernel_name), "sm90_backward_d%d_%dx%d_persistent", kSm90ModifiedBackwardTiles[0].head_dim, plan->tile_q,
                  plan->tile_kv);
    return true;
  }
  const int variant = choose_tile(problem);
  const Sm90BackwardTile& tile = kSm90BackwardTiles[variant];
  if (caps.shared_memory_per_block_bytes < tile.shared_memory_bytes()) {
    why_not->set("it needs %lld bytes of shared memory per block, the device has %lld", static_cast<long long>(tile.shared_memory_bytes()),
                 static_cast<long long>(caps.shared_memory_per_block_bytes));
    return false;
  }
  const int64_t kv_tiles = (problem.len_kv + tile.tile_kv() - 1) / tile.tile_kv();
  const double blocks = static_cast<double>(kv_tiles * tile.blocks_per_tile()) * static_cast<double>(problem.batch) * static_cast<double>(problem.heads_kv);
  const double rows = static_cast<double>(problem.len_q + tile.row_padding()) * static_cast<double>(problem.batch) * static_cast<double>(problem.heads_q);
  if (blocks > kMaxBlocks || rows > kMaxRows) {
    why_not->set("batch * heads_kv * ceil(len_kv / %d) and batch * heads_q * len_q / 8 must be at most 2^31", tile.kv_box_rows());
    return false;
  }

  plan->variant = variant;
  plan->tile_q = tile.tile_q;
  plan->tile_kv = tile.tile_kv();
  plan->stages = tile.kStages;
  plan->threads = tile.threads();
  plan->registers_per_thread = tile.consumer_registers();
  plan->launches = 3 + (problem.is_causal() ? 1 : 0) - (tile.finishes_grad_q() ? 1 : 0);
  plan->blocks = kv_tiles * problem.batch * problem.heads_kv * tile.blocks_per_tile();
  plan->shared_memory_bytes = tile.shared_memory_bytes();
  plan->workspace_bytes = sm90_backward_workspace(tile, problem).total_bytes;
  std::snprintf(plan->kernel_name, sizeof(plan->kernel_name), "sm90_backward_d%d_%dx%d%s", tile.head_dim, tile.tile_q, tile.tile_kv(),
                tile.deterministic ? "_deterministic" : "");
  if (tile.is_wide()) {
    plan->reason.set(
        "Hopper: wgmma and TMA, clusters of 2 blocks of 64 keys, head_dim padded to %d; blocks exchange dS and add half of grad_q's columns each, %s",
        tile.head_dim, tile.deterministic ? "in the order of the keys" : "in any order");
  } else {
    plan->reason.set("Hopper: wgmma and TMA, 2 consumer warpgroups of 64 keys, head_dim padded to %d; P and dS stay in registers, grad_q by fp32 additions %s",
                     tile.head_dim, tile.deterministic ? "from the last key tile to the first" : "in any order");
  }
  return true;
}

}  // namespace fa
