// prefetch: brings a line of global memory into a cache without reading it. PTX ISA 2.0.
#pragma once

namespace fa::ptx {

/// prefetch.global.L1
__device__ __forceinline__ void prefetch_l1(const void* g_address) {
  asm volatile("prefetch.global.L1 [%0];\n" ::"l"(g_address));
}

}  // namespace fa::ptx
