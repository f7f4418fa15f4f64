#include <cstdio>
#include <mutex>
#include <set>
#include <utility>

#include "kernels/sm80/launch.h"
#include "plan/error.h"
#include "runtime/cuda_check.h"

namespace fa::sm80 {

namespace {

constexpr int64_t kDefaultSharedBytes = 48 * 1024;

/// A kernel may use more than 48 KB only after its attribute says so, per device.
void allow_shared_memory(const void* kernel, const char* name, int device, int64_t bytes) {
  if (bytes <= kDefaultSharedBytes) return;
  static std::mutex mutex;
  static std::set<std::pair<const void*, int>> done;
  const std::lock_guard<std::mutex> lock(mutex);
  if (done.count({kernel, device}) != 0) return;
  char what[160];
  std::snprintf(what, sizeof(what), "cudaFuncSetAttribute of %s for %lld bytes of shared memory", name, static_cast<long long>(bytes));
  cuda_check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)), what);
  done.insert({kernel, device});
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
  int bytes = 0;
  cuda_check(cudaDeviceGetAttribute(&bytes, cudaDevAttrL2CacheSize, device.index), "cudaDeviceGetAttribute of the L2 size");
  return bytes;
}

}  // namespace fa::sm80
