// Asynchronous copies from global to shared memory (sm_80): PTX cp.async,
// https://docs.nvidia.com/cuda/parallel-thread-execution/#data-movement-and-conversion-instructions-cp-async
#pragma once

#include <cstdint>

namespace fa::ptx {

/// cp.async.cg.shared.global [dst], [src], 16, src_bytes. Copies src_bytes (0 … 16) bytes past the first-level cache and fills the rest of the 16 with zeros;
/// with src_bytes == 0 nothing is read. Both addresses are multiples of 16. s_dst is a shared-window address.
__device__ __forceinline__ void cp_async_16(uint32_t s_dst, const void* g_src, int src_bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(s_dst), "l"(g_src), "r"(src_bytes) : "memory");
}

/// cp.async.cg.shared.global [dst], [src], 16: the form without zero-filling, a single instruction.
__device__ __forceinline__ void cp_async_16(uint32_t s_dst, const void* g_src) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(s_dst), "l"(g_src) : "memory");
}

/// cp.async.commit_group: closes this thread's current group of copies.
__device__ __forceinline__ void cp_async_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}

/// cp.async.wait_group n: waits until at most kPending of this thread's most recent groups are still in flight. Other threads see the data after a barrier.
template <int kPending>
__device__ __forceinline__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

}  // namespace fa::ptx
