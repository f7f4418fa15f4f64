// Memory, streams, events and graphs of CUDA devices, on the statically linked CUDA runtime, which finds the driver at run time.
#include <cstdio>
#include <mutex>
#include <vector>

#include "runtime/backend.h"
#include "runtime/cuda_check.h"
#include "runtime/cuda_device_guard.h"

#ifndef FA_CUDA_BUILD_INFO
#define FA_CUDA_BUILD_INFO "CUDA"
#endif

namespace fa {

CudaDeviceGuard::CudaDeviceGuard(int index) {
  int current = -1;
  cuda_check(cudaGetDevice(&current), "cudaGetDevice");
  if (current != index) {
    cuda_check(cudaSetDevice(index), "cudaSetDevice");
    previous_ = current;
  }
}

CudaDeviceGuard::~CudaDeviceGuard() {
  if (previous_ >= 0) {
    cudaSetDevice(previous_);
  }
}

namespace {

cudaStream_t native(fa_stream stream) {
  return static_cast<cudaStream_t>(stream);
}

/// What never changes of a device, read once: attribute queries cost microseconds, and every call plans.
struct DeviceFacts {
  DeviceCaps caps;
};

class CudaBackend final : public Backend {
 public:
  CudaBackend() {
    int count = 0;
    count_status_ = cudaGetDeviceCount(&count);
    if (count_status_ != cudaSuccess) {
      cudaGetLastError();
      count = 0;
    }
    facts_.resize(static_cast<size_t>(count));
    for (int index = 0; index < count; ++index) {
      read_facts(index);
    }
  }

  int device_count() override { return static_cast<int>(facts_.size()); }

  DeviceCaps caps(int index) override {
    require(index);
    return facts_[static_cast<size_t>(index)].caps;
  }

  void info(int index, fa_device_info* info) override {
    require(index);
    cudaDeviceProp properties{};
    cuda_check(cudaGetDeviceProperties(&properties, index), "cudaGetDeviceProperties");
    info->compute_capability_major = properties.major;
    info->compute_capability_minor = properties.minor;
    info->multiprocessor_count = properties.multiProcessorCount;
    info->total_memory_bytes = properties.totalGlobalMem;
    info->l2_cache_bytes = static_cast<uint64_t>(properties.l2CacheSize);
    info->shared_memory_per_block_bytes = properties.sharedMemPerBlockOptin;
    cuda_check(cudaDriverGetVersion(&info->driver_version), "cudaDriverGetVersion");
    info->clock_khz = attribute(index, cudaDevAttrClockRate);
    std::snprintf(info->name, sizeof(info->name), "%.*s", static_cast<int>(sizeof(info->name) - 1), properties.name);
  }

  void synchronize(int index) override {
    const CudaDeviceGuard guard(checked(index));
    cuda_check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  }

  void check_access(int index, const void* pointer, const char* argument) override {
    if (pointer == nullptr) {
      return;
    }
    cudaPointerAttributes attributes{};
    cuda_check(cudaPointerGetAttributes(&attributes, pointer), "cudaPointerGetAttributes");
    if (attributes.type == cudaMemoryTypeUnregistered) {
      fail(FA_STATUS_INVALID_ARGUMENT, "%s: expected memory that CUDA device %d can access, got ordinary host memory at %p", argument, index, pointer);
    }
    // Even where the devices are peers: a kernel could read such memory only if the process had switched peer access on, which CUDA cannot be asked about,
    // and would otherwise fail in a way that ends the process's use of the device.
    if (attributes.type == cudaMemoryTypeDevice && attributes.device != index) {
      fail(FA_STATUS_INVALID_ARGUMENT, "%s: expected memory of CUDA device %d, got memory of CUDA device %d at %p", argument, index, attributes.device,
           pointer);
    }
  }

  void* allocate(int index, uint64_t bytes) override {
    const CudaDeviceGuard guard(checked(index));
    void* pointer = nullptr;
    char what[64];
    std::snprintf(what, sizeof(what), "cudaMalloc of %llu bytes", static_cast<unsigned long long>(bytes));
    cuda_check(cudaMalloc(&pointer, static_cast<size_t>(bytes)), what);
    return pointer;
  }

  void free(int index, void* pointer) override {
    const CudaDeviceGuard guard(checked(index));
    cuda_check(cudaFree(pointer), "cudaFree");
  }

  void set(int index, void* destination, int value, uint64_t bytes, fa_stream stream) override {
    const CudaDeviceGuard guard(checked(index));
    check_access(index, destination, "destination");
    cuda_check(cudaMemsetAsync(destination, value, static_cast<size_t>(bytes), native(stream)), "cudaMemsetAsync");
  }

  fa_stream stream_create(int index) override {
    const CudaDeviceGuard guard(checked(index));
    cudaStream_t stream = nullptr;
    cuda_check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
    return stream;
  }

  void stream_destroy(int index, fa_stream stream) override {
    const CudaDeviceGuard guard(checked(index));
    cuda_check(cudaStreamDestroy(native(stream)), "cudaStreamDestroy");
  }

  void stream_synchronize(int index, fa_stream stream) override {
    const CudaDeviceGuard guard(checked(index));
    cuda_check(cudaStreamSynchronize(native(stream)), "cudaStreamSynchronize");
  }

  void stream_wait_event(int index, fa_stream stream, void* event) override {
    const CudaDeviceGuard guard(checked(index));
    cuda_check(cudaStreamWaitEvent(native(stream), static_cast<cudaEvent_t>(event), 0), "cudaStreamWaitEvent");
  }

  void begin_capture(int index, fa_stream stream) override {
    const CudaDeviceGuard guard(checked(index));
    cuda_check(cudaStreamBeginCapture(native(stream), cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
  }

  void* end_capture(int index, fa_stream stream) override {
    const CudaDeviceGuard guard(checked(index));
    cudaGraph_t graph = nullptr;
    cuda_check(cudaStreamEndCapture(native(stream), &graph), "cudaStreamEndCapture");
    cudaGraphExec_t executable = nullptr;
    const cudaError_t status = cudaGraphInstantiate(&executable, graph, 0);
    cudaGraphDestroy(graph);
    cuda_check(status, "cudaGraphInstantiate");
    return executable;
  }

  void graph_launch(int index, void* graph, fa_stream stream) override {
    const CudaDeviceGuard guard(checked(index));
    cuda_check(cudaGraphLaunch(static_cast<cudaGraphExec_t>(graph), native(stream)), "cudaGraphLaunch");
  }

  void graph_destroy(int index, void* graph) override {
    const CudaDeviceGuard guard(checked(index));
    cuda_check(cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(graph)), "cudaGraphExecDestroy");
  }

  void* event_create(int index) override {
    const CudaDeviceGuard guard(checked(index));
    cudaEvent_t event = nullptr;
    cuda_check(cudaEventCreate(&event), "cudaEventCreate");
    return event;
  }

  void event_destroy(int index, void* event) override {
    const CudaDeviceGuard guard(checked(index));
    cuda_check(cudaEventDestroy(static_cast<cudaEvent_t>(event)), "cudaEventDestroy");
  }

  void event_record(int index, void* event, fa_stream stream) override {
    const CudaDeviceGuard guard(checked(index));
    cuda_check(cudaEventRecord(static_cast<cudaEvent_t>(event), native(stream)), "cudaEventRecord");
  }

  bool event_query(int index, void* event) override {
    const CudaDeviceGuard guard(checked(index));
    const cudaError_t status = cudaEventQuery(static_cast<cudaEvent_t>(event));
    if (status == cudaErrorNotReady) {
      return false;
    }
    cuda_check(status, "cudaEventQuery");
    return true;
  }

  void event_synchronize(int index, void* event) override {
    const CudaDeviceGuard guard(checked(index));
    cuda_check(cudaEventSynchronize(static_cast<cudaEvent_t>(event)), "cudaEventSynchronize");
  }

  float event_elapsed_ms(int index, void* start, void* end) override {
    const CudaDeviceGuard guard(checked(index));
    cuda_check(cudaEventSynchronize(static_cast<cudaEvent_t>(start)), "cudaEventSynchronize");
    cuda_check(cudaEventSynchronize(static_cast<cudaEvent_t>(end)), "cudaEventSynchronize");
    float milliseconds = 0.0f;
    cuda_check(cudaEventElapsedTime(&milliseconds, static_cast<cudaEvent_t>(start), static_cast<cudaEvent_t>(end)), "cudaEventElapsedTime");
    return milliseconds;
  }

  bool any() const { return !facts_.empty(); }

 private:
  static int attribute(int index, cudaDeviceAttr which) {
    int value = 0;
    cuda_check(cudaDeviceGetAttribute(&value, which, index), "cudaDeviceGetAttribute");
    return value;
  }

  void read_facts(int index) {
    DeviceCaps& caps = facts_[static_cast<size_t>(index)].caps;
    caps.device = {FA_DEVICE_CUDA, index};
    caps.compute_capability = 10 * attribute(index, cudaDevAttrComputeCapabilityMajor) + attribute(index, cudaDevAttrComputeCapabilityMinor);
    caps.multiprocessors = attribute(index, cudaDevAttrMultiProcessorCount);
    caps.shared_memory_per_block_bytes = attribute(index, cudaDevAttrMaxSharedMemoryPerBlockOptin);
    caps.l2_bytes = attribute(index, cudaDevAttrL2CacheSize);
  }

  void require(int index) {
    if (facts_.empty()) {
      const bool no_driver = count_status_ == cudaErrorInsufficientDriver;
      fail(FA_STATUS_DEVICE_UNAVAILABLE, "device: no CUDA device can be used here: %s",
           no_driver ? "there is no NVIDIA driver, or it is older than CUDA 12 needs"
                     : cudaGetErrorString(count_status_ == cudaSuccess ? cudaErrorNoDevice : count_status_));
    }
    if (index < 0 || index >= device_count()) {
      fail(FA_STATUS_DEVICE_UNAVAILABLE, "device.index: expected an ordinal below the number of CUDA devices, %d, got %d", device_count(), index);
    }
  }

  int checked(int index) {
    require(index);
    return index;
  }

  std::vector<DeviceFacts> facts_;
  cudaError_t count_status_ = cudaSuccess;
};

CudaBackend& the_backend() {
  static CudaBackend backend;
  return backend;
}

}  // namespace

Backend& cuda_backend() {
  return the_backend();
}

void* cuda_allocate_host(uint64_t bytes) {
  if (!the_backend().any()) {
    return cpu_backend().allocate(0, bytes);
  }
  void* pointer = nullptr;
  char what[64];
  std::snprintf(what, sizeof(what), "cudaHostAlloc of %llu bytes", static_cast<unsigned long long>(bytes));
  cuda_check(cudaHostAlloc(&pointer, static_cast<size_t>(bytes), cudaHostAllocPortable), what);
  return pointer;
}

void cuda_free_host(void* pointer) {
  if (!the_backend().any()) {
    cpu_backend().free(0, pointer);
    return;
  }
  cuda_check(cudaFreeHost(pointer), "cudaFreeHost");
}

void cuda_copy(fa_device destination_device, void* destination, fa_device source_device, const void* source, uint64_t bytes, fa_stream stream) {
  const bool to_cuda = destination_device.type == FA_DEVICE_CUDA;
  const CudaDeviceGuard guard(to_cuda ? destination_device.index : source_device.index);
  if (to_cuda) {
    the_backend().check_access(destination_device.index, destination, "destination");
  }
  if (source_device.type == FA_DEVICE_CUDA) {
    the_backend().check_access(source_device.index, source, "source");
  }
  if (to_cuda && source_device.type == FA_DEVICE_CUDA && destination_device.index != source_device.index) {
    cuda_check(cudaMemcpyPeerAsync(destination, destination_device.index, source, source_device.index, static_cast<size_t>(bytes), native(stream)),
               "cudaMemcpyPeerAsync");
    return;
  }
  cuda_check(cudaMemcpyAsync(destination, source, static_cast<size_t>(bytes), cudaMemcpyDefault, native(stream)), "cudaMemcpyAsync");
}

const char* cuda_build_info() {
  return FA_CUDA_BUILD_INFO;
}

}  // namespace fa
