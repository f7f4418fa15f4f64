#include <algorithm>

#include "dispatch/dispatch.h"
#include "kernels/sm80/launch.h"
#include "kernels/sm80/operations/merge.cuh"
#include "runtime/cuda_device_guard.h"

namespace fa {
namespace sm80 {
namespace {

template <bool kBackward>
__global__ void __launch_bounds__(kOperationThreads, 2) merge_kernel(const __grid_constant__ MergeParams params) {
  MergeBlock<kBackward>(params).run();
}

/// Blocks beyond which rows are shared out in turns.
constexpr int64_t kMaxBlocks = int64_t{1} << 20;

bool is_aligned(const Tensor& tensor, DType dtype) {
  const auto whole = [](uint64_t bytes) { return bytes % 16 == 0; };
  const uint64_t bytes = dtype_bytes(dtype);
  return whole(reinterpret_cast<uintptr_t>(tensor.data)) && whole(static_cast<uint64_t>(tensor.strides.batch) * bytes) &&
         whole(static_cast<uint64_t>(tensor.strides.seq) * bytes) && whole(static_cast<uint64_t>(tensor.strides.head) * bytes);
}

MergeTensor view(const Tensor& tensor) {
  return {tensor.data, tensor.strides};
}

MergeParams make_params(const MergeArgs& args, bool backward) {
  MergeParams params{};
  params.parts = args.parts;
  params.part_dtype = args.part_dtype;
  params.dtype = args.dtype;
  params.heads = args.heads_q;
  params.len_q = args.len_q;
  params.columns = args.head_dim_v;
  params.num_rows = args.batch * args.heads_q * args.len_q;
  params.lse = args.lse;
  params.o = view(args.o);
  params.aligned = args.head_dim_v % 8 == 0 && is_aligned(args.o, args.dtype);
  for (int i = 0; i < args.parts; ++i) {
    params.part_o[i] = view(args.part_o[i]);
    params.part_lse[i] = args.part_lse[i];
    params.aligned = params.aligned && is_aligned(args.part_o[i], args.part_dtype);
    if (backward) {
      params.grad_part_o[i] = view(args.grad_part_o[i]);
      params.grad_part_lse[i] = args.grad_part_lse[i];
      params.aligned = params.aligned && is_aligned(args.grad_part_o[i], args.part_dtype);
    }
  }
  if (backward) {
    params.grad_o = view(args.grad_o);
    params.grad_lse = args.grad_lse;
    params.aligned = params.aligned && is_aligned(args.grad_o, args.dtype);
  }
  params.lanes_per_row = 1;
  while (params.lanes_per_row < 32 && 8 * params.lanes_per_row < args.head_dim_v) params.lanes_per_row *= 2;
  const int64_t rows_per_block = kOperationThreads / params.lanes_per_row;
  params.num_blocks = std::min(kMaxBlocks, (params.num_rows + rows_per_block - 1) / rows_per_block);
  return params;
}

template <bool kBackward>
void launch_merge(const MergeArgs& args) {
  const MergeParams params = make_params(args, kBackward);
  if (params.num_rows == 0) return;
  const CudaDeviceGuard guard(args.device.index);
  launch(merge_kernel<kBackward>, kBackward ? "merge_backward" : "merge", args.device, params.num_blocks, kOperationThreads, 0, args.stream, params);
}

}  // namespace
}  // namespace sm80

void cuda_merge(const MergeArgs& args) {
  sm80::launch_merge<false>(args);
}

void cuda_merge_backward(const MergeArgs& args) {
  sm80::launch_merge<true>(args);
}

}  // namespace fa
