// Stand-in for native/src/ptx/reciprocal.cuh.
#pragma once

namespace fa::ptx {

inline float reciprocal_approx(float x) {
  return 1.0f / x;
}

}  // namespace fa::ptx
