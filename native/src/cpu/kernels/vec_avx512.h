// AVX-512 F/BW/DQ/VL: 16 lanes, 32 registers.
#pragma once

#include <immintrin.h>
#include <stdint.h>

namespace fa::cpu::FA_CPU_TARGET {

using Vec = __m512;
inline constexpr int kLanes = 16;
/// Accumulator block of the matrix kernel: 24 of the 32 registers, two for B, the rest for broadcasts of A in flight.
inline constexpr int kBlockRows = 12;
inline constexpr int kBlockVecs = 2;
inline constexpr const char* kName = "AVX-512";
inline constexpr const char* kSuffix = "avx512";

FA_INLINE Vec zero() {
  return _mm512_setzero_ps();
}
FA_INLINE Vec set1(float x) {
  return _mm512_set1_ps(x);
}
FA_INLINE Vec lane_index() {
  return _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
}
FA_INLINE Vec load(const float* p) {
  return _mm512_loadu_ps(p);
}
FA_INLINE void store(float* p, Vec v) {
  _mm512_storeu_ps(p, v);
}
FA_INLINE Vec add(Vec a, Vec b) {
  return _mm512_add_ps(a, b);
}
FA_INLINE Vec sub(Vec a, Vec b) {
  return _mm512_sub_ps(a, b);
}
FA_INLINE Vec mul(Vec a, Vec b) {
  return _mm512_mul_ps(a, b);
}
FA_INLINE Vec div(Vec a, Vec b) {
  return _mm512_div_ps(a, b);
}
/// a * b + c
FA_INLINE Vec fma(Vec a, Vec b, Vec c) {
  return _mm512_fmadd_ps(a, b, c);
}
/// c - a * b
FA_INLINE Vec fnma(Vec a, Vec b, Vec c) {
  return _mm512_fnmadd_ps(a, b, c);
}
// The x86 instructions return their second operand if either is NaN.
FA_INLINE Vec max_keep_nan(Vec x, Vec bound) {
  return _mm512_max_ps(bound, x);
}
FA_INLINE Vec min_keep_nan(Vec x, Vec bound) {
  return _mm512_min_ps(bound, x);
}
/// a >= b ? x : y, lane by lane
FA_INLINE Vec select_ge(Vec a, Vec b, Vec x, Vec y) {
  return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_GE_OQ), y, x);
}
FA_INLINE Vec exponent_from_low_bits(Vec v) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(v), 23));
}

FA_INLINE Vec load_f16(const uint16_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
FA_INLINE void store_f16(uint16_t* p, Vec v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
FA_INLINE Vec load_bf16(const uint16_t* p) {
  const __m512i bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  return _mm512_castsi512_ps(_mm512_slli_epi32(bits, 16));
}
/// Round to nearest even; NaN stays NaN (the quiet bit is set, so that cutting the payload cannot make an infinity).
FA_INLINE void store_bf16(uint16_t* p, Vec v) {
  const __m512i bits = _mm512_castps_si512(v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x00400000));
  const __m512i value = _mm512_mask_blend_epi32(_mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q), rounded, quiet);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(_mm512_srli_epi32(value, 16)));
}

/// One 8 x 8 quarter of transpose_block.
FA_INLINE void transpose_8x8(const float* source, int64_t ld_source, float* target, int64_t ld_target) {
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

/// target[c][r] = source[r][c] for a kLanes x kLanes block; strides in floats.
FA_INLINE void transpose_block(const float* source, int64_t ld_source, float* target, int64_t ld_target) {
  transpose_8x8(source, ld_source, target, ld_target);
  transpose_8x8(source + 8, ld_source, target + 8 * ld_target, ld_target);
  transpose_8x8(source + 8 * ld_source, ld_source, target + 8, ld_target);
  transpose_8x8(source + 8 * ld_source + 8, ld_source, target + 8 * ld_target + 8, ld_target);
}

}  // namespace fa::cpu::FA_CPU_TARGET
