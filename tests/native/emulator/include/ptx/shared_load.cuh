// Stand-in for native/src/ptx/shared_load.cuh.
#pragma once

#include "cuda_runtime.h"

namespace fa::ptx {

inline int4 load_shared_anew(const int4* s_address) {
  return *s_address;
}

inline int4 load_shared_by_first_lane(const int4* s_address) {
  return threadIdx.x % 32 == 0 ? *s_address : make_int4(0, 0, 0, 0);
}

}  // namespace fa::ptx
