// Exact tests whether strided boxes of memory share a byte. Bounds alone are not enough: the slices of a packed QKV buffer interleave without overlapping.
#pragma once

#include <cstdint>

namespace fa::api {

/// A strided box: every byte of base + sum(index[i] * stride_bytes[i]) + [0, element_bytes). Sizes >= 0, strides >= 0.
struct Box {
  static constexpr int kRank = 4;
  uintptr_t base = 0;
  int64_t sizes[kRank] = {0, 0, 0, 0};
  int64_t stride_bytes[kRank] = {0, 0, 0, 0};
  int64_t element_bytes = 1;

  bool empty() const;
  /// First byte after the box.
  uintptr_t end() const;
};

/// Box of a plain byte range.
Box byte_range(const void* pointer, uint64_t bytes);

/// True if the two boxes share a byte. Where the exact answer would take too long (strides of no practical layout), true.
bool overlaps(const Box& a, const Box& b);

/// True if two different indices of the box reach the same byte.
bool overlaps_itself(const Box& box);

}  // namespace fa::api
