// Stands in for native/src/ptx/ldmatrix.cuh, which has the layout.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>

#include "emulator.h"
#include "races.h"

namespace fa::ptx {

inline uint32_t shared_address(const void* s_pointer) {
  return static_cast<uint32_t>(static_cast<const unsigned char*>(s_pointer) - emulator::shared_memory());
}

/// in: address of a row. Rows are reported whole, for speed.
template <bool kTransposed>
__attribute__((no_sanitize("thread"))) void load_matrices(emulator::Warp& warp) {
  for (const emulator::Lane& lane : warp) emulator::races::read(emulator::shared_memory() + lane.in[0], 16);
  for (uint32_t lane = 0; lane < emulator::kWarpSize; ++lane) {
    for (uint32_t matrix = 0; matrix < 4; ++matrix) {
      uint32_t packed = 0;
      for (uint32_t e = 0; e < 2; ++e) {
        const uint32_t along = 2 * (lane % 4) + e;
        const uint32_t row = kTransposed ? along : lane / 4, col = kTransposed ? lane / 4 : along;
        uint16_t element;
        std::memcpy(&element, emulator::shared_memory() + warp[8 * matrix + row].in[0] + 2 * col, sizeof(element));
        packed |= static_cast<uint32_t>(element) << (16 * e);
      }
      warp[lane].out[matrix] = packed;
    }
  }
}

template <bool kTransposed>
void load_matrices_x4(uint32_t (&r)[4], uint32_t s_row) {
  if (s_row % 16 != 0 || s_row + 16 > emulator::kSharedBytes) emulator::fail("ldmatrix from misaligned or foreign address " + std::to_string(s_row));
  const auto loaded = emulator::warp_wide(load_matrices<kTransposed>, {s_row});
  for (uint32_t i = 0; i < 4; ++i) r[i] = loaded[i];
}

inline void ldmatrix_x4(uint32_t (&r)[4], uint32_t s_row) {
  load_matrices_x4<false>(r, s_row);
}

inline void ldmatrix_x4_trans(uint32_t (&r)[4], uint32_t s_row) {
  load_matrices_x4<true>(r, s_row);
}

}  // namespace fa::ptx
