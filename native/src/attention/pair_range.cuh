// Which keys a query row sees, and which rows see a key, under a window or causal mask and attention chunks.
#pragma once

#include <climits>
#include <cstdint>

#include "attention/fast_divisor.h"

namespace fa {

/// Row i has position p = i + offset and sees the keys j with p - left <= j <= p + right of its own chunk. Both ends of the keys of a row grow with the row, so
/// that a tile of rows sees keys begin_key(first row) … end_key(last row) - 1 at most.
struct PairRange {
  static constexpr int kUnlimited = INT_MAX;

  int len_q = 0, len_kv = 0;
  int offset = 0;
  bool bottom_right = false;                  ///< what offset comes from: len_kv - len_q, else 0
  int left = kUnlimited, right = kUnlimited;  ///< >= 0
  int chunk = 0;                              ///< 0: none; at most 2^30
  FastDivisor by_chunk;

#if defined(__CUDACC__) || defined(FA_EMULATOR)
  /// The same mask over other lengths.
  __device__ __forceinline__ PairRange with_lengths(int other_len_q, int other_len_kv) const {
    PairRange range = *this;
    range.len_q = other_len_q;
    range.len_kv = other_len_kv;
    range.offset = bottom_right ? other_len_kv - other_len_q : 0;
    return range;
  }
  /// The same without chunks, which the compiler then knows.
  __device__ __forceinline__ PairRange without_chunk() const {
    PairRange range = *this;
    range.chunk = 0;
    return range;
  }
  /// First key that the row may see.
  __device__ __forceinline__ int begin_key(int row) const {
    const int position = row + offset;
    const int begin = position - min(left, position);  // 0 where position - left < 0
    // Without branches on the row: Hopper kernels keep what all rows share in uniform registers.
    return chunk > 0 ? max(begin, chunk_start(max(0, position))) : begin;
  }
  /// One past the last key that the row may see; at or before begin_key if it sees none.
  __device__ __forceinline__ int end_key(int row) const {
    const int position = row + offset;
    const int end = max(0, position + 1 + min(right, len_kv - position - 1));
    if (chunk == 0) return end;
    const int start = chunk_start(max(0, position));
    return position < 0 ? 0 : start + min(end - start, chunk);
  }
  /// First row that may see the key or a later one.
  __device__ __forceinline__ int begin_row(int key) const {
    const int row = max(0, key - offset);
    const int begin = row - min(right, row);
    return chunk > 0 ? max(begin, chunk_start(key) - offset) : begin;
  }
  /// One past the last row that may see the key or an earlier one.
  __device__ __forceinline__ int end_row(int key) const {
    const int row = key - offset;
    const int end = max(0, row + 1 + min(left, len_q - row - 1));
    return chunk > 0 ? min(end, chunk_start(key) - offset + chunk) : end;
  }
  __device__ __forceinline__ bool sees(int row, int key) const {
    return row < len_q && key >= begin_key(row) && key < end_key(row);
  }
  /// Whether rows first_row … last_row all see keys first_key … last_key.
  __device__ __forceinline__ bool sees_whole(int first_row, int last_row, int first_key, int last_key) const {
    return last_row < len_q && first_key >= begin_key(last_row) && last_key < end_key(first_row);
  }
  /// Whether one of these rows may see one of these keys.
  __device__ __forceinline__ bool sees_some(int first_row, int last_row, int first_key, int last_key) const {
    return first_row < len_q && first_key < end_key(last_row) && last_key >= begin_key(first_row);
  }

 private:
  __device__ __forceinline__ int chunk_start(int position) const {
    return by_chunk.quotient(position) * chunk;
  }
#endif
};

}  // namespace fa
