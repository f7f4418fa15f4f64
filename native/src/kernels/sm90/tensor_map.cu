#include <cuda_runtime.h>

#include "kernels/sm90/tensor_map.h"
#include "plan/error.h"
#include "runtime/cuda_check.h"

namespace fa::sm90 {

namespace {

using EncodeTiled = decltype(&cuTensorMapEncodeTiled);

/// The driver's encoder, reached at run time: the library itself does not link to the driver.
EncodeTiled encoder() {
  static const EncodeTiled function = [] {
    void* pointer = nullptr;
    cudaDriverEntryPointQueryResult found{};
#if CUDART_VERSION >= 12050
    cuda_check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &pointer, 12000, cudaEnableDefault, &found), "query of cuTensorMapEncodeTiled");
#else
    cuda_check(cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &pointer, cudaEnableDefault, &found), "query of cuTensorMapEncodeTiled");
#endif
    if (found != cudaDriverEntryPointSuccess || pointer == nullptr) {
      fail(FA_STATUS_DEVICE_UNAVAILABLE, "the driver has no cuTensorMapEncodeTiled (query result %d): CUDA 12.0 or newer is needed", static_cast<int>(found));
    }
    return reinterpret_cast<EncodeTiled>(pointer);
  }();
  return function;
}

}  // namespace

CUtensorMap encode_tensor_map(const Tensor& tensor, const TensorShape& shape, DType dtype, int box_rows, const char* argument) {
  const cuuint64_t sizes[4] = {static_cast<cuuint64_t>(shape.head_dim), static_cast<cuuint64_t>(shape.len), static_cast<cuuint64_t>(shape.heads),
                               static_cast<cuuint64_t>(shape.batch)};
  // The stride of a dimension of size 1 is never used, but must be legal.
  const cuuint64_t row_bytes = (static_cast<cuuint64_t>(shape.head_dim) * 2 + 15) / 16 * 16;
  const auto stride_bytes = [&](int64_t size, int64_t stride) { return size > 1 ? static_cast<cuuint64_t>(stride) * 2 : row_bytes; };
  const cuuint64_t strides[3] = {stride_bytes(shape.len, tensor.strides.seq), stride_bytes(shape.heads, tensor.strides.head),
                                 stride_bytes(shape.batch, tensor.strides.batch)};
  const cuuint32_t box[4] = {64, static_cast<cuuint32_t>(box_rows), 1, 1};
  const cuuint32_t element_strides[4] = {1, 1, 1, 1};
  // What L2 brings from device memory beyond what a load asks for, up to the end of so many bytes, belongs to the next head, unless rows fill whole pieces.
  const bool whole_lines = row_bytes % 128 == 0 && strides[0] % 128 == 0 && strides[1] % 128 == 0 && strides[2] % 128 == 0;
  const CUtensorMapL2promotion promotion = whole_lines ? CU_TENSOR_MAP_L2_PROMOTION_L2_256B : CU_TENSOR_MAP_L2_PROMOTION_L2_64B;
  CUtensorMap map;
  const CUresult result =
      encoder()(&map, dtype == DType::kFloat16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 4, tensor.data, sizes, strides, box,
                element_strides, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, promotion, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS) {
    fail(FA_STATUS_UNSUPPORTED,
         "%s: TMA cannot address this tensor (driver error %d): data %p, sizes (head_dim, len, heads, batch) %llu, %llu, %llu, %llu, strides in bytes (len, "
         "heads, "
         "batch) %llu, %llu, %llu",
         argument, static_cast<int>(result), tensor.data, static_cast<unsigned long long>(sizes[0]), static_cast<unsigned long long>(sizes[1]),
         static_cast<unsigned long long>(sizes[2]), static_cast<unsigned long long>(sizes[3]), static_cast<unsigned long long>(strides[0]),
         static_cast<unsigned long long>(strides[1]), static_cast<unsigned long long>(strides[2]));
  }
  return map;
}

CUtensorMap encode_float_map(const float* data, int64_t rows, int64_t columns, int box_rows, int box_columns, const char* argument) {
  const cuuint64_t sizes[2] = {static_cast<cuuint64_t>(columns), static_cast<cuuint64_t>(rows)};
  const cuuint64_t strides[1] = {static_cast<cuuint64_t>(columns) * sizeof(float)};
  const cuuint32_t box[2] = {static_cast<cuuint32_t>(box_columns), static_cast<cuuint32_t>(box_rows)};
  const cuuint32_t element_strides[2] = {1, 1};
  CUtensorMap map;
  const CUresult result =
      encoder()(&map, CU_TENSOR_MAP_DATA_TYPE_FLOAT32, 2, const_cast<float*>(data), sizes, strides, box, element_strides, CU_TENSOR_MAP_INTERLEAVE_NONE,
                CU_TENSOR_MAP_SWIZZLE_NONE, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS) {
    fail(FA_STATUS_UNSUPPORTED, "%s: TMA cannot address this part of the workspace (driver error %d): data %p, %llu rows of %llu floats", argument,
         static_cast<int>(result), static_cast<const void*>(data), static_cast<unsigned long long>(sizes[1]), static_cast<unsigned long long>(sizes[0]));
  }
  return map;
}

}  // namespace fa::sm90
