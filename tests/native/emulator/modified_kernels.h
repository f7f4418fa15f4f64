// What the tests of kernels compiled with ModifiedScores share: the kernels by the rows of their tables, and a problem with everything modified at once. For
// files that are compiled as device code.
#pragma once

#include <cstddef>
#include <limits>
#include <vector>

#include "attention_case.h"
#include "kernels/sm80/backward/grad_bias.cuh"
#include "kernels/sm80/backward/grad_q.cuh"
#include "kernels/sm80/backward/grad_sinks.cuh"
#include "kernels/sm80/backward/kernel.cuh"
#include "kernels/sm80/forward/kernel.cuh"
#include "launch_blocks.h"

namespace fa_test {

/// Rows of fa::sm80::kForward, kBackward, kGradQ and kGradBias.
template <int kForwardRow, int kBackwardRow, int kGradQRow, int kGradBiasRow>
struct ModifiedKernels {
  using Forward = fa::sm80::ForwardConfig<__half, fa::sm80::ForwardRow<kForwardRow>, fa::ModifiedScores>;
  using Backward = fa::sm80::BackwardConfig<__half, fa::sm80::BackwardRow<kBackwardRow>, fa::ModifiedScores>;
  using GradQ = fa::sm80::GradQConfig<__half, fa::sm80::GradQRow<kGradQRow>, fa::ModifiedScores>;
  using GradBias = fa::sm80::GradBiasConfig<__half, fa::sm80::GradBiasRow<kGradBiasRow>>;
  static constexpr const fa::sm80::ForwardVariant& kForward = fa::sm80::kForward[kForwardRow];
  static constexpr const fa::sm80::BackwardVariant& kBackward = fa::sm80::kBackward[kBackwardRow];
  static constexpr const fa::sm80::GradQVariant& kGradQ = fa::sm80::kGradQ[kGradQRow];
  static constexpr const auto& kGradBias = fa::sm80::kGradBias[kGradBiasRow];
};

using KernelsD64 = ModifiedKernels<6, 0, 0, 0>;
using KernelsD128 = ModifiedKernels<1, 1, 1, 1>;
using KernelsD256 = ModifiedKernels<5, 5, 3, 2>;
using SmallKernelsD256 = ModifiedKernels<5, 6, 3, 2>;

/// Shared memory behind a kernel's own, for so many tiles of the bias.
template <class Config>
size_t staged_bytes(const fa::ScoreParams& scores, int tiles = 1) {
  return scores.bias_staged ? static_cast<size_t>(tiles) * sizeof(typename Config::BiasTile) : 0;
}

inline void check_grad_sinks(const AttentionCase& attention, fa::sm80::ModifiedBackwardParams params) {
  std::vector<float> grad_sinks(static_cast<size_t>(params.shape.heads_q), std::numeric_limits<float>::quiet_NaN());
  params.grad_sinks = grad_sinks.data();
  params.order.num_tiles = 1;
  params.order.num_heads = params.shape.heads_q;
  launch_blocks<fa::sm80::GradSinksConfig, fa::sm80::GradSinksBlock>(params);
  attention.compare_grad_sinks(grad_sinks);
}

/// The options with a window and all other modifications but chunks.
inline CaseOptions with_everything(CaseOptions options) {
  options.mask = fa::Mask::kWindowBottomRight;
  options.window_left = 60;
  options.window_right = 9;
  options.softcap = 2.0f;
  options.alibi = 2;
  options.bias = 1;
  options.visible = 2;
  options.block_mask = 32;
  options.sinks = true;
  options.dropout = 0.125f;
  return options;
}

}  // namespace fa_test
