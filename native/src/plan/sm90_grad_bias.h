// The Hopper kernel that sums the gradient of a bias over the batch entries and heads that share it. Resource arithmetic: src/kernels/sm90/grad_bias/README.md.
#pragma once

#include <cstdint>

#include "plan/problem.h"

namespace fa {

/// 128 queries x 128 keys of the bias at a time, a consumer warpgroup per 64 queries.
struct Sm90GradBiasTile {
  int head_dim;  ///< columns of all tiles in shared memory; smaller head dims are padded with zeros
  int slots;     ///< tiles of q, k, grad_o or v in flight

  static constexpr int kRows = 128;  ///< queries, and keys
  static constexpr int kWarpgroups = 2;
  static constexpr int kBuffers = 2;  ///< tiles of the bias, and afterwards of its gradient
  static constexpr int threads() { return 128 * (1 + kWarpgroups); }
  static constexpr int consumer_registers() { return 232; }
  static constexpr int producer_registers() { return 40; }
  static constexpr int64_t kTailBytes = 1024;  ///< barriers
  constexpr int64_t shared_memory_bytes() const { return int64_t{2} * kRows * (slots * head_dim + kBuffers * kRows) + kTailBytes; }
};

inline constexpr Sm90GradBiasTile kSm90GradBiasTiles[] = {{64, 8}, {128, 5}};

/// The gradient of a bias that batch entries share may be summed in the bias's type by the main kernel, one entry after the other. With so many that rounds
/// what the unfused form rounds: each entry's dS and the sum.
inline constexpr int64_t kSm90MaxBiasBatches = 2;

/// Whether this kernel computes the gradient of the bias; otherwise the main kernel stores its dS.
inline bool sm90_sums_grad_bias(const Problem& problem) {
  const Variants& v = problem.variants;
  return v.grad_bias && (v.bias_heads != problem.heads_q || (v.bias_batches != problem.batch && problem.batch > kSm90MaxBiasBatches));
}

/// Tiles of the gradient.
inline int64_t sm90_grad_bias_tiles(const Problem& problem) {
  const auto tiles = [](int64_t length) { return (length + Sm90GradBiasTile::kRows - 1) / Sm90GradBiasTile::kRows; };
  return tiles(problem.len_q) * tiles(problem.len_kv) * problem.variants.bias_heads * problem.variants.bias_batches;
}

}  // namespace fa
