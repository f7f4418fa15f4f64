// Stands in for native/src/ptx/mma_sync.cuh, which has the layout of the fragments.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <bit>
#include <cstdint>
#include <type_traits>

#include "emulator.h"

namespace fa::ptx {

template <class Element>
float element_value(uint32_t bits) {
  if constexpr (std::is_same_v<Element, __half>) {
    return __half2float({static_cast<uint16_t>(bits)});
  } else {
    return __bfloat162float({static_cast<uint16_t>(bits)});
  }
}

/// in: four registers of a, two of b. out: this lane's elements of the product a b. No memory that races.h would want to know of.
template <class Element>
__attribute__((no_sanitize("thread"))) void multiply_fragments(emulator::Warp& warp) {
  float a[16][16], b[16][8];
  for (uint32_t lane = 0; lane < emulator::kWarpSize; ++lane) {
    const uint32_t g = lane / 4, t = lane % 4;
    for (uint32_t r = 0; r < 4; ++r) {
      for (uint32_t e = 0; e < 2; ++e) a[g + 8 * (r % 2)][2 * t + e + 8 * (r / 2)] = element_value<Element>(warp[lane].in[r] >> (16 * e));
    }
    for (uint32_t r = 0; r < 2; ++r) {
      for (uint32_t e = 0; e < 2; ++e) b[2 * t + e + 8 * r][g] = element_value<Element>(warp[lane].in[4 + r] >> (16 * e));
    }
  }
  for (uint32_t row = 0; row < 16; ++row) {
    float sums[8] = {};
    for (uint32_t k = 0; k < 16; ++k) {
      for (uint32_t col = 0; col < 8; ++col) sums[col] += a[row][k] * b[k][col];
    }
    for (uint32_t col = 0; col < 8; ++col) warp[row % 8 * 4 + col / 2].out[row / 8 * 2 + col % 2] = std::bit_cast<uint32_t>(sums[col]);
  }
}

template <class Element>
void mma_m16n8k16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  const auto product = emulator::warp_wide(multiply_fragments<Element>, {a[0], a[1], a[2], a[3], b0, b1});
  for (uint32_t i = 0; i < 4; ++i) c[i] += std::bit_cast<float>(product[i]);
}

template <class Element>
uint32_t pack2(float low, float high) {
  if constexpr (std::is_same_v<Element, __half>) {
    return __float2half_rn(low).bits | static_cast<uint32_t>(__float2half_rn(high).bits) << 16;
  } else {
    return __float2bfloat16_rn(low).bits | static_cast<uint32_t>(__float2bfloat16_rn(high).bits) << 16;
  }
}

}  // namespace fa::ptx
