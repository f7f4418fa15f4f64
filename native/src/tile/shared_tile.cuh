// Row-major tiles of 16-bit elements in shared memory, XOR-swizzled so that neither 16-byte row writes nor ldmatrix (eight rows at one column) conflict, and
// the lane addresses by which a warp reads mma operands from them.
//
// A row is cut into chunks of 16 bytes (8 elements). Chunk c of row r lies at chunk c ^ x(r) of the row: x = r % 8 for rows of 64 columns or more, and
// (r / 2) % 4 for rows of 32 columns, whose pairs share the 128 bytes that all 32 banks serve at once. Address bits 4-6 (4-5) thus hold nothing but the
// swizzled chunk, so moving by 16 columns is one XOR with a constant, and by 64 columns or by 16 rows an immediate offset.
#pragma once

#include <cstdint>

#include "ptx/ldmatrix.cuh"

namespace fa {

template <int kRows_, int kCols_>
struct SharedTile {
  static constexpr int kRows = kRows_;
  static constexpr int kCols = kCols_;
  /// Columns from row to row: the swizzle needs rows of 64 bytes or of whole 128-byte lines. What lies behind kCols (some of 96 columns' second line) is
  /// never written or read.
  static constexpr int kPitch = kCols == 32 ? 32 : (kCols + 63) / 64 * 64;
  static constexpr int kRowBytes = kPitch * 2;
  static_assert(kCols % 32 == 0, "half lines");

  /// 128: the swizzle works on absolute address bits 4-6.
  alignas(128) uint16_t elements[kRows * kPitch];

  /// What chunk indices of a row are XORed with.
  __device__ static constexpr int swizzle(int row) { return kCols == 32 ? (row >> 1) & 3 : row & 7; }

  /// Byte offset of a chunk (8 columns) of a row.
  __device__ static constexpr int chunk_offset_bytes(int row, int chunk) { return row * kRowBytes + ((chunk ^ swizzle(row)) << 4); }

  /// Where element i of kRows * kCols lies, counted in an order of its own, in which 2 j and 2 j + 1 are neighbours.
  __device__ static constexpr int place_of(int i) { return kPitch == kCols ? i : chunk_offset_bytes(i / kCols, i % kCols / 8) / 2 + i % 8; }

  /// Pointer to an element; neighbours are contiguous only within a chunk.
  __device__ uint16_t* at(int row, int col) { return elements + chunk_offset_bytes(row, col >> 3) / 2 + (col & 7); }
};

/// How the four 8x8 matrices of one ldmatrix.x4 are placed in a 16x16 block of a stored tile.
enum class BlockOrder {
  kRowsFirst,  ///< matrices 0, 1 are the upper and lower left ones
  kColsFirst,  ///< matrices 0, 1 are the upper left and right ones
};

/// A stored tile as an operand of mma, read in 16x16 blocks. kTransposed: the operand is the transpose of what is stored. The four uses:
///   A from (m, k) storage: kRowsFirst          A from (k, m) storage: kColsFirst, transposed
///   B from (n, k) storage: kColsFirst          B from (k, n) storage: kRowsFirst, transposed
/// A block gives one A fragment, or the B fragments {b[0], b[1]} and {b[2], b[3]} of two neighbouring groups of 8 columns n.
template <class Tile, BlockOrder kOrder, bool kTransposed>
class Operand {
 public:
  /// The window starts at (row, col) of the tile: row is a multiple of 16, col a multiple of a power of two of at least the window's width or of 64.
  __device__ __forceinline__ Operand(const Tile& s_tile, int row, int col) : Operand(s_tile, row, col, threadIdx.x & 31) {}

  /// The same for a lane read anew, so that the address is computed here and not kept from before a loop.
  __device__ __forceinline__ Operand(const Tile& s_tile, int row, int col, int lane) {
    const bool rows_first = kOrder == BlockOrder::kRowsFirst;
    const int lane_row = row + (rows_first ? lane & 15 : (lane & 7) + ((lane >> 4) << 3));
    const int lane_chunk = (col >> 3) + (rows_first ? lane >> 4 : (lane >> 3) & 1);
    s_address_ = ptx::shared_address(s_tile.elements) + Tile::chunk_offset_bytes(lane_row, lane_chunk);
  }

  /// Reads block (row16, col16), counted in 16 rows and 16 columns of the stored tile from the window's corner. offset_bytes, a multiple of 128, moves the
  /// whole window (to another stage, or to another tile of the same shape).
  __device__ __forceinline__ void load(uint32_t (&fragment)[4], int row16, int col16, int offset_bytes = 0) const {
    const uint32_t s_row = (s_address_ ^ ((col16 & 3) << 5)) + offset_bytes + (col16 >> 2) * 128 + row16 * 16 * Tile::kRowBytes;
    if constexpr (kTransposed) {
      ptx::ldmatrix_x4_trans(fragment, s_row);
    } else {
      ptx::ldmatrix_x4(fragment, s_row);
    }
  }

 private:
  uint32_t s_address_;
};

template <class Tile>
using OperandA = Operand<Tile, BlockOrder::kRowsFirst, false>;
template <class Tile>
using OperandATransposed = Operand<Tile, BlockOrder::kColsFirst, true>;
template <class Tile>
using OperandB = Operand<Tile, BlockOrder::kColsFirst, false>;
template <class Tile>
using OperandBTransposed = Operand<Tile, BlockOrder::kRowsFirst, true>;

}  // namespace fa
