// Plan of the CPU backend for problems with mask and score variants.
#include <algorithm>
#include <cstdio>

#include "plan/cpu_variant_layout.h"

namespace fa {
namespace {

/// As in plan_cpu.
constexpr double kFlopsPerThread = 2e6;

uint64_t align_64(uint64_t bytes) {
  return (bytes + 63) / 64 * 64;
}

int64_t ceil_div(int64_t dividend, int64_t divisor) {
  return dividend / divisor + (dividend % divisor != 0);
}

/// Tiles of all sequences together, for a dimension of which the tensors hold `length` and a tile `tile`; at most, since the lengths are not known yet.
int64_t most_tiles(const Problem& problem, int64_t length, int tile) {
  const bool packed = problem.variants.sequences.packed;
  return packed ? length / tile + problem.variants.sequences.count : problem.batch * ceil_div(length, tile);
}

/// Small tiles: a window or a block mask leaves more of them out. tile_kv depends on the head dims alone, so that results do not depend on threads.
CpuTiles choose_tiles(const Problem& problem, int threads) {
  const int64_t widest = std::max(problem.head_dim, problem.head_dim_v);
  CpuTiles tiles;
  if (problem.pass == Pass::kForward) {
    tiles.tile_kv = widest <= 256 ? 64 : 32;
    tiles.tile_q = widest <= 128 ? 128 : 64;
  } else {
    tiles.tile_kv = widest <= 256 ? 64 : 32;
    tiles.tile_q = widest <= 128 ? 96 : 64;
  }
  const double rows = static_cast<double>(problem.batch) * static_cast<double>(problem.heads_q) * static_cast<double>(problem.len_q);
  while (tiles.tile_q > kCpuPanelQueries && rows < 4.0 * threads * tiles.tile_q) tiles.tile_q -= kCpuPanelQueries;
  return tiles;
}

int64_t scratch_floats(const Problem& problem, const CpuVariantLayout& layout, const CpuTiles& tiles) {
  const bool forward = problem.pass == Pass::kForward;
  const int64_t tile_q = tiles.tile_q, tile_kv = tiles.tile_kv, panel = kCpuPanelQueries;
  const int64_t key_tiles = tile_kv * (layout.ld_k + layout.ld_v), panels = panel * layout.ld_rows + tile_kv * panel;
  if (forward) return key_tiles + panels + tile_q * (layout.ld_k + layout.ld_v) + (2 * tile_kv + 16) * panel + 3 * tile_q;
  // Whether the gradient of the bias is wanted or not, so that describe, which cannot know, gives what the workspace query gives.
  const int64_t sums = problem.variants.bias ? tile_kv * layout.ld_q : 0;
  return key_tiles + panels + tile_q * (3 * layout.ld_k + 2 * layout.ld_v) + (3 * tile_kv + 16) * layout.ld_q + 2 * tile_q + sums;
}

}  // namespace

CpuVariantLayout cpu_variant_layout(const Problem& problem, const CpuTiles& tiles, int threads) {
  const CpuLayout plain = cpu_layout(problem, tiles, 0);
  CpuVariantLayout layout;
  layout.ld_k = plain.ld_k;
  layout.ld_v = plain.ld_v;
  layout.ld_q = tiles.tile_q + 16;
  layout.ld_rows = tiles.tile_kv + 16;
  layout.scratch_bytes = align_64(static_cast<uint64_t>(scratch_floats(problem, layout, tiles)) * 4);
  const uint64_t sequences = static_cast<uint64_t>(problem.num_sequences());
  layout.sequences_offset_bytes = layout.scratch_bytes * static_cast<uint64_t>(threads);
  layout.order_offset_bytes = layout.sequences_offset_bytes + align_64(sequences * sizeof(CpuSequence));
  uint64_t end = layout.order_offset_bytes + align_64((sequences + 1) * sizeof(CpuSequenceTasks));
  if (problem.pass == Pass::kBackward) {
    const uint64_t rows = static_cast<uint64_t>(problem.batch * problem.heads_kv) * static_cast<uint64_t>(problem.len_kv);
    layout.grad_k_offset_bytes = end;
    layout.grad_v_offset_bytes = layout.grad_k_offset_bytes + align_64(rows * static_cast<uint64_t>(layout.ld_k) * 4);
    layout.turns_offset_bytes = layout.grad_v_offset_bytes + align_64(rows * static_cast<uint64_t>(layout.ld_v) * 4);
    layout.turns_bytes = static_cast<uint64_t>(most_tiles(problem, problem.len_kv, tiles.tile_kv) * problem.heads_kv) * 8;
    end = layout.turns_offset_bytes + align_64(layout.turns_bytes);
  }
  layout.total_bytes = end + 64;
  return layout;
}

void plan_cpu_variants(const Problem& problem, const DeviceCaps& caps, Plan* plan) {
  const int most_threads = std::max(1, caps.multiprocessors);
  const CpuTiles tiles = choose_tiles(problem, most_threads);
  const int64_t tasks = most_tiles(problem, problem.len_q, tiles.tile_q) * problem.heads_q;
  const double pairs = problem.visible_pairs_per_head() * problem.full_sequences() * static_cast<double>(problem.heads_q);
  const double flops = pairs * 2 * static_cast<double>(problem.head_dim + problem.head_dim_v) * (problem.pass == Pass::kForward ? 1.0 : 2.5);
  const int64_t useful = std::min(std::max<int64_t>(tasks, 1), static_cast<int64_t>(std::min(flops / kFlopsPerThread, 1e6)) + 1);
  plan->family = FA_KERNEL_CPU;
  plan->tile_q = tiles.tile_q;
  plan->tile_kv = tiles.tile_kv;
  plan->stages = 1;
  plan->threads = static_cast<int>(std::min<int64_t>(most_threads, useful));
  plan->launches = 1 + (problem.variants.grad_bias ? 1 : 0) + (problem.variants.grad_sinks ? 1 : 0);
  plan->blocks = tasks;
  plan->workspace_bytes = cpu_variant_layout(problem, tiles, plan->threads).total_bytes;
  const char* pass = problem.pass == Pass::kForward ? "forward" : "backward";
  std::snprintf(plan->kernel_name, sizeof(plan->kernel_name), "cpu_%s_variants_%s", pass, cpu_kernel_suffix());
  plan->reason.set(
      "the tensors are in host memory, and the problem has %s; tiles of %d queries x %d keys, those without a visible pair are left out; %d of %d threads",
      first_variant_beyond(problem, 0), tiles.tile_q, tiles.tile_kv, plan->threads, most_threads);
}

}  // namespace fa
