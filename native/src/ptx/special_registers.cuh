// Special registers read anew at every use: what is derived from them need not stay in a register across a loop that has none to spare.
#pragma once

namespace fa::ptx {

/// mov.u32 %tid.x, not merged with other reads.
__device__ __forceinline__ int thread_index_anew() {
  int index;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(index));
  return index;
}

/// mov.u32 %ctaid.x, not merged with other reads.
__device__ __forceinline__ int block_index_anew() {
  int index;
  asm volatile("mov.u32 %0, %%ctaid.x;" : "=r"(index));
  return index;
}

}  // namespace fa::ptx
