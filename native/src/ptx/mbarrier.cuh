// mbarrier: barriers in shared memory that count arrivals of threads and bytes of asynchronous copies. PTX ISA 8.0, sm_90.
//
// A barrier completes a phase when its pending arrivals and its pending bytes are both zero; phases alternate between parity 0 and 1. wait(parity) returns when
// the phase of that parity has completed; on a fresh barrier wait(1) returns at once, as if a phase before the first had completed.
#pragma once

#include <cstdint>

#include "ptx/ldmatrix.cuh"

namespace fa::ptx {

/// A barrier that completes a phase after `arrivals` arrivals. mbarrier.init.shared::cta.b64
__device__ __forceinline__ void mbarrier_init(uint64_t* barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;\n" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
}

/// Makes initialised barriers visible to the asynchronous proxy and the cluster; a block barrier must follow. fence.mbarrier_init.release.cluster
__device__ __forceinline__ void mbarrier_init_fence() {
  asm volatile("fence.mbarrier_init.release.cluster;\n" ::: "memory");
}

/// One arrival. mbarrier.arrive.shared::cta.b64 (release, CTA scope)
__device__ __forceinline__ void mbarrier_arrive(uint64_t* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];\n" ::"r"(shared_address(barrier)) : "memory");
}

/// One arrival, and `bytes` more to come from copies. mbarrier.arrive.expect_tx.shared::cta.b64
__device__ __forceinline__ void mbarrier_arrive_expect_tx(uint64_t* barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;\n" ::"r"(shared_address(barrier)), "r"(bytes) : "memory");
}

/// Returns when the phase of this parity has completed. mbarrier.try_wait.parity.shared::cta.b64 (acquire, CTA scope), which itself suspends the thread for a
/// while before it gives up, hence no sleep in the loop.
__device__ __forceinline__ void mbarrier_wait(uint64_t* barrier, uint32_t parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "WAIT:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@done bra DONE;\n"
      "bra WAIT;\n"
      "DONE:\n"
      "}\n" ::"r"(shared_address(barrier)),
      "r"(parity)
      : "memory");
}

/// Whether the phase of this parity has completed. mbarrier.test_wait.parity.shared::cta.b64 (acquire, CTA scope)
__device__ __forceinline__ bool mbarrier_test(uint64_t* barrier, uint32_t parity) {
  uint32_t completed;
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "mbarrier.test_wait.parity.shared::cta.b64 done, [%1], %2;\n"
      "selp.u32 %0, 1, 0, done;\n"
      "}\n"
      : "=r"(completed)
      : "r"(shared_address(barrier)), "r"(parity)
      : "memory");
  return completed != 0;
}

}  // namespace fa::ptx
