// Shared-memory tiles of 16-bit elements as wgmma and TMA see them, and the descriptors of their parts.
//
// A tile of R rows x C columns is stored in panels of 64 columns, each R rows of 128 bytes, one panel after the other. Within a panel the 16-byte chunks of a
// row are permuted by the 128-byte swizzle: chunk c of row r is stored at chunk c ^ (r % 8). TMA writes this form (box of 64 x R, CU_TENSOR_MAP_SWIZZLE_128B),
// and wgmma reads it either way round: as a K-major operand (columns are the product's K dimension) or as an MN-major one (rows are K). Panels must start on
// 1024 bytes, since the hardware takes the row within the swizzle from the address, and R must be a multiple of 8.
#pragma once

#include <cstdint>

#include "ptx/ldmatrix.cuh"

namespace fa::tile {

inline constexpr int kPanelRowBytes = 128;
/// Eight rows of a panel: the unit that the swizzle repeats over.
inline constexpr int kSwizzleAtomBytes = 8 * kPanelRowBytes;

/// Offset in bytes, within a panel, of 16-byte chunk `chunk` (0 … 7) of row `row`.
__device__ __forceinline__ uint32_t swizzled_offset_bytes(int row, int chunk) {
  return static_cast<uint32_t>(row * kPanelRowBytes + ((chunk ^ (row & 7)) << 4));
}

/// A descriptor of which only the low half is kept: every tile of this form has the same high half, and steps change the address alone.
class Descriptor {
 public:
  __device__ __forceinline__ Descriptor(const void* s_tile, uint32_t leading_bytes)
      : low_(((ptx::shared_address(s_tile) & 0x3FFFF) >> 4) | ((leading_bytes >> 4) << 16)) {}

  /// The 64-bit form, moved on by `step` units of 16 bytes. Bits 0-13 address / 16, 16-29 leading byte offset / 16, 32-45 stride byte offset / 16, 62-63
  /// swizzle (1 = 128 bytes).
  __device__ __forceinline__ uint64_t at(uint32_t step) const {
    constexpr uint32_t kHigh = (kSwizzleAtomBytes >> 4) | (1u << 30);
    return (static_cast<uint64_t>(kHigh) << 32) | (low_ + step);
  }

 private:
  uint32_t low_;
};

/// Descriptor of a K-major operand: rows of the tile are rows (A) or columns (B) of the product. The leading offset is not used in this form.
__device__ __forceinline__ Descriptor k_major_descriptor(const void* s_tile) {
  return Descriptor(s_tile, 16);
}

/// What to add to a K-major descriptor for k-step `step` (16 columns); rows: rows of the whole tile.
__host__ __device__ constexpr uint32_t k_major_step(int step, int rows) {
  return static_cast<uint32_t>((step / 4 * rows * kPanelRowBytes + step % 4 * 32) >> 4);
}

/// Descriptor of an MN-major B operand: rows of the tile are the product's K dimension. rows: rows of the whole tile, which sets the distance of its panels.
__device__ __forceinline__ Descriptor mn_major_descriptor(const void* s_tile, int rows) {
  return Descriptor(s_tile, static_cast<uint32_t>(rows * kPanelRowBytes));
}

/// What to add to an MN-major descriptor for k-step `step` (16 rows).
__host__ __device__ constexpr uint32_t mn_major_step(int step) {
  return static_cast<uint32_t>((step * 16 * kPanelRowBytes) >> 4);
}

}  // namespace fa::tile
