// The whole backward pass as it is launched: the forward kernel's outputs, the pass that prepares the workspace, the main kernel, and the pass or kernel that
// writes grad_q.
#include <gtest/gtest.h>

#include <algorithm>
#include <exception>
#include <limits>

#include "attention_case.h"
#include "kernels/sm80/backward/grad_q.cuh"
#include "kernels/sm80/backward/kernel.cuh"
#include "kernels/sm80/backward/passes.cu"
#include "kernels/sm80/forward/kernel.cuh"
#include "launch_blocks.h"

namespace fa_test {
namespace {

using fa::Mask;

/// Parameters of the backward kernels with a workspace of NaN.
fa::sm80::BackwardParams untouched_workspace(AttentionCase* attention, const fa::sm80::BackwardVariant& variant) {
  fa::sm80::BackwardParams params = attention->backward_params(variant);
  params.num_rows = params.padded_rows * (params.order.num_heads * params.shape.group_size);
  params.tile_q = variant.tile_q;
  params.warps_dq_rows = variant.warps_dq;
  params.warps_dq_cols = warps_of(variant) / variant.warps_dq;
  constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
  std::fill_n(params.lse_log2, params.num_rows, kNaN);
  std::fill_n(params.delta, params.num_rows, kNaN);
  if (params.grad_q_accumulator != nullptr) std::fill_n(params.grad_q_accumulator, params.num_rows * params.padded_dim, kNaN);
  return params;
}

/// Rows of fa::sm80::kForward, kBackward and kGradQ.
template <int kForwardRow, int kBackwardRow, int kGradQRow>
void check(const CaseOptions& options) {
  using namespace fa::sm80;
  SCOPED_TRACE(options.name());
  try {
    AttentionCase attention(options);
    launch_blocks<ForwardConfig<__half, ForwardRow<kForwardRow>>, ForwardBlock>(attention.forward_params(kForward[kForwardRow]));
    const BackwardParams params = untouched_workspace(&attention, kBackward[kBackwardRow]);
    const int64_t rows_per_block = kPassThreads / lanes_per_row(params.padded_dim);
    launch_grid(prepare_kernel_of<__half>(/*modified=*/false), static_cast<int>(ceil_div(params.num_rows, rows_per_block)), kPassThreads, params);
    launch_blocks<BackwardConfig<__half, BackwardRow<kBackwardRow>>, BackwardBlock>(params);
    attention.compare_grad_kv();
    if (accumulates_grad_q(kBackward[kBackwardRow], options.deterministic)) {
      const int64_t units = params.num_rows / 8 * ceil_div(options.head_dim, 32) * 32;
      launch_grid(finish_kernel_of<__half>(), static_cast<int>(ceil_div(units, kPassThreads)), kPassThreads, params);
    } else {
      launch_blocks<GradQConfig<__half, GradQRow<kGradQRow>>, GradQBlock>(attention.grad_q_params(params, kGradQ[kGradQRow]));
    }
    attention.compare_grad_q();
  } catch (const std::exception& error) {
    ADD_FAILURE() << error.what();
  }
}

TEST(Sm80Passes, Accumulated) {
  check<0, 0, 0>({.batch = 2, .len_q = 70, .len_kv = 50, .heads_q = 2, .heads_kv = 1, .head_dim = 40, .head_dim_v = 64, .mask = Mask::kCausalBottomRight});
  check<1, 1, 1>({.len_q = 70, .len_kv = 90, .head_dim = 128, .head_dim_v = 96, .aligned = false});
  check<2, 3, 2>({.len_q = 50, .len_kv = 60, .head_dim = 160, .head_dim_v = 192});
  check<3, 5, 3>({.len_q = 66, .len_kv = 70, .head_dim = 256, .head_dim_v = 256, .mask = Mask::kCausalTopLeft});
}

TEST(Sm80Passes, Deterministic) {
  check<5, 6, 3>({.len_q = 66, .len_kv = 70, .head_dim = 256, .head_dim_v = 256, .mask = Mask::kCausalTopLeft, .deterministic = true});
}

TEST(Sm80Passes, Dim512) {
  for (const Mask mask : {Mask::kNone, Mask::kCausalBottomRight}) {
    check<7, 7, 4>({.batch = 2, .len_q = 45, .len_kv = 40, .heads_q = 2, .heads_kv = 1, .head_dim = 512, .head_dim_v = 512, .mask = mask});
  }
  check<7, 7, 4>({.len_q = 45, .len_kv = 40, .head_dim = 264, .head_dim_v = 264, .mask = Mask::kCausalTopLeft, .aligned = false});
  check<7, 7, 4>({.len_q = 33, .len_kv = 40, .head_dim = 320, .head_dim_v = 504, .deterministic = true});
  check<7, 7, 4>({.len_q = 33, .len_kv = 40, .head_dim = 512, .head_dim_v = 128});
}

}  // namespace
}  // namespace fa_test
