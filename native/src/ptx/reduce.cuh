// red: atomic additions to global memory that return nothing. Vectors of fp32: PTX ISA 8.1, sm_90.
#pragma once

namespace fa::ptx {

/// Adds four values to four neighbours, each atomically; 16-byte aligned. red.relaxed.gpu.global.add.v4.f32
__device__ __forceinline__ void reduce_add_v4(float* g_destination, float x, float y, float z, float w) {
  asm volatile("red.relaxed.gpu.global.add.v4.f32 [%0], {%1, %2, %3, %4};\n" ::"l"(g_destination), "f"(x), "f"(y), "f"(z), "f"(w) : "memory");
}

}  // namespace fa::ptx
