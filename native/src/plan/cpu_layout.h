// Tiles and workspace of the CPU backend: decided by plan_cpu, laid out again by src/cpu from the plan. Sizes do not depend on the instruction set.
#pragma once

#include <cstdint>

#include "plan/problem.h"

namespace fa {

/// Queries per tile are a multiple of this: two vectors of the widest instruction set (AVX-512), the largest panel of queries that a kernel handles at once.
inline constexpr int kCpuPanelQueries = 32;

struct CpuTiles {
  int tile_q = kCpuPanelQueries;
  int tile_kv = kCpuPanelQueries;
};

/// Workspace: [one scratch area per thread][backward: fp32 sums of the gradients of k, of v][backward: turn counters]. Every area starts at a multiple of 64
/// bytes once the base is aligned so; total_bytes has 64 bytes to spare for that.
struct CpuLayout {
  int ld_k = 0;  ///< row stride in floats of fp32 rows of q and k
  int ld_v = 0;  ///< of o and v
  int ld_q = 0;  ///< of transposed probability tiles: (tile_kv, tile_q)
  int64_t num_q_tiles = 0;
  int64_t num_kv_tiles = 0;
  uint64_t scratch_bytes = 0;        ///< of one thread
  uint64_t grad_k_offset_bytes = 0;  ///< (batch, heads_kv, len_kv, ld_k) fp32
  uint64_t grad_v_offset_bytes = 0;  ///< (batch, heads_kv, len_kv, ld_v) fp32
  uint64_t turns_offset_bytes = 0;   ///< (batch, heads_kv, num_kv_tiles) 64-bit counters
  uint64_t turns_bytes = 0;
  uint64_t total_bytes = 0;
};

CpuLayout cpu_layout(const Problem& problem, const CpuTiles& tiles, int threads);

/// "plain", "avx2" or "avx512": the kernels that this machine runs. Defined in src/cpu.
const char* cpu_kernel_suffix();

}  // namespace fa
