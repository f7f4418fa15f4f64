// bar.sync, bar.arrive: the block's 16 hardware barriers. Barrier 0 is __syncthreads.
#pragma once

namespace fa::ptx {

/// Waits for the other threads of the barrier; threads is the number that sync or arrive, a multiple of 32. bar.sync (orders memory among them)
__device__ __forceinline__ void named_barrier_sync(int id, int threads) {
  asm volatile("bar.sync %0, %1;\n" ::"r"(id), "r"(threads) : "memory");
}

/// Counts as present without waiting. bar.arrive
__device__ __forceinline__ void named_barrier_arrive(int id, int threads) {
  asm volatile("bar.arrive %0, %1;\n" ::"r"(id), "r"(threads) : "memory");
}

/// Waits for the other threads of the barrier and counts those whose predicate holds. barrier.red.popc
__device__ __forceinline__ int named_barrier_count(int id, int threads, bool predicate) {
  int count;
  asm volatile("{\n.reg .pred p;\nsetp.ne.s32 p, %3, 0;\nbarrier.red.popc.u32 %0, %1, %2, p;\n}\n"
               : "=r"(count)
               : "r"(id), "r"(threads), "r"(static_cast<int>(predicate))
               : "memory");
  return count;
}

}  // namespace fa::ptx
