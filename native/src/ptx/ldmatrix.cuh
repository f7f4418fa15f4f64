// Loads of 8x8 matrices of 16-bit elements from shared memory into the fragments of mma (sm_75): PTX ldmatrix.
#pragma once

#include <cstdint>

namespace fa::ptx {

/// Address of an object in the shared window, as shared-memory instructions take it.
__device__ __forceinline__ uint32_t shared_address(const void* s_pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(s_pointer));
}

/// ldmatrix.sync.aligned.m8n8.x4.shared.b16. Lanes 8i … 8i+7 give the addresses of the eight 16-byte rows of matrix i; afterwards r[i] of lane l holds
/// elements 2(l%4) and 2(l%4)+1 of row l/4 of matrix i. Warp-wide.
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], uint32_t s_row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(s_row) : "memory");
}

/// ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16: as above, of the transposed matrices.
__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&r)[4], uint32_t s_row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(s_row)
               : "memory");
}

}  // namespace fa::ptx
