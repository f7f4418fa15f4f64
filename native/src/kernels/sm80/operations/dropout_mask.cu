#include <algorithm>

#include "attention/philox.cuh"
#include "dispatch/dispatch.h"
#include "kernels/sm80/launch.h"
#include "kernels/sm80/operations/params.h"
#include "runtime/cuda_device_guard.h"

namespace fa {
namespace sm80 {
namespace {

/// A thread per counter of the generator: four keys of a row.
__global__ void __launch_bounds__(kOperationThreads) dropout_mask_kernel(const __grid_constant__ DropoutMaskParams p) {
  const int64_t quads_per_row = (p.len_kv + 3) / 4, step = p.num_blocks * kOperationThreads;
  for (int64_t item = static_cast<int64_t>(blockIdx.x) * kOperationThreads + threadIdx.x; item < p.num_quads; item += step) {
    const int64_t row = item / quads_per_row, quad = item - row * quads_per_row;
    const int64_t head_index = row / p.len_q, query = row - head_index * p.len_q;
    const int64_t batch = head_index / p.heads, head = head_index - batch * p.heads;
    const PhiloxWords words = philox(p.seed, p.offset, static_cast<uint32_t>(head_index), static_cast<uint32_t>(query), static_cast<uint32_t>(quad));
    uint8_t* const g_keys = p.out + batch * p.batch_stride + head * p.head_stride + query * p.row_stride + 4 * quad;
    uint32_t flags = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) flags |= static_cast<uint32_t>(words.word[i] >= p.drop_below) << (8 * i);
    if (p.aligned && 4 * quad + 4 <= p.len_kv) {
      *reinterpret_cast<uint32_t*>(g_keys) = flags;
    } else {
      for (int i = 0; i < 4 && 4 * quad + i < p.len_kv; ++i) g_keys[i] = static_cast<uint8_t>(flags >> (8 * i));
    }
  }
}

/// Blocks beyond which the work is shared out in turns.
constexpr int64_t kMaxBlocks = int64_t{1} << 20;

}  // namespace
}  // namespace sm80

void cuda_dropout_mask(const DropoutMaskArgs& args) {
  using namespace sm80;
  DropoutMaskParams params{};
  params.out = static_cast<uint8_t*>(args.out.data);
  params.batch_stride = args.out.batch_stride;
  params.head_stride = args.out.head_stride;
  params.row_stride = args.out.row_stride;
  params.heads = args.sizes[1];
  params.len_q = args.sizes[2];
  params.len_kv = args.sizes[3];
  params.num_quads = args.sizes[0] * args.sizes[1] * args.sizes[2] * ((args.sizes[3] + 3) / 4);
  params.num_blocks = std::min(kMaxBlocks, (params.num_quads + kOperationThreads - 1) / kOperationThreads);
  params.seed = args.dropout.seed;
  params.offset = args.dropout.offset;
  params.drop_below = args.dropout.threshold();
  const auto whole = [](uint64_t bytes) { return bytes % 4 == 0; };
  params.aligned = whole(reinterpret_cast<uintptr_t>(params.out)) && whole(static_cast<uint64_t>(params.batch_stride)) &&
                   whole(static_cast<uint64_t>(params.head_stride)) && whole(static_cast<uint64_t>(params.row_stride));
  if (params.num_quads == 0) return;
  const CudaDeviceGuard guard(args.device.index);
  launch(dropout_mask_kernel, "dropout_mask", args.device, params.num_blocks, kOperationThreads, 0, args.stream, params);
}

}  // namespace fa
