// setmaxnreg: moves registers between the warpgroups of a block. PTX ISA 8.0, sm_90a.
#pragma once

namespace fa::ptx {

/// Gives registers back: this warpgroup goes on with kCount per thread. setmaxnreg.dec.sync.aligned.u32
template <int kCount>
__device__ __forceinline__ void registers_release() {
  static_assert(kCount >= 24 && kCount <= 256 && kCount % 8 == 0, "setmaxnreg takes multiples of 8 from 24 to 256");
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;\n" ::"n"(kCount));
}

/// Takes registers: waits until this warpgroup can have kCount per thread. setmaxnreg.inc.sync.aligned.u32
template <int kCount>
__device__ __forceinline__ void registers_acquire() {
  static_assert(kCount >= 24 && kCount <= 256 && kCount % 8 == 0, "setmaxnreg takes multiples of 8 from 24 to 256");
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;\n" ::"n"(kCount));
}

}  // namespace fa::ptx
