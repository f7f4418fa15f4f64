// ex2.approx: the special-function unit's power of two. PTX ISA 1.4.
#pragma once

namespace fa::ptx {

/// 2^x with a relative error of about 2^-22; subnormal results are flushed to zero (the form that keeps them costs three more instructions). exp2(-inf) = 0,
/// exp2(+inf) = +inf, NaN stays NaN. ex2.approx.ftz.f32
__device__ __forceinline__ float exp2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
  return y;
}

}  // namespace fa::ptx
