// stmatrix: stores 8 x 8 matrices of 16-bit elements from a warp's registers to shared memory. PTX ISA 7.8, sm_90.
#pragma once

#include <cstdint>

namespace fa::ptx {

/// Stores four matrices; lanes 8i … 8i + 7 give the addresses of the eight 16-byte rows of matrix i. In register i lane l holds row l / 4, columns 2 (l % 4)
/// and 2 (l % 4) + 1. stmatrix.sync.aligned.m8n8.x4.shared.b16
__device__ __forceinline__ void stmatrix_x4(uint32_t s_row_address, uint32_t r0, uint32_t r1, uint32_t r2, uint32_t r3) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};\n" ::"r"(s_row_address), "r"(r0), "r"(r1), "r"(r2), "r"(r3) : "memory");
}

/// As stmatrix_x4, but each matrix is stored transposed: in register i lane l holds column l / 4, rows 2 (l % 4) and 2 (l % 4) + 1 of what is stored.
/// stmatrix.sync.aligned.m8n8.x4.trans.shared.b16
__device__ __forceinline__ void stmatrix_x4_trans(uint32_t s_row_address, uint32_t r0, uint32_t r1, uint32_t r2, uint32_t r3) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};\n" ::"r"(s_row_address), "r"(r0), "r"(r1), "r"(r2), "r"(r3) : "memory");
}

}  // namespace fa::ptx
