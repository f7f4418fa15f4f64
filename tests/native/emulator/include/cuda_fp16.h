// 16-bit floats as the toolkit names them, with conversions (round to nearest even, NaN becomes 0x7fff).
#pragma once

#include <bit>
#include <cstdint>

struct __half {
  uint16_t bits;
};

inline __half __ushort_as_half(uint16_t bits) {
  return {bits};
}

inline float __half2float(__half value) {
  const uint32_t shifted = (value.bits & 0x7fffu) << 13;
  const bool nonfinite = (value.bits & 0x7c00u) == 0x7c00u;
  const float magnitude = nonfinite ? std::bit_cast<float>(shifted | 0x7f800000u) : std::bit_cast<float>(shifted) * 0x1p112f;
  return value.bits & 0x8000u ? -magnitude : magnitude;
}

inline __half __float2half_rn(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = bits >> 16 & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  uint32_t rounded;
  if (magnitude > 0x7f800000u) return {0x7fff};
  if (magnitude >= 0x477ff000u) {  // 65520 and more
    rounded = 0x7c00u;
  } else if (magnitude < 0x38800000u) {  // subnormal: 0.5 has the distance between neighbours that subnormal halves have
    rounded = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + 0.5f) - std::bit_cast<uint32_t>(0.5f);
  } else {
    rounded = (magnitude + 0xfffu + (magnitude >> 13 & 1) - 0x38000000u) >> 13;
  }
  return {static_cast<uint16_t>(sign | rounded)};
}
