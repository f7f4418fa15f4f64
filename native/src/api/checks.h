// Checks that every validated call shares: tensors, addresses, and that no output overlaps anything. Each throws Error naming the argument, what was expected
// and what came.
#pragma once

#include "api/overlap.h"
#include "plan/problem.h"
#include "runtime/backend.h"

namespace fa::api {

using ll = long long;

int element_bytes(fa_dtype dtype);
DType to_dtype(fa_dtype dtype);
bool is_empty(const fa_tensor& tensor);

/// Names of a tensor's dimensions for messages, and the least extent of each.
struct Dimensions {
  const char* names[FA_TENSOR_RANK];
  int64_t smallest[FA_TENSOR_RANK];
};
inline constexpr Dimensions kRowDimensions{{"batch", "sequence", "heads", "head_dim"}, {0, 0, 1, 1}};
inline constexpr Dimensions kPairDimensions{{"batch", "heads", "queries", "keys"}, {0, 1, 0, 0}};

/// Sizes, strides, and that the last byte has an address.
void check_layout(const fa_tensor& tensor, const char* name, const Dimensions& dimensions);
/// A (batch, sequence, heads, head_dim) tensor of floating-point elements by itself.
void check_tensor(const fa_tensor& tensor, const char* name);
void check_same_dtype(const fa_tensor& tensor, const char* name, const fa_tensor& q);
void check_size(const fa_tensor& tensor, const char* name, int dimension, int64_t expected, const char* of);
void check_shape(const fa_tensor& tensor, const char* name, const fa_tensor& like, const char* like_name);

Tensor to_tensor(const fa_tensor& tensor);
/// Of a (batch, heads_q, rows, columns) tensor.
PairTensor to_pair_tensor(const fa_tensor& tensor);
bool strides_aligned_16(const fa_tensor& tensor);
bool address_aligned_16(const fa_tensor& tensor);

/// Address of a tensor that the call reads or writes.
void check_data(const fa_tensor& tensor, const char* name, Backend& backend, int index);
/// Address of an array of 4-byte elements; null passes.
void check_array(const void* values, const char* name, Backend& backend, int index);
/// Address of an array that must be there if it has elements.
void require_array(const void* values, uint64_t elements, const char* name, Backend& backend, int index);
void check_stream(fa_device device, fa_stream stream);

/// A memory range of a call.
struct Range {
  const char* name;
  Box box;
  bool output;
};
/// Throws if an output shares a byte with anything else, or with itself.
void check_ranges(const Range* ranges, int count);

/// All memory ranges of a call, for the checks that need them together.
template <int kMaxRanges>
class Ranges {
 public:
  void add(const fa_tensor& tensor, const char* name, bool output) {
    Box box;
    box.base = reinterpret_cast<uintptr_t>(tensor.data);
    box.element_bytes = element_bytes(tensor.dtype);
    for (int i = 0; i < Box::kRank; ++i) {
      box.sizes[i] = tensor.sizes[i];
      box.stride_bytes[i] = tensor.sizes[i] > 1 ? tensor.strides[i] * box.element_bytes : 0;
    }
    add({name, box, output});
  }
  void add(const void* pointer, uint64_t bytes, const char* name, bool output) { add({name, byte_range(pointer, bytes), output}); }
  void check() const { check_ranges(ranges_, count_); }

 private:
  void add(const Range& range) {
    if (!range.box.empty() && range.box.base != 0) {
      ranges_[count_++] = range;
    }
  }
  Range ranges_[kMaxRanges];
  int count_ = 0;
};

/// Forward: q, k, v, o, lse, workspace and nine of the options; backward seven more and two gradients of options.
using AttentionRanges = Ranges<26>;

}  // namespace fa::api
