// Memory, streams and events of the CPU device: host memory, no queue, the host's clock.
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>

#include "plan/error.h"
#include "runtime/backend.h"

#if defined(_WIN32)
#include <malloc.h>
#include <windows.h>
#else
#include <unistd.h>
#endif
#if defined(__x86_64__) || defined(_M_X64)
#if defined(_MSC_VER)
#include <intrin.h>
#else
#include <cpuid.h>
#endif
#endif

namespace fa {

namespace {

constexpr size_t kAlignment = 64;  // a cache line

void refuse_stream(fa_stream stream) {
  if (stream != nullptr) {
    fail(FA_STATUS_INVALID_ARGUMENT, "stream: expected NULL, the only stream of the CPU device, got %p", stream);
  }
}

[[noreturn]] void no_graphs() {
  fail(FA_STATUS_UNSUPPORTED, "device: graphs are captured on CUDA devices only, got the CPU");
}

/// The processor's own name; "" where the processor does not tell.
void brand_string(char (&name)[64]) {
  std::memset(name, 0, sizeof(name));
#if defined(__x86_64__) || defined(_M_X64)
  unsigned words[12] = {};
  for (unsigned leaf = 0; leaf < 3; ++leaf) {
#if defined(_MSC_VER)
    __cpuid(reinterpret_cast<int*>(words + 4 * leaf), static_cast<int>(0x80000002u + leaf));
#else
    __get_cpuid(0x80000002u + leaf, words + 4 * leaf, words + 4 * leaf + 1, words + 4 * leaf + 2, words + 4 * leaf + 3);
#endif
  }
  std::memcpy(name, words, sizeof(words));
#endif
}

struct CpuEvent {
  std::atomic<int64_t> nanoseconds{0};
};

class CpuBackend final : public Backend {
 public:
  int device_count() override { return 1; }

  DeviceCaps caps(int) override {
    DeviceCaps caps;
    caps.device = {FA_DEVICE_CPU, 0};
    caps.multiprocessors = cpu_num_threads();
    return caps;
  }

  void info(int, fa_device_info* info) override {
    info->multiprocessor_count = cpu_num_threads();
#if defined(_WIN32)
    MEMORYSTATUSEX memory{};
    memory.dwLength = sizeof(memory);
    GlobalMemoryStatusEx(&memory);
    info->total_memory_bytes = memory.ullTotalPhys;
#else
    info->total_memory_bytes = static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
#if defined(_SC_LEVEL3_CACHE_SIZE)
    const long cache = sysconf(_SC_LEVEL3_CACHE_SIZE);
    info->l2_cache_bytes = cache > 0 ? static_cast<uint64_t>(cache) : 0;
#endif
#endif
    char brand[64];
    brand_string(brand);
    std::snprintf(info->name, sizeof(info->name), "%s (%s)", brand[0] != '\0' ? brand : "CPU", cpu_instruction_set());
  }

  void synchronize(int) override {}
  void check_access(int, const void*, const char*) override {}

  void* allocate(int, uint64_t bytes) override {
    const uint64_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
    if (rounded < bytes || rounded > static_cast<uint64_t>(PTRDIFF_MAX)) {
      fail(FA_STATUS_OUT_OF_MEMORY, "size_bytes: %llu bytes exceed the address space", static_cast<unsigned long long>(bytes));
    }
#if defined(_WIN32)
    void* pointer = _aligned_malloc(static_cast<size_t>(rounded), kAlignment);
#else
    void* pointer = std::aligned_alloc(kAlignment, static_cast<size_t>(rounded));
#endif
    if (pointer == nullptr) {
      fail(FA_STATUS_OUT_OF_MEMORY, "size_bytes: the system has no %llu bytes of host memory to give", static_cast<unsigned long long>(bytes));
    }
    return pointer;
  }

  void free(int, void* pointer) override {
#if defined(_WIN32)
    _aligned_free(pointer);
#else
    std::free(pointer);
#endif
  }

  void set(int, void* destination, int value, uint64_t bytes, fa_stream stream) override {
    refuse_stream(stream);
    std::memset(destination, value, static_cast<size_t>(bytes));
  }

  fa_stream stream_create(int) override {
    return nullptr;
  }
  void stream_destroy(int, fa_stream stream) override {
    refuse_stream(stream);
  }
  void stream_synchronize(int, fa_stream stream) override {
    refuse_stream(stream);
  }
  void stream_wait_event(int, fa_stream stream, void*) override {
    refuse_stream(stream);
  }

  void begin_capture(int, fa_stream) override {
    no_graphs();
  }
  void* end_capture(int, fa_stream) override {
    no_graphs();
  }
  void graph_launch(int, void*, fa_stream) override {
    no_graphs();
  }
  void graph_destroy(int, void*) override {
    no_graphs();
  }

  void* event_create(int) override {
    return new CpuEvent;
  }
  void event_destroy(int, void* event) override {
    delete static_cast<CpuEvent*>(event);
  }
  void event_record(int, void* event, fa_stream stream) override {
    refuse_stream(stream);
    const auto now = std::chrono::steady_clock::now().time_since_epoch();
    static_cast<CpuEvent*>(event)->nanoseconds = std::chrono::duration_cast<std::chrono::nanoseconds>(now).count();
  }
  bool event_query(int, void*) override {
    return true;
  }
  void event_synchronize(int, void*) override {}
  float event_elapsed_ms(int, void* start, void* end) override {
    return static_cast<float>(static_cast<double>(static_cast<CpuEvent*>(end)->nanoseconds - static_cast<CpuEvent*>(start)->nanoseconds) * 1e-6);
  }
};

}  // namespace

Backend& cpu_backend() {
  static CpuBackend backend;
  return backend;
}

}  // namespace fa
