// What masked NaN and infinity must not do. A tensor-core product computes 0 * NaN = NaN: in a tile that only some rows see whole, a value that is masked for a
// row (weight 0) would still poison that row. These helpers take non-finite values out of the product and add them where they are visible. They run only
// after non-finite values were met.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cmath>
#include <type_traits>

#include "tile/shared_tile.cuh"
#include "tile/warp_product.cuh"

namespace fa {

/// True for NaN and infinity: all exponent bits set.
template <class Element>
__device__ __forceinline__ bool is_nonfinite(uint16_t bits);
template <>
__device__ __forceinline__ bool is_nonfinite<__half>(uint16_t bits) {
  return (bits & 0x7c00) == 0x7c00;
}
template <>
__device__ __forceinline__ bool is_nonfinite<__nv_bfloat16>(uint16_t bits) {
  return (bits & 0x7f80) == 0x7f80;
}

/// Value of an infinity or NaN in fp32.
template <class Element>
__device__ __forceinline__ float nonfinite_value(uint16_t bits) {
  constexpr bool kIsHalf = std::is_same_v<Element, __half>;
  constexpr uint16_t kMantissa = kIsHalf ? 0x03ff : 0x007f;
  if (bits & kMantissa) return __int_as_float(0x7fffffff);
  return bits & 0x8000 ? -INFINITY : INFINITY;
}

/// acc(row, group of 8 columns n) += every non-finite element (r, col_of(n) + …) of the tile with sees(row, r). Rows are those of the warp's accumulators.
template <class Element, class Tile, int kM, int kN, class ColOf, class Sees>
__device__ __forceinline__ void add_nonfinite(Accumulators<kM, kN>& acc, Tile& s_tile, ColOf&& col_of, Sees&& sees) {
  const int lane = threadIdx.x & 31;
#pragma unroll 1
  for (int r = 0; r < Tile::kRows; ++r) {
#pragma unroll
    for (int n = 0; n < kN; ++n) {
      const int col = col_of(n) + 2 * (lane & 3);
      const uint32_t pair = *reinterpret_cast<const uint32_t*>(s_tile.at(r, col));
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const uint16_t bits = static_cast<uint16_t>(pair >> (16 * e));
        if (is_nonfinite<Element>(bits)) {
#pragma unroll
          for (int m = 0; m < kM; ++m) {
            if (sees(16 * m + (lane >> 2), r)) acc[m][n][e] += nonfinite_value<Element>(bits);
            if (sees(16 * m + (lane >> 2) + 8, r)) acc[m][n][2 + e] += nonfinite_value<Element>(bits);
          }
        }
      }
    }
  }
}

/// As add_nonfinite, for a `sees` that takes many instructions: it appears once in the code, and is asked once per row of the accumulators and of the tile.
template <class Element, class Tile, int kM, int kN, class ColOf, class Sees>
__device__ __forceinline__ void add_nonfinite_asking_once(Accumulators<kM, kN>& acc, Tile& s_tile, ColOf&& col_of, Sees&& sees) {
  const int lane = threadIdx.x & 31;
#pragma unroll 1
  for (int r = 0; r < Tile::kRows; ++r) {
    uint32_t seen = 0;
#pragma unroll 1
    for (int i = 0; i < 2 * kM; ++i) seen |= static_cast<uint32_t>(sees(8 * i + (lane >> 2), r)) << i;
    if (seen == 0) continue;
#pragma unroll
    for (int n = 0; n < kN; ++n) {
      const uint32_t pair = *reinterpret_cast<const uint32_t*>(s_tile.at(r, col_of(n) + 2 * (lane & 3)));
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const uint16_t bits = static_cast<uint16_t>(pair >> (16 * e));
        if (!is_nonfinite<Element>(bits)) continue;
        const float value = nonfinite_value<Element>(bits);
#pragma unroll
        for (int m = 0; m < kM; ++m) {
          if (seen >> (2 * m) & 1) acc[m][n][e] += value;
          if (seen >> (2 * m + 1) & 1) acc[m][n][2 + e] += value;
        }
      }
    }
  }
}

/// Replaces the tile's non-finite elements by zero. By kThreads threads; the caller puts barriers around it.
template <class Element, int kThreads, class Tile>
__device__ __forceinline__ void zero_nonfinite(Tile& s_tile, int thread) {
#pragma unroll 1
  for (int i = thread; i < Tile::kRows * Tile::kCols; i += kThreads) {
    uint16_t& s_element = s_tile.elements[Tile::place_of(i)];
    if (is_nonfinite<Element>(s_element)) s_element = 0;
  }
}

/// True if a row of the tile holds a non-finite element.
template <class Element, class Tile>
__device__ __forceinline__ bool row_has_nonfinite(const Tile& s_tile, int row) {
  bool found = false;
#pragma unroll 1
  for (int i = 0; i < Tile::kCols; ++i) found |= is_nonfinite<Element>(s_tile.elements[Tile::place_of(row * Tile::kCols + i)]);
  return found;
}

/// True if any accumulator is NaN or infinite.
template <int kM, int kN>
__device__ __forceinline__ bool any_nonfinite(const Accumulators<kM, kN>& acc) {
  float probe = 0.0f;
#pragma unroll
  for (int m = 0; m < kM; ++m) {
#pragma unroll
    for (int n = 0; n < kN; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) probe = fmaf(acc[m][n][i], 0.0f, probe);
    }
  }
  return !(probe == 0.0f);
}

}  // namespace fa
