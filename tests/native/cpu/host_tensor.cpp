#include "host_tensor.h"

#include <cmath>
#include <limits>

namespace fa_test {
namespace {

struct Format {
  int mantissa_bits;
  int exponent_bits;
  int bias() const { return (1 << (exponent_bits - 1)) - 1; }
};

Format format_of(fa_dtype dtype) {
  if (dtype == FA_DTYPE_FLOAT32) return {23, 8};
  if (dtype == FA_DTYPE_FLOAT16) return {10, 5};
  return {7, 8};
}

constexpr unsigned char kPoison = 0xff;  // four (two) of them are a NaN in every dtype

}  // namespace

double decode(fa_dtype dtype, uint32_t bits) {
  const Format f = format_of(dtype);
  const int sign = static_cast<int>(bits >> (f.mantissa_bits + f.exponent_bits) & 1u);
  const int exponent = static_cast<int>(bits >> f.mantissa_bits & ((1u << f.exponent_bits) - 1));
  const double mantissa = bits & ((1u << f.mantissa_bits) - 1);
  double value;
  if (exponent == (1 << f.exponent_bits) - 1) {
    value = mantissa == 0 ? std::numeric_limits<double>::infinity() : std::numeric_limits<double>::quiet_NaN();
  } else if (exponent == 0) {
    value = std::ldexp(mantissa, 1 - f.bias() - f.mantissa_bits);
  } else {
    value = std::ldexp(std::ldexp(1.0, f.mantissa_bits) + mantissa, exponent - f.bias() - f.mantissa_bits);
  }
  return sign != 0 ? -value : value;
}

uint32_t encode(fa_dtype dtype, double value) {
  const Format f = format_of(dtype);
  const uint32_t sign = (std::signbit(value) ? 1u : 0u) << (f.mantissa_bits + f.exponent_bits);
  const uint32_t infinity = ((1u << f.exponent_bits) - 1) << f.mantissa_bits;
  if (std::isnan(value)) return sign | infinity | 1u << (f.mantissa_bits - 1);
  const double magnitude = std::fabs(value);
  if (magnitude == 0.0) return sign;
  if (std::isinf(value)) return sign | infinity;
  int exponent;
  std::frexp(magnitude, &exponent);  // magnitude = 0.5…1 * 2^exponent
  const int lowest = 1 - f.bias();
  const int unit = std::max(exponent - 1, lowest) - f.mantissa_bits;
  // Units of the last place, rounded to even; a carry runs into the exponent field as it should.
  const double units = std::nearbyint(std::ldexp(magnitude, -unit));
  const double hidden = std::ldexp(1.0, f.mantissa_bits);
  const uint32_t bits = units < hidden ? static_cast<uint32_t>(units)
                                       : static_cast<uint32_t>(units - hidden) + (static_cast<uint32_t>(unit + f.mantissa_bits + f.bias()) << f.mantissa_bits);
  return sign | std::min(bits, infinity);
}

double unit_roundoff(fa_dtype dtype) {
  return std::ldexp(1.0, -format_of(dtype).mantissa_bits - 1);
}

double underflow_error(fa_dtype dtype) {
  const Format f = format_of(dtype);
  return std::ldexp(1.0, 1 - f.bias() - f.mantissa_bits - 1);
}

HostTensor::HostTensor(fa_dtype dtype, Sizes sizes, Layout layout) : dtype_(dtype), sizes_(sizes) {
  const auto [batch, len, heads, dim] = sizes;
  switch (layout) {
    case Layout::kBshd:
      strides_ = {len * heads * dim, heads * dim, dim, 1};
      break;
    case Layout::kBhsd:
      strides_ = {len * heads * dim, dim, len * dim, 1};
      break;
    case Layout::kGapped:
      strides_ = {len * (dim + 3) + 5, dim + 3, batch * (len * (dim + 3) + 5) + 7, 1};
      break;
    case Layout::kBroadcast:
      strides_ = {0, dim + 1, 0, 1};
      break;
  }
  int64_t last = 0;
  for (int i = 0; i < 4; ++i) last += std::max<int64_t>(sizes[i] - 1, 0) * strides_[i];
  bytes_.assign(static_cast<size_t>((last + 1 + 2 * kGuardElements) * element_bytes()), kPoison);
}

void HostTensor::fill_normal(uint64_t seed, double scale) {
  std::mt19937_64 generator(seed);
  std::normal_distribution<double> normal(0.0, scale);
  for (int64_t b = 0; b < sizes_[0]; ++b)
    for (int64_t s = 0; s < sizes_[1]; ++s)
      for (int64_t h = 0; h < sizes_[2]; ++h)
        for (int64_t c = 0; c < sizes_[3]; ++c) set(b, s, h, c, normal(generator));
}

std::vector<double> HostTensor::values() const {
  std::vector<double> all;
  all.reserve(static_cast<size_t>(sizes_[0] * sizes_[1] * sizes_[2] * sizes_[3]));
  for (int64_t b = 0; b < sizes_[0]; ++b)
    for (int64_t s = 0; s < sizes_[1]; ++s)
      for (int64_t h = 0; h < sizes_[2]; ++h)
        for (int64_t c = 0; c < sizes_[3]; ++c) all.push_back(get(b, s, h, c));
  return all;
}

void HostTensor::set(int64_t b, int64_t s, int64_t h, int64_t c, double value) {
  const uint32_t bits = encode(dtype_, value);
  unsigned char* const at = bytes_.data() + index(b, s, h, c) * element_bytes();
  if (dtype_ == FA_DTYPE_FLOAT32) {
    std::memcpy(at, &bits, 4);
  } else {
    const uint16_t half = static_cast<uint16_t>(bits);
    std::memcpy(at, &half, 2);
  }
}

uint32_t HostTensor::bits_at(int64_t element) const {
  const unsigned char* const at = bytes_.data() + element * element_bytes();
  uint32_t bits = 0;
  uint16_t half = 0;
  if (dtype_ == FA_DTYPE_FLOAT32) {
    std::memcpy(&bits, at, 4);
  } else {
    std::memcpy(&half, at, 2);
    bits = half;
  }
  return bits;
}

fa_tensor HostTensor::view() {
  fa_tensor tensor{};
  tensor.data = bytes_.data() + kGuardElements * element_bytes();
  for (int i = 0; i < 4; ++i) {
    tensor.sizes[i] = sizes_[i];
    tensor.strides[i] = strides_[i];
  }
  tensor.dtype = dtype_;
  return tensor;
}

bool HostTensor::surroundings_intact() const {
  std::vector<bool> is_element(bytes_.size() / static_cast<size_t>(element_bytes()), false);
  for (int64_t b = 0; b < sizes_[0]; ++b)
    for (int64_t s = 0; s < sizes_[1]; ++s)
      for (int64_t h = 0; h < sizes_[2]; ++h)
        for (int64_t c = 0; c < sizes_[3]; ++c) is_element[static_cast<size_t>(index(b, s, h, c))] = true;
  for (size_t i = 0; i < bytes_.size(); ++i)
    if (!is_element[i / static_cast<size_t>(element_bytes())] && bytes_[i] != kPoison) return false;
  return true;
}

}  // namespace fa_test
