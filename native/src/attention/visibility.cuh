// Which keys a query row sees, for every mask in one formula.
#pragma once

#include <cstdint>

namespace fa {

/// Row i sees keys 0 … visible_keys(i)-1.
struct Visibility {
  int len_kv;
  int causal_offset;  ///< row i sees key j iff j <= i + causal_offset; ignored unless causal
  bool causal;

  __device__ __forceinline__ int visible_keys(int row) const { return causal ? max(0, min(len_kv, row + causal_offset + 1)) : len_kv; }
  /// First row that sees the key (0 if all do); may exceed the last row.
  __device__ __forceinline__ int first_row_seeing(int key) const { return causal ? max(0, key - causal_offset) : 0; }
};

}  // namespace fa
