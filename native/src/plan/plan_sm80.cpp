// Plans of the portable CUDA kernels (compute capability 8.0 and newer).
#include <cstdio>
#include <limits>

#include "plan/plan.h"
#include "plan/sm80_variants.h"

namespace fa {

namespace {

using namespace sm80;

/// Positions are 32-bit inside the kernels, with room for a tile past the end and for the sum of two of them.
constexpr int64_t kMaxLength = (int64_t{1} << 30) - 1;
constexpr int64_t kMaxBlocks = std::numeric_limits<int32_t>::max();

int64_t larger_head_dim(const Problem& problem) {
  return problem.head_dim > problem.head_dim_v ? problem.head_dim : problem.head_dim_v;
}

/// Says why no variant could compute the problem on the device, if that is so.
bool refuse(const Problem& problem, const DeviceCaps& caps, Reason* why_not) {
  const auto number = [](int64_t value) { return static_cast<long long>(value); };
  if (caps.compute_capability < 80) {
    why_not->set("it needs compute capability 8.0 or newer, the device has %d.%d", caps.compute_capability / 10, caps.compute_capability % 10);
  } else if (problem.dtype == DType::kFloat32) {
    why_not->set("it computes float16 and bfloat16, not float32");
  } else if (larger_head_dim(problem) > kMaxHeadDim) {
    why_not->set("head_dim and head_dim_v may be at most %d, got %lld and %lld", kMaxHeadDim, number(problem.head_dim), number(problem.head_dim_v));
  } else if (larger_head_dim(problem) > kMaxModifiedHeadDim && variants_of(problem) != 0) {
    why_not->set("with a variant (window, bias, sequences, ...) head_dim and head_dim_v may be at most %d, got %lld and %lld", kMaxModifiedHeadDim,
                 number(problem.head_dim), number(problem.head_dim_v));
  } else if (problem.head_dim % 8 != 0 || problem.head_dim_v % 8 != 0) {
    why_not->set("head_dim and head_dim_v must be multiples of 8, got %lld and %lld", number(problem.head_dim), number(problem.head_dim_v));
  } else if (problem.len_q > kMaxLength || problem.len_kv > kMaxLength) {
    why_not->set("len_q and len_kv may be at most %lld, got %lld and %lld", number(kMaxLength), number(problem.len_q), number(problem.len_kv));
  } else if (problem.variants.sequences.given && sequence_rows(problem) > kMaxLength) {
    why_not->set("its workspace takes %lld sequences and %lld queries as %lld rows, at most %lld can be", number(problem.num_sequences()),
                 number(problem.len_q), number(sequence_rows(problem)), number(kMaxLength));
  } else {
    return false;
  }
  return true;
}

/// The narrowest row of a table that is wide enough and whose shared memory the device has, the first of several. -1 if there is none.
template <class Variant, int kNum>
int first_fitting(const Variant (&table)[kNum], int64_t head_dim, int64_t shared_limit, int (*shared_bytes)(const Variant&)) {
  int best = -1;
  for (int i = 0; i < kNum; ++i) {
    const bool fits = table[i].padded_dim >= head_dim && shared_bytes(table[i]) <= shared_limit;
    if (fits && (best < 0 || table[i].padded_dim < table[best].padded_dim)) best = i;
  }
  return best;
}

/// The first among the rows that are compiled with ModifiedScores, sorted by width, then by preference.
template <class Variant, int kNum, int kNumModified>
int first_fitting_modified(const Variant (&table)[kNum], const int (&rows)[kNumModified], int64_t head_dim, int64_t shared_limit,
                           int (*shared_bytes)(const Variant&)) {
  for (const int row : rows) {
    if (table[row].padded_dim >= head_dim && shared_bytes(table[row]) <= shared_limit) {
      return row;
    }
  }
  return -1;
}

/// Name of the kernel of a row: modified kernels say so.
void set_name(const char* row, const Problem& problem, Plan* plan) {
  std::snprintf(plan->kernel_name, sizeof(plan->kernel_name), "%s%s_%s", row, variants_of(problem) != 0 ? "_modified" : "",
                problem.dtype == DType::kFloat16 ? "f16" : "bf16");
}

/// Blocks of a grid over tiles of so many queries or keys x heads, batch by batch or as many as sequences may have together. False, with the reason, if the
/// grid would be too large.
bool set_blocks(const Problem& problem, bool of_q, int tile_rows, Plan* plan, Reason* why_not) {
  const bool sequences = problem.variants.sequences.given;
  const int64_t heads = of_q ? problem.heads_q : problem.heads_kv, batch = sequences ? 1 : problem.batch;
  const int64_t tiles = sequences ? sequence_tiles(problem, of_q, tile_rows) : ceil_div(of_q ? problem.len_q : problem.len_kv, tile_rows);
  if (tiles > 0 && batch > 0 && batch > kMaxBlocks / heads / tiles) {
    why_not->set("batch * heads * tiles = %lld * %lld * %lld blocks exceed %lld", static_cast<long long>(batch), static_cast<long long>(heads),
                 static_cast<long long>(tiles), static_cast<long long>(kMaxBlocks));
    return false;
  }
  plan->blocks = tiles * batch * heads;
  return true;
}

/// Longest causal problem for small tiles. Tiles on the diagonal are half wasted, which large ones do not make up for in short problems
/// (kernels/sm80/forward/README.md).
constexpr int64_t kShortCausal = 512;

int choose_forward(const Problem& problem, const DeviceCaps& caps, int64_t head_dim) {
  const int64_t shared_limit = caps.shared_memory_per_block_bytes;
  if (variants_of(problem) != 0) return first_fitting_modified(kForward, kModifiedForward, head_dim, shared_limit, forward_shared_bytes);
  const int index = first_fitting(kForward, head_dim, shared_limit, forward_shared_bytes);
  if (index < 0 || kForward[index].padded_dim != kForward[kSmallForward256].padded_dim) return index;
  // Small tiles also where there are too few large ones for all multiprocessors.
  const int64_t blocks = ceil_div(problem.len_q, kForward[index].tile_q) * problem.batch * problem.heads_q;
  const bool is_short = problem.is_causal() && problem.len_kv <= kShortCausal;
  return is_short || blocks < caps.multiprocessors ? kSmallForward256 : index;
}

bool plan_forward(const Problem& problem, const DeviceCaps& caps, Plan* plan, Reason* why_not) {
  const int64_t head_dim = larger_head_dim(problem);
  const int index = choose_forward(problem, caps, head_dim);
  if (index < 0) {
    why_not->set("no variant fits %lld bytes of shared memory per block", static_cast<long long>(caps.shared_memory_per_block_bytes));
    return false;
  }
  const ForwardVariant& variant = kForward[index];
  const bool sequences = problem.variants.sequences.given;
  if (!set_blocks(problem, /*of_q=*/true, variant.tile_q, plan, why_not)) {
    return false;
  }
  plan->variant = index;
  plan->tile_q = variant.tile_q;
  plan->tile_kv = variant.tile_kv;
  plan->stages = variant.stages;
  plan->threads = 32 * variant.warps;
  plan->registers_per_thread = register_budget(variant.warps, variant.blocks_per_sm);
  plan->launches = (plan->blocks > 0 ? 1 : 0) + (sequences ? 1 : 0);
  plan->workspace_bytes = sequences ? sequence_table_bytes(sequence_tiles(problem, true, variant.tile_q)) : 0;
  plan->shared_memory_bytes = forward_shared_bytes(variant);
  set_name(variant.name, problem, plan);
  plan->reason.set("head dims %lld and %lld fit %d columns; %d query rows per block, %d per warp, %d blocks per multiprocessor; rows copied %s",
                   static_cast<long long>(problem.head_dim), static_cast<long long>(problem.head_dim_v), variant.padded_dim, variant.tile_q,
                   variant.tile_q * variant.slices / variant.warps, variant.blocks_per_sm, problem.aligned_16_bytes ? "16 bytes at a time" : "by element");
  return true;
}

bool plan_backward(const Problem& problem, const DeviceCaps& caps, Plan* plan, Reason* why_not) {
  const int64_t head_dim = larger_head_dim(problem), shared_limit = caps.shared_memory_per_block_bytes;
  const int index = variants_of(problem) == 0 ? first_fitting(kBackward, head_dim, shared_limit, backward_shared_bytes)
                                              : first_fitting_modified(kBackward, kModifiedBackward, head_dim, shared_limit, backward_shared_bytes);
  if (index < 0) {
    why_not->set("no variant fits %lld bytes of shared memory per block", static_cast<long long>(caps.shared_memory_per_block_bytes));
    return false;
  }
  const BackwardVariant& variant = kBackward[index];
  // The passes over query rows have the larger grid where there are more of them; both must fit.
  if (!set_blocks(problem, /*of_q=*/true, variant.tile_q, plan, why_not) || !set_blocks(problem, /*of_q=*/false, variant.tile_kv, plan, why_not)) {
    return false;
  }
  const int warps = warps_of(variant);
  plan->variant = index;
  plan->tile_q = variant.tile_q;
  plan->tile_kv = variant.tile_kv;
  plan->stages = variant.stages;
  plan->threads = 32 * warps;
  plan->registers_per_thread = register_budget(warps, variant.blocks_per_sm);
  plan->launches = 3 + (problem.variants.grad_sinks ? 1 : 0) + (problem.variants.grad_bias ? 1 : 0) + (problem.variants.sequences.given ? 1 : 0);
  plan->shared_memory_bytes = backward_shared_bytes(variant);
  plan->workspace_bytes = backward_workspace(problem, variant).total_bytes;
  set_name(variant.name, problem, plan);
  plan->reason.set("head dims %lld and %lld fit %d columns; %d keys per block, %d shared bytes of %lld; grad_q %s", static_cast<long long>(problem.head_dim),
                   static_cast<long long>(problem.head_dim_v), variant.padded_dim, variant.tile_kv, backward_shared_bytes(variant),
                   static_cast<long long>(caps.shared_memory_per_block_bytes),
                   accumulates_grad_q(variant, problem.deterministic) ? "by fp32 additions in any order" : "from its own kernel: deterministic");
  return true;
}

}  // namespace

bool plan_sm80(const Problem& problem, const DeviceCaps& caps, Plan* plan, Reason* why_not) {
  if (refuse(problem, caps, why_not) || refuse_variants(problem, kModifiedVariants, why_not)) {
    return false;
  }
  return problem.pass == Pass::kForward ? plan_forward(problem, caps, plan, why_not) : plan_backward(problem, caps, plan, why_not);
}

}  // namespace fa
