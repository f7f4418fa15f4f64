#include <cstdio>
#include <map>
#include <mutex>
#include <utility>

#include "kernels/sm80/launch.h"
#include "plan/error.h"
#include "plan/sm80_variants.h"
#include "runtime/cuda_check.h"

namespace fa::sm80 {

namespace {

constexpr int64_t kDefaultSharedBytes = 48 * 1024;

/// A kernel may use more than 48 KB only after its attribute says so, per device.
void allow_shared_memory(const void* kernel, const char* name, int device, int64_t bytes) {
  if (bytes <= kDefaultSharedBytes) return;
  static std::mutex mutex;
  static std::map<std::pair<const void*, int>, int64_t> allowed;
  const std::lock_guard<std::mutex> lock(mutex);
  int64_t& most = allowed[{kernel, device}];
  if (most >= bytes) return;
  char what[160];
  std::snprintf(what, sizeof(what), "cudaFuncSetAttribute of %s for %lld bytes of shared memory", name, static_cast<long long>(bytes));
  cuda_check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)), what);
  most = bytes;
}

int64_t attribute_of(fa_device device, cudaDeviceAttr attribute, const char* what) {
  int value = 0;
  cuda_check(cudaDeviceGetAttribute(&value, attribute, device.index), what);
  return value;
}

}  // namespace

void launch_kernel(const void* kernel, const char* name, fa_device device, int64_t blocks, int threads, int64_t shared_bytes, fa_stream stream,
                   void* parameters) {
  allow_shared_memory(kernel, name, device.index, shared_bytes);
  void* arguments[] = {parameters};
  char what[160];
  std::snprintf(what, sizeof(what), "launch of %s with %lld blocks of %d threads", name, static_cast<long long>(blocks), threads);
  cuda_check(cudaLaunchKernel(kernel, dim3(static_cast<unsigned>(blocks)), dim3(static_cast<unsigned>(threads)), arguments, static_cast<size_t>(shared_bytes),
                              static_cast<cudaStream_t>(stream)),
             what);
}

int64_t l2_bytes_of(fa_device device) {
  return attribute_of(device, cudaDevAttrL2CacheSize, "cudaDeviceGetAttribute of the L2 size");
}

int64_t stage_bias(ScoreParams* params, fa_device device, int64_t shared_bytes, int64_t bias_bytes, int blocks_per_sm) {
  if (!can_stage_bias(*params)) return 0;
  constexpr int64_t kReservedBytes = 1024;  // per block, by the system
  const int64_t per_block = attribute_of(device, cudaDevAttrMaxSharedMemoryPerBlockOptin, "cudaDeviceGetAttribute of the shared memory per block");
  const int64_t per_sm = attribute_of(device, cudaDevAttrMaxSharedMemoryPerMultiprocessor, "cudaDeviceGetAttribute of the shared memory per multiprocessor");
  const int64_t with_bias = shared_bytes + bias_bytes;
  // Fewer blocks at a time would cost more than the wait for the bias.
  const bool would_fit_without = (shared_bytes + kReservedBytes) * blocks_per_sm <= per_sm;
  if (with_bias > per_block || (would_fit_without && (with_bias + kReservedBytes) * blocks_per_sm > per_sm)) return 0;
  params->bias_staged = true;
  return bias_bytes;
}

}  // namespace fa::sm80
