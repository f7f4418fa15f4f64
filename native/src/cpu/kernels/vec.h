// The instruction set being compiled: one vector type `Vec` of kLanes floats and its operations, in a namespace of its own per set. FA_CPU_TARGET is
// plain, avx2 or avx512 (set by cmake/CpuTargets.cmake).
#pragma once

#include <stdint.h>
#include <string.h>

#if defined(_M_X64) && !defined(__GNUC__)
#include <immintrin.h>
#endif

#if defined(_MSC_VER) && !defined(__clang__)
#define FA_INLINE static __forceinline
#else
#define FA_INLINE static inline __attribute__((always_inline))
#endif

/// Before a loop: two steps per round.
#if defined(__clang__)
#define FA_UNROLL_2 _Pragma("clang loop unroll_count(2)")
#elif defined(__GNUC__)
#define FA_UNROLL_2 _Pragma("GCC unroll 2")
#else
#define FA_UNROLL_2
#endif

#define FA_CONCAT_(a, b) a##b
#define FA_CONCAT(a, b) FA_CONCAT_(a, b)

#if defined(FA_CPU_TARGET_avx512)
#include "cpu/kernels/vec_avx512.h"
#elif defined(FA_CPU_TARGET_avx2)
#include "cpu/kernels/vec_avx2.h"
#else
#include "cpu/kernels/vec_plain.h"
#endif

namespace fa::cpu::FA_CPU_TARGET {

/// Asks for the cache line at `address`, which need not be valid.
FA_INLINE void prefetch(const char* address) {
#if defined(__GNUC__)
  __builtin_prefetch(address);
#elif defined(_M_X64)
  _mm_prefetch(address, _MM_HINT_T0);
#else
  (void)address;
#endif
}
FA_INLINE int min_int(int a, int b) {
  return a < b ? a : b;
}
FA_INLINE int64_t min_int64(int64_t a, int64_t b) {
  return a < b ? a : b;
}
FA_INLINE int64_t max_int64(int64_t a, int64_t b) {
  return a > b ? a : b;
}
FA_INLINE int round_up(int value, int multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

/// e^x within about 1 ulp for x <= 88; 0 below the smallest normal number's logarithm (-87.7); NaN for NaN (any payload); at most 1.7e38, never infinity.
/// x = n ln2 + f with |f| <= ln2/2; e^f by a polynomial of degree 6 (relative error 1e-8); 2^n built in the exponent field.
FA_INLINE Vec exp_vec(Vec x) {
  const Vec magic = set1(12582912.0f + 127.0f);  // 1.5 * 2^23 + bias: the low bits of x + magic are round(x) + 127
  x = min_keep_nan(x, set1(88.0f));
  x = max_keep_nan(x, set1(-88.0f));  // n = -127 below: its power of two is built as 0
  const Vec shifted = fma(x, set1(1.44269504089f), magic);
  const Vec n = sub(shifted, magic);
  Vec f = fnma(n, set1(0.693359375f), x);  // ln2 in two parts; the first has 9 bits, so that n * part is exact
  f = fnma(n, set1(-2.12194440e-4f), f);
  Vec r = fma(f, set1(0.00139263761f), set1(0.00836333353f));
  r = fma(r, f, set1(0.0416665524f));
  r = fma(r, f, set1(0.166665763f));
  r = fma(r, f, set1(0.5f));
  r = fma(r, f, set1(1.0f));
  r = fma(r, f, set1(1.0f));
  return mul(r, exponent_from_low_bits(shifted));
}

}  // namespace fa::cpu::FA_CPU_TARGET
