// Tensor maps: what TMA needs to know of a tensor, encoded on the host by the driver and passed to kernels by value, so that a captured graph keeps them.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "plan/problem.h"

namespace fa::sm90 {

/// Shape of a (batch, len, heads, head_dim) tensor of 16-bit elements.
struct TensorShape {
  int64_t batch;
  int64_t len;
  int64_t heads;
  int64_t head_dim;
};

/// A map with dimensions (head_dim, len, heads, batch), innermost first, 128-byte swizzle and boxes of box_rows x 64 elements of one head. Boxes reach beyond
/// the tensor: such elements are read as zero and not written. All sizes >= 1; address and strides multiples of 16 bytes. Throws FA_STATUS_UNSUPPORTED, with
/// all that was asked for, if the driver refuses. argument: the tensor's name for the message.
CUtensorMap encode_tensor_map(const Tensor& tensor, const TensorShape& shape, DType dtype, int box_rows, const char* argument);

/// A map of a contiguous matrix of floats with dimensions (column, row), no swizzle, and boxes of box_rows x box_columns. columns is a multiple of 4,
/// box_columns at most 256; the address is a multiple of 16 bytes. For parts of the workspace.
CUtensorMap encode_float_map(const float* data, int64_t rows, int64_t columns, int box_rows, int box_columns, const char* argument);

}  // namespace fa::sm90
