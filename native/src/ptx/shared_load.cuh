// ld.shared whose value is not kept: it is read where it is used, instead of staying in registers through a loop that has none to spare.
#pragma once

#include "ptx/ldmatrix.cuh"
#include "ptx/special_registers.cuh"

namespace fa::ptx {

/// *s_address, a 16-byte aligned place in shared memory. ld.volatile.shared.v4.b32
__device__ __forceinline__ int4 load_shared_anew(const int4* s_address) {
  int4 value;
  asm volatile("ld.volatile.shared.v4.b32 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
               : "r"(shared_address(s_address))
               : "memory");
  return value;
}

/// The same in lane 0 for its warp; 0 in the others.
__device__ __forceinline__ int4 load_shared_by_first_lane(const int4* s_address) {
  int4 value = make_int4(0, 0, 0, 0);
  if (thread_index_anew() % 32 == 0) {
    asm volatile("ld.volatile.shared.v4.b32 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
                 : "r"(shared_address(s_address)));
  }
  return value;
}

}  // namespace fa::ptx
