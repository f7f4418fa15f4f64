// Plan of the CPU backend: tile sizes from cache sizes, threads from the amount of work.
#include <algorithm>
#include <cstdio>

#include "plan/cpu_layout.h"
#include "plan/cpu_variant_layout.h"
#include "plan/plan.h"

namespace fa {
namespace {

/// What the working set of one thread should stay below: its share of a third-level cache. Only the key tile and the panel being worked on need the second
/// level; the panels of the other queries stream by, once per key tile and in order, so that many queries can share the reading of one key tile.
constexpr int64_t kCacheBudgetBytes = 1024 * 1024;
/// Work below which another thread costs more than it brings: waking one takes about 20 microseconds.
constexpr double kFlopsPerThread = 2e6;
constexpr int kMaxHeadDim = 512;
/// Largest workspace that is planned for; beyond it sums of sizes could leave 64 bits.
constexpr double kMaxWorkspaceBytes = 4e18;

int round_up(int value, int multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

uint64_t align_64(uint64_t bytes) {
  return (bytes + 63) / 64 * 64;
}

/// Row stride of fp32 rows: a multiple of 16 floats, and not one of 128, since rows 512 bytes apart share few sets of a first-level cache.
int row_stride(int64_t width) {
  const int rounded = round_up(static_cast<int>(width), 16);
  return rounded % 128 == 0 ? rounded + 16 : rounded;
}

int64_t scratch_floats(Pass pass, int64_t ld_k, int64_t ld_v, int64_t ld_q, const CpuTiles& tiles) {
  const int64_t key_tiles = tiles.tile_kv * (ld_k + ld_v);
  if (pass == Pass::kForward) {
    return key_tiles + tiles.tile_q * (ld_k + ld_v) + static_cast<int64_t>(tiles.tile_kv) * kCpuPanelQueries + 2 * tiles.tile_q;
  }
  return key_tiles + tiles.tile_q * (3 * ld_k + 2 * ld_v) + 2 * tiles.tile_kv * ld_q + 2 * tiles.tile_q;
}

/// Largest query tile, up to `most`, whose working set fits the cache budget.
int fitting_tile_q(const Problem& problem, int tile_kv, int most) {
  const int64_t ld_k = row_stride(problem.head_dim), ld_v = row_stride(problem.head_dim_v);
  int tile_q = most;
  while (tile_q > kCpuPanelQueries && scratch_floats(problem.pass, ld_k, ld_v, tile_q + 16, {tile_q, tile_kv}) * 4 > kCacheBudgetBytes) {
    tile_q -= kCpuPanelQueries;
  }
  return tile_q;
}

CpuTiles choose_tiles(const Problem& problem, int threads) {
  const int64_t widest = std::max(problem.head_dim, problem.head_dim_v);
  CpuTiles tiles;
  if (problem.pass == Pass::kForward) {
    tiles.tile_kv = widest <= 128 ? 128 : widest <= 256 ? 64 : 32;
    tiles.tile_q = fitting_tile_q(problem, tiles.tile_kv, 512);
  } else {
    tiles.tile_kv = widest <= 256 ? 64 : 32;
    tiles.tile_q = fitting_tile_q(problem, tiles.tile_kv, 256);
  }
  // Enough tiles to keep all threads busy, four each if there are enough queries: results do not depend on tile_q.
  const double heads = static_cast<double>(problem.batch) * static_cast<double>(problem.heads_q);
  while (tiles.tile_q > kCpuPanelQueries && heads * static_cast<double>(problem.len_q) < 4.0 * threads * tiles.tile_q) tiles.tile_q -= kCpuPanelQueries;
  // Tiles of equal size, none larger than the queries need.
  const int64_t num_tiles = std::max<int64_t>(1, problem.len_q / tiles.tile_q + (problem.len_q % tiles.tile_q != 0));
  const int64_t queries = problem.len_q / num_tiles + (problem.len_q % num_tiles != 0);
  tiles.tile_q = round_up(static_cast<int>(std::max<int64_t>(queries, 1)), kCpuPanelQueries);
  return tiles;
}

}  // namespace

CpuLayout cpu_layout(const Problem& problem, const CpuTiles& tiles, int threads) {
  CpuLayout layout;
  layout.ld_k = row_stride(problem.head_dim);
  layout.ld_v = row_stride(problem.head_dim_v);
  layout.ld_q = tiles.tile_q + 16;
  layout.num_q_tiles = problem.len_q / tiles.tile_q + (problem.len_q % tiles.tile_q != 0);
  layout.num_kv_tiles = problem.len_kv / tiles.tile_kv + (problem.len_kv % tiles.tile_kv != 0);
  layout.scratch_bytes = align_64(static_cast<uint64_t>(scratch_floats(problem.pass, layout.ld_k, layout.ld_v, layout.ld_q, tiles)) * 4);
  uint64_t end = layout.scratch_bytes * static_cast<uint64_t>(threads);
  if (problem.pass == Pass::kBackward) {
    const uint64_t chains = static_cast<uint64_t>(problem.batch * problem.heads_kv);
    const uint64_t rows = chains * static_cast<uint64_t>(problem.len_kv);
    layout.grad_k_offset_bytes = end;
    layout.grad_v_offset_bytes = layout.grad_k_offset_bytes + align_64(rows * static_cast<uint64_t>(layout.ld_k) * 4);
    layout.turns_offset_bytes = layout.grad_v_offset_bytes + align_64(rows * static_cast<uint64_t>(layout.ld_v) * 4);
    layout.turns_bytes = chains * static_cast<uint64_t>(layout.num_kv_tiles) * 8;
    end = layout.turns_offset_bytes + align_64(layout.turns_bytes);
  }
  layout.total_bytes = end == 0 ? 0 : end + 64;
  return layout;
}

bool plan_cpu(const Problem& problem, const DeviceCaps& caps, Plan* plan, Reason* why_not) {
  if (caps.device.type != FA_DEVICE_CPU) {
    why_not->set("the CPU backend computes on host memory only");
    return false;
  }
  if (problem.head_dim > kMaxHeadDim || problem.head_dim_v > kMaxHeadDim) {
    why_not->set("head_dim %lld and head_dim_v %lld: the CPU backend computes 1 to %d", static_cast<long long>(problem.head_dim),
                 static_cast<long long>(problem.head_dim_v), kMaxHeadDim);
    return false;
  }
  const double kv_heads = static_cast<double>(problem.batch) * static_cast<double>(problem.heads_kv);
  const double q_heads = static_cast<double>(problem.batch) * static_cast<double>(problem.heads_q);
  const double kv_rows = kv_heads * static_cast<double>(problem.len_kv), q_rows = q_heads * static_cast<double>(problem.len_q);
  if (kv_rows * 8 * (kMaxHeadDim + 16) > kMaxWorkspaceBytes || std::max({kv_heads, q_heads, q_rows}) > kMaxWorkspaceBytes) {
    why_not->set("the sizes exceed what can be addressed");
    return false;
  }
  if (variants_of(problem) != 0) {
    plan_cpu_variants(problem, caps, plan);
    return true;
  }
  const int most_threads = std::max(1, caps.multiprocessors);
  const CpuTiles tiles = choose_tiles(problem, most_threads);
  const CpuLayout shape = cpu_layout(problem, tiles, 0);
  const int64_t tasks = problem.batch * problem.heads_q * shape.num_q_tiles;
  const double pairs = problem.visible_pairs_per_head() * static_cast<double>(problem.batch) * static_cast<double>(problem.heads_q);
  const double flops = pairs * 2 * static_cast<double>(problem.head_dim + problem.head_dim_v) * (problem.pass == Pass::kForward ? 1.0 : 2.5);
  const int64_t useful = std::min(std::max<int64_t>(tasks, 1), static_cast<int64_t>(std::min(flops / kFlopsPerThread, 1e6)) + 1);

  plan->family = FA_KERNEL_CPU;
  plan->tile_q = tiles.tile_q;
  plan->tile_kv = tiles.tile_kv;
  plan->stages = 1;
  plan->threads = static_cast<int>(std::min<int64_t>(most_threads, useful));
  plan->launches = 1;
  plan->blocks = tasks;
  plan->workspace_bytes = cpu_layout(problem, tiles, plan->threads).total_bytes;
  const char* pass = problem.pass == Pass::kForward ? "forward" : "backward";
  std::snprintf(plan->kernel_name, sizeof(plan->kernel_name), "cpu_%s_%s", pass, cpu_kernel_suffix());
  plan->reason.set("the tensors are in host memory; %d queries x %d keys keep a thread's fp32 tiles (%llu KiB) in its caches; %d of %d threads", tiles.tile_q,
                   tiles.tile_kv, static_cast<unsigned long long>(shape.scratch_bytes / 1024), plan->threads, most_threads);
  return true;
}

}  // namespace fa
