// Largest of three integers: one instruction (VIMNMX3) from sm_90 on.
#pragma once

namespace fa::ptx {

/// The bits of x. A move that the compiler does not look through: as a plain reinterpretation the numbers of a wgmma accumulator are kept twice.
__device__ __forceinline__ int float_bits(float x) {
  int bits;
  asm("mov.b32 %0, %1;" : "=r"(bits) : "f"(x));
  return bits;
}

__device__ __forceinline__ int max3(int a, int b, int c) {
  return __vimax3_s32(a, b, c);
}

}  // namespace fa::ptx
