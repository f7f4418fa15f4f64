// Backward pass: gradients of the sinks. A sink is a key whose value is 0, so that its dS is p (0 - delta) with p = exp(sink - lse).
#pragma once

#include "kernels/sm80/backward/params.h"
#include "kernels/sm80/backward/passes.h"
#include "ptx/exp2.cuh"

namespace fa::sm80 {

struct GradSinksConfig {
  static constexpr int kThreads = kPassThreads;
  struct Shared {
    float sums[kThreads / 32];
  };
};

/// One block per query head: all rows of all batches, always added up in the same order.
template <class Config>
class GradSinksBlock {
  using Shared = typename Config::Shared;
  static constexpr int kThreads = Config::kThreads;

 public:
  __device__ __forceinline__ GradSinksBlock(const ModifiedBackwardParams& params, Shared& shared) : p_(params), s_(shared) {}

  __device__ __forceinline__ void run() {
    const int64_t head = blockIdx.x;
    const int thread = static_cast<int>(threadIdx.x);
    const float sink = p_.scores.sinks[head] * kLog2E;
    float sum = 0.0f;
    for (int64_t batch = 0; batch < p_.batch; ++batch) {
      const int64_t first = (batch * p_.shape.heads_q + head) * p_.padded_rows;
      // lse_log2 is +inf, and p so 0, where the row counts for nothing.
      for (int64_t i = thread; i < p_.sink_rows; i += kThreads) sum -= ptx::exp2_approx(sink - p_.lse_log2[first + i]) * p_.delta[first + i];
    }
    for (int distance = 16; distance > 0; distance /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, distance);
    if (thread % 32 == 0) s_.sums[thread / 32] = sum;
    __syncthreads();
    if (thread > 0) return;
    for (int warp = 1; warp < kThreads / 32; ++warp) sum += s_.sums[warp];
    p_.grad_sinks[head] = sum;
  }

 private:
  const ModifiedBackwardParams& p_;
  Shared& s_;
};

}  // namespace fa::sm80
