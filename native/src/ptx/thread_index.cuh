// %tid.x, read where it is written.
#pragma once

namespace fa::ptx {

/// threadIdx.x, but read anew at every call: what is derived from it is computed where it is used instead of being kept in registers through a loop that has
/// none to spare. mov.u32 from %tid.x
__device__ __forceinline__ int fresh_thread_index() {
  int index;
  asm volatile("mov.u32 %0, %%tid.x;\n" : "=r"(index));
  return index;
}

}  // namespace fa::ptx
