// Division by a number that is known when the kernel is launched: a multiplication and a shift instead of some thirty dependent instructions.
#pragma once

#include <cstdint>

namespace fa {

/// n / divisor for 0 <= n < 2^31 and divisor >= 1. With s = ceil(log2(divisor)) and m = ceil(2^(31 + s) / divisor) < 2^32, n * m / 2^(31 + s) exceeds n /
/// divisor by less than n / 2^31 < 1 divisor-th, so the integer parts agree (Granlund and Montgomery, 1994).
struct FastDivisor {
  uint32_t divisor = 1;
  uint32_t multiplier = 0;
  uint32_t shift = 0;  ///< s - 1

  FastDivisor() = default;
  explicit FastDivisor(int64_t value) : divisor(static_cast<uint32_t>(value)) {
    if (divisor > 1) {
      uint32_t log2 = 1;
      while ((uint64_t{1} << log2) < divisor) {
        ++log2;
      }
      multiplier = static_cast<uint32_t>(((uint64_t{1} << (31 + log2)) + divisor - 1) / divisor);
      shift = log2 - 1;
    }
  }

#if defined(__CUDACC__) || defined(FA_EMULATOR)
  __device__ __forceinline__ int quotient(int n) const {
    return divisor == 1 ? n : static_cast<int>(__umulhi(static_cast<uint32_t>(n), multiplier) >> shift);
  }
  __device__ __forceinline__ int remainder(int n, int quotient_of_n) const {
    return n - quotient_of_n * static_cast<int>(divisor);
  }
#endif
};

}  // namespace fa
