// Tensors for the tests: any dtype and strides, every byte that is not an element poisoned with NaN and checked afterwards.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "flash_attention/flash_attention.h"

namespace fa_test {

/// Value of the bits of an element.
double decode(fa_dtype dtype, uint32_t bits);
/// Nearest element, ties to even; overflow gives infinity.
uint32_t encode(fa_dtype dtype, double value);
/// Half the distance between 1 and the next larger element.
double unit_roundoff(fa_dtype dtype);
/// Half the smallest positive element: the rounding error of subnormal results.
double underflow_error(fa_dtype dtype);

enum class Layout {
  kBshd,       ///< contiguous (batch, sequence, heads, head_dim)
  kBhsd,       ///< contiguous (batch, heads, sequence, head_dim)
  kGapped,     ///< heads outermost, gaps between rows and between batches
  kBroadcast,  ///< inputs only: stride 0 along batch and heads
};

using Sizes = std::array<int64_t, 4>;

class HostTensor {
 public:
  HostTensor() = default;
  HostTensor(fa_dtype dtype, Sizes sizes, Layout layout);

  void fill_normal(uint64_t seed, double scale = 1.0);
  double get(int64_t b, int64_t s, int64_t h, int64_t c) const { return decode(dtype_, bits_at(index(b, s, h, c))); }
  /// All elements in the order of (batch, sequence, heads, head_dim).
  std::vector<double> values() const;
  void set(int64_t b, int64_t s, int64_t h, int64_t c, double value);
  fa_tensor view();
  const Sizes& sizes() const { return sizes_; }
  fa_dtype dtype() const { return dtype_; }
  /// True if every byte outside the elements is still poison.
  bool surroundings_intact() const;
  const std::vector<unsigned char>& bytes() const { return bytes_; }

 private:
  static constexpr int64_t kGuardElements = 64;
  int64_t element_bytes() const { return dtype_ == FA_DTYPE_FLOAT32 ? 4 : 2; }
  int64_t index(int64_t b, int64_t s, int64_t h, int64_t c) const { return kGuardElements + b * strides_[0] + s * strides_[1] + h * strides_[2] + c; }
  uint32_t bits_at(int64_t element) const;

  fa_dtype dtype_ = FA_DTYPE_FLOAT32;
  Sizes sizes_{};
  Sizes strides_{};
  std::vector<unsigned char> bytes_;
};

}  // namespace fa_test
