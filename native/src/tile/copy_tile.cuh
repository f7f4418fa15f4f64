// Tiles between global memory and swizzled shared memory, by a group of threads.
#pragma once

#include <cstdint>

#include "ptx/cp_async.cuh"
#include "ptx/likely.h"
#include "tile/shared_tile.cuh"

namespace fa {

/// Rows of a strided 16-bit matrix in global memory whose columns are contiguous.
struct GlobalRows {
  const uint16_t* data;  ///< element (0, 0)
  int64_t stride;        ///< elements from row to row
  int rows;              ///< rows that exist; those outside 0 … rows-1 read as zero
  int cols;              ///< columns that exist, a multiple of 8; the rest read as zero
  bool aligned;          ///< data and stride are multiples of 16 bytes
};

/// Queues the copy of rows first_row … first_row + Tile::kRows - 1 into s_tile; what lies outside the matrix becomes zero and is not read. Complete after
/// cp_async_commit, cp_async_wait and a barrier. Called by kThreads threads with ranks thread = 0 … kThreads-1.
template <int kThreads, class Tile>
__device__ __forceinline__ void copy_to_shared(Tile& s_tile, const GlobalRows& g, int first_row, int thread) {
  constexpr int kChunks = Tile::kPitch / 8;
  if constexpr (kThreads % kChunks == 0) {
    // A thread keeps its column of chunks and steps down the rows. Those whose column does not exist have nothing to do.
    constexpr int kRowsPerPass = kThreads / kChunks;
    constexpr int kPasses = Tile::kRows / kRowsPerPass;
    static_assert(Tile::kRows % kRowsPerPass == 0, "the tile must be whole passes");
    const int chunk = static_cast<unsigned>(thread) % kChunks;  // unsigned: a shift and a mask
    const int row = static_cast<unsigned>(thread) / kChunks;
    const uint16_t* g_chunk = g.data + (first_row + row) * g.stride + chunk * 8;
    const int64_t step = kRowsPerPass * g.stride;
    const uint32_t s_base = ptx::shared_address(s_tile.elements);
    if (Tile::kPitch != Tile::kCols && g.aligned && chunk * 8 >= Tile::kCols) return;
    if (FA_LIKELY(g.aligned && g.cols == Tile::kCols && first_row + Tile::kRows <= g.rows)) {
      // Everything exists. Worth its own path: the predicates of the general one take three times the instructions.
      // Two chains of additions, since one would wait for itself.
      const uint16_t* g_chunks[2] = {g_chunk, g_chunk + step};
#pragma unroll
      for (int pass = 0; pass < kPasses; ++pass) {
        ptx::cp_async_16(s_base + Tile::chunk_offset_bytes(row + pass * kRowsPerPass, chunk), g_chunks[pass % 2]);
        g_chunks[pass % 2] += 2 * step;
      }
      return;
    }
    if (g.aligned) {
      const int rows_left = chunk * 8 < g.cols ? g.rows - first_row - row : 0;
#pragma unroll
      for (int pass = 0; pass < kPasses; ++pass, g_chunk += step) {
        ptx::cp_async_16(s_base + Tile::chunk_offset_bytes(row + pass * kRowsPerPass, chunk), g_chunk, pass * kRowsPerPass < rows_left ? 16 : 0);
      }
      return;
    }
  } else if (FA_LIKELY(g.aligned)) {
    static_assert(Tile::kRows * kChunks % kThreads == 0 && Tile::kPitch == Tile::kCols, "the tile must be whole passes");
    const uint32_t s_base = ptx::shared_address(s_tile.elements);
#pragma unroll
    for (int i = 0; i < Tile::kRows * kChunks / kThreads; ++i) {
      const int tile_row = (thread + i * kThreads) / kChunks;
      const int chunk = (thread + i * kThreads) % kChunks;
      const bool exists = chunk * 8 < g.cols && first_row + tile_row < g.rows;
      ptx::cp_async_16(s_base + Tile::chunk_offset_bytes(tile_row, chunk), g.data + (first_row + tile_row) * g.stride + chunk * 8, exists ? 16 : 0);
    }
    return;
  }
  // Rows that do not start at multiples of 16 bytes: element by element.
#pragma unroll 1
  for (int i = thread; i < Tile::kRows * Tile::kCols; i += kThreads) {
    const int tile_row = i / Tile::kCols;
    const int col = i % Tile::kCols;
    const bool exists = col < g.cols && first_row + tile_row < g.rows;
    *s_tile.at(tile_row, col) = exists ? g.data[(first_row + tile_row) * g.stride + col] : uint16_t{0};
  }
}

/// Writes rows of s_tile, tile rows tile_row … tile_row + kRows - 1, to rows first_row + tile_row … of g that exist (g.data is written to). Called by kThreads
/// threads after the tile is complete; waits for nothing.
template <int kRows, int kThreads, class Tile>
__device__ __forceinline__ void copy_to_global(Tile& s_tile, const GlobalRows& g, int first_row, int tile_row, int thread) {
  constexpr int kChunks = Tile::kCols / 8;
  uint16_t* g_data = const_cast<uint16_t*>(g.data);
  if (FA_LIKELY(g.aligned)) {
#pragma unroll
    for (int i = 0; i < kRows * kChunks / kThreads; ++i) {
      const int row = tile_row + (thread + i * kThreads) / kChunks;
      const int chunk = (thread + i * kThreads) % kChunks;
      if (chunk * 8 < g.cols && first_row + row < g.rows) {
        const uint4 value = *reinterpret_cast<const uint4*>(s_tile.at(row, chunk * 8));
        *reinterpret_cast<uint4*>(g_data + (first_row + row) * g.stride + chunk * 8) = value;
      }
    }
  } else {
#pragma unroll 1
    for (int i = thread; i < kRows * Tile::kCols; i += kThreads) {
      const int row = tile_row + i / Tile::kCols;
      const int col = i % Tile::kCols;
      if (col < g.cols && first_row + row < g.rows) g_data[(first_row + row) * g.stride + col] = *s_tile.at(row, col);
    }
  }
}

}  // namespace fa
