// From the problem's tensors to the rows of one head that the kernels take.
#pragma once

#include <cstdint>

#include "cpu/kernels/kernels.h"
#include "plan/cpu_layout.h"
#include "plan/problem.h"

namespace fa::cpu {

inline Element element_of(DType dtype) {
  return dtype == DType::kFloat32 ? Element::kFloat32 : dtype == DType::kFloat16 ? Element::kFloat16 : Element::kBFloat16;
}

/// Address of element (batch, first_row, head, 0). A tensor without elements may have no address; it is passed on as null.
inline char* row_address(const Tensor& tensor, DType dtype, int64_t batch, int64_t head, int64_t first_row) {
  if (tensor.data == nullptr) return nullptr;
  const int64_t offset = batch * tensor.strides.batch + head * tensor.strides.head + first_row * tensor.strides.seq;
  return static_cast<char*>(tensor.data) + offset * dtype_bytes(dtype);
}

inline Rows rows_of(const Tensor& tensor, DType dtype, int64_t batch, int64_t head, int64_t first_row) {
  return {row_address(tensor, dtype, batch, head, first_row), tensor.strides.seq * dtype_bytes(dtype)};
}

inline OutputRows output_rows_of(const Tensor& tensor, DType dtype, int64_t batch, int64_t head, int64_t first_row) {
  return {row_address(tensor, dtype, batch, head, first_row), tensor.strides.seq * dtype_bytes(dtype)};
}

/// Hands out consecutive pieces of the workspace.
class ScratchCursor {
 public:
  explicit ScratchCursor(void* base) : next_(static_cast<float*>(base)) {}
  float* take(int64_t floats) {
    float* const taken = next_;
    next_ += floats;
    return taken;
  }

 private:
  float* next_;
};

/// The workspace from its first 64-byte boundary on.
inline char* aligned_workspace(void* workspace) {
  const uintptr_t address = reinterpret_cast<uintptr_t>(workspace);
  return static_cast<char*>(workspace) + ((64 - address % 64) % 64);
}

/// What query r of a tile sees under the mask: keys [0, visible_end + r).
inline int64_t visible_end_of(const Problem& problem, int64_t first_query) {
  return problem.is_causal() ? first_query + problem.causal_offset() + 1 : problem.len_kv;
}

}  // namespace fa::cpu
