// Which gradients of a bias the Hopper backward kernels are planned for.
#include <gtest/gtest.h>

#include <cstdint>
#include <string>

#include "plan/plan.h"
#include "plan/sm90_backward_modified.h"

namespace fa {
namespace {

Problem with_bias_gradient(int64_t batch, int64_t bias_batches, int64_t bias_heads) {
  Problem problem;
  problem.pass = Pass::kBackward;
  problem.batch = batch;
  problem.len_q = problem.len_kv = 256;
  problem.heads_q = problem.heads_kv = 4;
  problem.head_dim = problem.head_dim_v = 64;
  problem.aligned_16_bytes = true;
  Variants& v = problem.variants;
  v.bias = v.bias_in_tiles = v.grad_bias = v.grad_bias_in_tiles = true;
  v.bias_dtype = problem.dtype;
  v.bias_batches = bias_batches;
  v.bias_heads = bias_heads;
  return problem;
}

bool is_planned(const Problem& problem, std::string* reason) {
  Plan plan;
  Reason why_not;
  why_not.wanted = true;
  const bool planned = plan_sm90_backward_modified(problem, assumed_cuda_caps(90, 0), &plan, &why_not);
  *reason = why_not.text;
  return planned;
}

TEST(BackwardBias, GradientWithoutBatchEntriesIsLeftToKernelsThatWriteIt) {
  for (const int64_t heads : {1, 4}) {
    std::string reason;
    EXPECT_TRUE(is_planned(with_bias_gradient(1, 1, heads), &reason)) << reason;
    EXPECT_TRUE(is_planned(with_bias_gradient(2, 1, heads), &reason)) << reason;
    EXPECT_TRUE(is_planned(with_bias_gradient(0, 0, heads), &reason)) << "the gradient is empty; " << reason;
    EXPECT_FALSE(is_planned(with_bias_gradient(0, 1, heads), &reason)) << "it must be zero, and no kernel would write it";
    EXPECT_NE(reason.find("no batch entry"), std::string::npos) << reason;
  }
}

}  // namespace
}  // namespace fa
