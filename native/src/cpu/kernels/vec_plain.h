// Any machine: 4 lanes through the compiler's vector extension where there is one (SSE2 on x86-64, NEON on Arm), else an array that the optimiser may
// vectorise. Products and sums may be fused or not, as the compiler likes.
#pragma once

#include <stdint.h>
#include <string.h>

namespace fa::cpu::FA_CPU_TARGET {

inline constexpr int kLanes = 4;
/// Accumulator block of the matrix kernel: 12 of 16 registers.
inline constexpr int kBlockRows = 6;
inline constexpr int kBlockVecs = 2;
inline constexpr const char* kName = "plain";
inline constexpr const char* kSuffix = "plain";

#if defined(__GNUC__)
typedef float Vec __attribute__((vector_size(16)));
typedef int32_t IntVec __attribute__((vector_size(16)));
FA_INLINE Vec set1(float x) {
  return Vec{x, x, x, x};
}
FA_INLINE Vec add(Vec a, Vec b) {
  return a + b;
}
FA_INLINE Vec sub(Vec a, Vec b) {
  return a - b;
}
FA_INLINE Vec mul(Vec a, Vec b) {
  return a * b;
}
FA_INLINE Vec div(Vec a, Vec b) {
  return a / b;
}
FA_INLINE Vec bitwise_select(IntVec mask, Vec x, Vec y) {
  return (Vec)((mask & (IntVec)x) | (~mask & (IntVec)y));
}
FA_INLINE Vec max_keep_nan(Vec x, Vec bound) {
  return bitwise_select((IntVec)(x < bound), bound, x);
}
FA_INLINE Vec min_keep_nan(Vec x, Vec bound) {
  return bitwise_select((IntVec)(x > bound), bound, x);
}
FA_INLINE Vec select_ge(Vec a, Vec b, Vec x, Vec y) {
  return bitwise_select((IntVec)(a >= b), x, y);
}
FA_INLINE Vec exponent_from_low_bits(Vec v) {
  typedef uint32_t UintVec __attribute__((vector_size(16)));
  return (Vec)((UintVec)v << 23);
}
#else
struct Vec {
  float lane[4];
};
#define FA_LANES(expression)                            \
  Vec r;                                                \
  for (int i = 0; i < 4; ++i) r.lane[i] = (expression); \
  return r
FA_INLINE Vec set1(float x) {
  FA_LANES(x);
}
FA_INLINE Vec add(Vec a, Vec b) {
  FA_LANES(a.lane[i] + b.lane[i]);
}
FA_INLINE Vec sub(Vec a, Vec b) {
  FA_LANES(a.lane[i] - b.lane[i]);
}
FA_INLINE Vec mul(Vec a, Vec b) {
  FA_LANES(a.lane[i] * b.lane[i]);
}
FA_INLINE Vec div(Vec a, Vec b) {
  FA_LANES(a.lane[i] / b.lane[i]);
}
FA_INLINE Vec max_keep_nan(Vec x, Vec bound) {
  FA_LANES(x.lane[i] < bound.lane[i] ? bound.lane[i] : x.lane[i]);
}
FA_INLINE Vec min_keep_nan(Vec x, Vec bound) {
  FA_LANES(x.lane[i] > bound.lane[i] ? bound.lane[i] : x.lane[i]);
}
FA_INLINE Vec select_ge(Vec a, Vec b, Vec x, Vec y) {
  FA_LANES(a.lane[i] >= b.lane[i] ? x.lane[i] : y.lane[i]);
}
FA_INLINE Vec exponent_from_low_bits(Vec v) {
  uint32_t bits[4];
  memcpy(bits, &v, sizeof bits);
  for (int i = 0; i < 4; ++i) bits[i] <<= 23;
  memcpy(&v, bits, sizeof bits);
  return v;
}
#undef FA_LANES
#endif

FA_INLINE Vec zero() {
  return set1(0.0f);
}
FA_INLINE Vec load(const float* p) {
  Vec v;
  memcpy(&v, p, sizeof v);
  return v;
}
FA_INLINE void store(float* p, Vec v) {
  memcpy(p, &v, sizeof v);
}
FA_INLINE Vec lane_index() {
  const float index[4] = {0, 1, 2, 3};
  return load(index);
}
/// a * b + c
FA_INLINE Vec fma(Vec a, Vec b, Vec c) {
  return add(mul(a, b), c);
}
/// c - a * b
FA_INLINE Vec fnma(Vec a, Vec b, Vec c) {
  return sub(c, mul(a, b));
}

FA_INLINE float float_from_bits(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}
FA_INLINE uint32_t bits_from_float(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

FA_INLINE float f16_to_f32(uint16_t half) {
  const uint32_t sign = (half & 0x8000u) << 16, exponent = (half >> 10) & 31u, mantissa = half & 0x3ffu;
  if (exponent == 31) return float_from_bits(sign | 0x7f800000u | mantissa << 13);
  if (exponent != 0) return float_from_bits(sign | (exponent + 112) << 23 | mantissa << 13);
  const float magnitude = static_cast<float>(mantissa) * 5.9604644775390625e-8f;  // subnormal: units of 2^-24
  return float_from_bits(sign | bits_from_float(magnitude));
}
/// Round to nearest even.
FA_INLINE uint16_t f32_to_f16(float value) {
  const uint32_t bits = bits_from_float(value), sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u | (magnitude >> 13 & 0x3ffu));
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // 65520 and more
  if (magnitude < 0x38800000u) {
    // Below 2^-14: adding 0.5 puts the unit of the last place at 2^-24 and lets the addition round.
    const float sum = float_from_bits(magnitude) + 0.5f;
    return static_cast<uint16_t>(sign | (bits_from_float(sum) - 0x3f000000u));
  }
  const uint32_t rebiased = magnitude - (112u << 23);
  return static_cast<uint16_t>(sign | (rebiased + 0xfffu + (rebiased >> 13 & 1u)) >> 13);
}
FA_INLINE uint16_t f32_to_bf16(float value) {
  const uint32_t bits = bits_from_float(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits | 0x00400000u) >> 16);
  return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

FA_INLINE Vec load_f16(const uint16_t* p) {
  float lanes[4];
  for (int i = 0; i < 4; ++i) lanes[i] = f16_to_f32(p[i]);
  return load(lanes);
}
FA_INLINE void store_f16(uint16_t* p, Vec v) {
  float lanes[4];
  store(lanes, v);
  for (int i = 0; i < 4; ++i) p[i] = f32_to_f16(lanes[i]);
}
FA_INLINE Vec load_bf16(const uint16_t* p) {
  float lanes[4];
  for (int i = 0; i < 4; ++i) lanes[i] = float_from_bits(static_cast<uint32_t>(p[i]) << 16);
  return load(lanes);
}
FA_INLINE void store_bf16(uint16_t* p, Vec v) {
  float lanes[4];
  store(lanes, v);
  for (int i = 0; i < 4; ++i) p[i] = f32_to_bf16(lanes[i]);
}

/// target[c][r] = source[r][c] for a kLanes x kLanes block; strides in floats.
FA_INLINE void transpose_block(const float* source, int64_t ld_source, float* target, int64_t ld_target) {
  for (int c = 0; c < 4; ++c)
    for (int r = 0; r < 4; ++r) target[c * ld_target + r] = source[r * ld_source + c];
}

}  // namespace fa::cpu::FA_CPU_TARGET
