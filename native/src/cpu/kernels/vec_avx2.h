// AVX2 + FMA + F16C: 8 lanes, 16 registers.
#pragma once

#include <immintrin.h>
#include <stdint.h>

namespace fa::cpu::FA_CPU_TARGET {

using Vec = __m256;
inline constexpr int kLanes = 8;
/// Accumulator block of the matrix kernel: kBlockRows x kBlockVecs vectors, 12 of the 16 registers; the rest hold two of B and one broadcast of A. Two FMA
/// pipes with 4 cycles latency need 8 independent chains.
inline constexpr int kBlockRows = 6;
inline constexpr int kBlockVecs = 2;
inline constexpr const char* kName = "AVX2";
inline constexpr const char* kSuffix = "avx2";

FA_INLINE Vec zero() {
  return _mm256_setzero_ps();
}
FA_INLINE Vec set1(float x) {
  return _mm256_set1_ps(x);
}
FA_INLINE Vec lane_index() {
  return _mm256_setr_ps(0, 1, 2, 3, 4, 5, 6, 7);
}
FA_INLINE Vec load(const float* p) {
  return _mm256_loadu_ps(p);
}
FA_INLINE void store(float* p, Vec v) {
  _mm256_storeu_ps(p, v);
}
FA_INLINE Vec add(Vec a, Vec b) {
  return _mm256_add_ps(a, b);
}
FA_INLINE Vec sub(Vec a, Vec b) {
  return _mm256_sub_ps(a, b);
}
FA_INLINE Vec mul(Vec a, Vec b) {
  return _mm256_mul_ps(a, b);
}
FA_INLINE Vec div(Vec a, Vec b) {
  return _mm256_div_ps(a, b);
}
/// a * b + c
FA_INLINE Vec fma(Vec a, Vec b, Vec c) {
  return _mm256_fmadd_ps(a, b, c);
}
/// c - a * b
FA_INLINE Vec fnma(Vec a, Vec b, Vec c) {
  return _mm256_fnmadd_ps(a, b, c);
}
// The x86 instructions return their second operand if either is NaN.
FA_INLINE Vec max_keep_nan(Vec x, Vec bound) {
  return _mm256_max_ps(bound, x);
}
FA_INLINE Vec min_keep_nan(Vec x, Vec bound) {
  return _mm256_min_ps(bound, x);
}
/// a >= b ? x : y, lane by lane
FA_INLINE Vec select_ge(Vec a, Vec b, Vec x, Vec y) {
  return _mm256_blendv_ps(y, x, _mm256_cmp_ps(a, b, _CMP_GE_OQ));
}
FA_INLINE Vec exponent_from_low_bits(Vec v) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(v), 23));
}

FA_INLINE Vec load_f16(const uint16_t* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
FA_INLINE void store_f16(uint16_t* p, Vec v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
FA_INLINE Vec load_bf16(const uint16_t* p) {
  const __m256i bits = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return _mm256_castsi256_ps(_mm256_slli_epi32(bits, 16));
}
/// Round to nearest even; NaN stays NaN (the quiet bit is set, so that cutting the payload cannot make an infinity).
FA_INLINE void store_bf16(uint16_t* p, Vec v) {
  const __m256i bits = _mm256_castps_si256(v);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x00400000));
  const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
  const __m256i high = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, is_nan), 16);
  const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(high, high), 0x08);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(packed));
}

/// target[c][r] = source[r][c] for a kLanes x kLanes block; strides in floats.
FA_INLINE void transpose_block(const float* source, int64_t ld_source, float* target, int64_t ld_target) {
  __m256 row[8], pair[8], quad[8];
  for (int i = 0; i < 8; ++i) row[i] = _mm256_loadu_ps(source + i * ld_source);
  for (int i = 0; i < 8; i += 2) {
    pair[i] = _mm256_unpacklo_ps(row[i], row[i + 1]);
    pair[i + 1] = _mm256_unpackhi_ps(row[i], row[i + 1]);
  }
  for (int i = 0; i < 8; i += 4) {
    quad[i] = _mm256_shuffle_ps(pair[i], pair[i + 2], 0x44);
    quad[i + 1] = _mm256_shuffle_ps(pair[i], pair[i + 2], 0xee);
    quad[i + 2] = _mm256_shuffle_ps(pair[i + 1], pair[i + 3], 0x44);
    quad[i + 3] = _mm256_shuffle_ps(pair[i + 1], pair[i + 3], 0xee);
  }
  for (int i = 0; i < 4; ++i) {
    _mm256_storeu_ps(target + i * ld_target, _mm256_permute2f128_ps(quad[i], quad[i + 4], 0x20));
    _mm256_storeu_ps(target + (i + 4) * ld_target, _mm256_permute2f128_ps(quad[i], quad[i + 4], 0x31));
  }
}

}  // namespace fa::cpu::FA_CPU_TARGET
