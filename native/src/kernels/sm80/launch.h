// Host side shared by the sm80 launchers.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "attention/score_params.h"
#include "plan/problem.h"

namespace fa::sm80 {

/// Lets the kernel use shared_bytes of dynamic shared memory on the device (once per kernel and device; thread-safe; legal under graph capture), then queues
/// it. Throws Error if the launch is refused. parameters: address of the kernel's one argument.
void launch_kernel(const void* kernel, const char* name, fa_device device, int64_t blocks, int threads, int64_t shared_bytes, fa_stream stream,
                   void* parameters);

/// Typed form: a kernel that takes one struct by value.
template <class Params>
void launch(void (*kernel)(Params), const char* name, fa_device device, int64_t blocks, int threads, int64_t shared_bytes, fa_stream stream, Params params) {
  launch_kernel(reinterpret_cast<const void*>(kernel), name, device, blocks, threads, shared_bytes, stream, &params);
}

/// bias_bytes if the device has room for a tile of the bias in each of blocks_per_sm blocks that use shared_bytes without it, and the bias can be copied so
/// (params->bias_staged is then set); else 0.
int64_t stage_bias(ScoreParams* params, fa_device device, int64_t shared_bytes, int64_t bias_bytes, int blocks_per_sm);

/// Size of the device's second-level cache.
int64_t l2_bytes_of(fa_device device);

}  // namespace fa::sm80
