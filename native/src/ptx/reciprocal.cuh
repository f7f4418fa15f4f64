// rcp.approx: the special-function unit's reciprocal. PTX ISA 1.4.
#pragma once

namespace fa::ptx {

/// 1 / x to 1 ulp; subnormal inputs and results are taken as zero, 1 / inf = 0, NaN stays NaN. rcp.approx.ftz.f32
__device__ __forceinline__ float reciprocal_approx(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
  return y;
}

}  // namespace fa::ptx
