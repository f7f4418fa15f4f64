#include "api/checks.h"

#include <cstdio>

#include "plan/error.h"

namespace fa::api {

namespace {

/// Largest extent of one dimension: kernels index tiles with 32 bits (offsets are 64-bit throughout).
constexpr int64_t kMaxSize = 2147483647;
/// Largest distance from a tensor's first to its last byte; more than any machine has, and small enough for sums of a few such numbers.
constexpr int64_t kMaxExtentBytes = int64_t{1} << 60;

/// Strides of dimensions that are never stepped along are 0, so that kernels need no special case.
int64_t stride_of(const fa_tensor& tensor, int dimension) {
  return tensor.sizes[dimension] > 1 ? tensor.strides[dimension] : 0;
}

}  // namespace

int element_bytes(fa_dtype dtype) {
  return dtype == FA_DTYPE_FLOAT32 ? 4 : dtype == FA_DTYPE_UINT8 ? 1 : 2;
}

DType to_dtype(fa_dtype dtype) {
  return dtype == FA_DTYPE_FLOAT32 ? DType::kFloat32 : dtype == FA_DTYPE_FLOAT16 ? DType::kFloat16 : DType::kBFloat16;
}

bool is_empty(const fa_tensor& tensor) {
  return tensor.sizes[0] == 0 || tensor.sizes[1] == 0 || tensor.sizes[2] == 0 || tensor.sizes[3] == 0;
}

void check_layout(const fa_tensor& tensor, const char* name, const Dimensions& dimensions) {
  if (tensor.reserved != 0) {
    fail(FA_STATUS_INVALID_ARGUMENT, "%s.reserved: expected 0, got %d", name, tensor.reserved);
  }
  const int64_t max_elements = kMaxExtentBytes / element_bytes(tensor.dtype);
  int64_t last = 0;  // index of the last element, or max_elements if it is beyond
  for (int i = 0; i < FA_TENSOR_RANK; ++i) {
    const int64_t smallest = dimensions.smallest[i];
    if (tensor.sizes[i] < smallest || tensor.sizes[i] > kMaxSize) {
      fail(FA_STATUS_INVALID_ARGUMENT, "%s.sizes[%d] (%s): expected %lld … %lld, got %lld", name, i, dimensions.names[i], ll{smallest}, ll{kMaxSize},
           ll{tensor.sizes[i]});
    }
    if (tensor.strides[i] < 0) {
      fail(FA_STATUS_INVALID_ARGUMENT, "%s.strides[%d] (%s): expected a stride >= 0, got %lld", name, i, dimensions.names[i], ll{tensor.strides[i]});
    }
    if (tensor.sizes[i] > 1) {
      const int64_t steps = tensor.sizes[i] - 1;
      last = tensor.strides[i] > (max_elements - last) / steps ? max_elements : last + steps * tensor.strides[i];
    }
  }
  if (tensor.sizes[3] > 1 && tensor.strides[3] != 1) {
    fail(FA_STATUS_INVALID_ARGUMENT, "%s.strides[3] (%s): expected 1 (%s is contiguous), got %lld", name, dimensions.names[3], dimensions.names[3],
         ll{tensor.strides[3]});
  }
  if (!is_empty(tensor) && last >= max_elements) {
    fail(FA_STATUS_INVALID_ARGUMENT,
         "%s: expected sizes and strides whose last element lies within 2^60 bytes, got sizes (%lld, %lld, %lld, %lld) and strides (%lld, %lld, %lld, %lld)",
         name, ll{tensor.sizes[0]}, ll{tensor.sizes[1]}, ll{tensor.sizes[2]}, ll{tensor.sizes[3]}, ll{tensor.strides[0]}, ll{tensor.strides[1]},
         ll{tensor.strides[2]}, ll{tensor.strides[3]});
  }
}

void check_tensor(const fa_tensor& tensor, const char* name) {
  if (tensor.dtype < FA_DTYPE_FLOAT32 || tensor.dtype > FA_DTYPE_BFLOAT16) {
    fail(FA_STATUS_INVALID_ARGUMENT, "%s.dtype: expected FA_DTYPE_FLOAT32 (0), FA_DTYPE_FLOAT16 (1) or FA_DTYPE_BFLOAT16 (2), got %d", name, tensor.dtype);
  }
  check_layout(tensor, name, kRowDimensions);
}

void check_same_dtype(const fa_tensor& tensor, const char* name, const fa_tensor& q) {
  if (tensor.dtype != q.dtype) {
    fail(FA_STATUS_INVALID_ARGUMENT, "%s.dtype: expected the dtype of q, %s, got %s", name, dtype_name(to_dtype(q.dtype)), dtype_name(to_dtype(tensor.dtype)));
  }
}

void check_size(const fa_tensor& tensor, const char* name, int dimension, int64_t expected, const char* of) {
  if (tensor.sizes[dimension] != expected) {
    fail(FA_STATUS_INVALID_ARGUMENT, "%s.sizes[%d] (%s): expected that of %s, %lld, got %lld", name, dimension, kRowDimensions.names[dimension], of,
         ll{expected}, ll{tensor.sizes[dimension]});
  }
}

void check_shape(const fa_tensor& tensor, const char* name, const fa_tensor& like, const char* like_name) {
  for (int i = 0; i < FA_TENSOR_RANK; ++i) {
    check_size(tensor, name, i, like.sizes[i], like_name);
  }
}

Tensor to_tensor(const fa_tensor& tensor) {
  return {tensor.data, {stride_of(tensor, 0), stride_of(tensor, 1), stride_of(tensor, 2)}};
}

PairTensor to_pair_tensor(const fa_tensor& tensor) {
  return {tensor.data, stride_of(tensor, 0), stride_of(tensor, 1), stride_of(tensor, 2), tensor.sizes[0], tensor.sizes[1], tensor.sizes[2]};
}

bool strides_aligned_16(const fa_tensor& tensor) {
  return ((stride_of(tensor, 0) | stride_of(tensor, 1) | stride_of(tensor, 2)) * element_bytes(tensor.dtype)) % 16 == 0;
}

bool address_aligned_16(const fa_tensor& tensor) {
  return reinterpret_cast<uintptr_t>(tensor.data) % 16 == 0;
}

void check_ranges(const Range* ranges, int count) {
  for (int i = 0; i < count; ++i) {
    if (!ranges[i].output) {
      continue;
    }
    const Box& box = ranges[i].box;
    if (overlaps_itself(box)) {
      const ll bytes = box.element_bytes;
      fail(FA_STATUS_INVALID_ARGUMENT, "%s.strides: expected distinct elements, since it is written, got (%lld, %lld, %lld, %lld), which reach one twice",
           ranges[i].name, box.stride_bytes[0] / bytes, box.stride_bytes[1] / bytes, box.stride_bytes[2] / bytes, box.stride_bytes[3] / bytes);
    }
    for (int j = 0; j < count; ++j) {
      if (i != j && overlaps(box, ranges[j].box)) {
        fail(FA_STATUS_INVALID_ARGUMENT, "%s: expected memory apart from %s, got overlapping ranges (%p … %p and %p … %p)", ranges[i].name, ranges[j].name,
             reinterpret_cast<void*>(box.base), reinterpret_cast<void*>(box.end()), reinterpret_cast<void*>(ranges[j].box.base),
             reinterpret_cast<void*>(ranges[j].box.end()));
      }
    }
  }
}

void check_data(const fa_tensor& tensor, const char* name, Backend& backend, int index) {
  if (is_empty(tensor)) {
    return;
  }
  if (tensor.data == nullptr) {
    fail(FA_STATUS_INVALID_ARGUMENT, "%s.data: expected the address of %lld x %lld x %lld x %lld elements, got NULL", name, ll{tensor.sizes[0]},
         ll{tensor.sizes[1]}, ll{tensor.sizes[2]}, ll{tensor.sizes[3]});
  }
  if (reinterpret_cast<uintptr_t>(tensor.data) % static_cast<unsigned>(element_bytes(tensor.dtype)) != 0) {
    fail(FA_STATUS_INVALID_ARGUMENT, "%s.data: expected an address aligned to the element size, %d bytes, got %p", name, element_bytes(tensor.dtype),
         tensor.data);
  }
  char argument[48];
  std::snprintf(argument, sizeof(argument), "%s.data", name);
  backend.check_access(index, tensor.data, argument);
}

void check_array(const void* values, const char* name, Backend& backend, int index) {
  if (reinterpret_cast<uintptr_t>(values) % 4 != 0) {
    fail(FA_STATUS_INVALID_ARGUMENT, "%s: expected an address aligned to 4 bytes, got %p", name, values);
  }
  backend.check_access(index, values, name);
}

void require_array(const void* values, uint64_t elements, const char* name, Backend& backend, int index) {
  if (values == nullptr && elements > 0) {
    fail(FA_STATUS_INVALID_ARGUMENT, "%s: expected the address of %llu values, got NULL", name, static_cast<unsigned long long>(elements));
  }
  check_array(values, name, backend, index);
}

void check_stream(fa_device device, fa_stream stream) {
  if (device.type == FA_DEVICE_CPU && stream != nullptr) {
    fail(FA_STATUS_INVALID_ARGUMENT, "stream: expected NULL, the only stream of the CPU device, got %p", stream);
  }
}

}  // namespace fa::api
