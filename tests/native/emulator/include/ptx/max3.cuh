// Stands in for native/src/ptx/max3.cuh.
#pragma once

#include <algorithm>
#include <bit>

namespace fa::ptx {

inline int float_bits(float x) {
  return std::bit_cast<int>(x);
}
inline int max3(int a, int b, int c) {
  return std::max({a, b, c});
}

}  // namespace fa::ptx
