// Stands in for CUDA in a build without it: there are no devices, and everything says so.
#include "plan/error.h"
#include "runtime/backend.h"

namespace fa {

namespace {

[[noreturn]] void unavailable() {
  fail(FA_STATUS_DEVICE_UNAVAILABLE, "device: this library was built without CUDA (FA_CUDA=OFF); only the CPU device exists");
}

class NoCudaBackend final : public Backend {
 public:
  int device_count() override { return 0; }
  DeviceCaps caps(int) override { unavailable(); }
  void info(int, fa_device_info*) override { unavailable(); }
  void synchronize(int) override { unavailable(); }
  void check_access(int, const void*, const char*) override { unavailable(); }
  void* allocate(int, uint64_t) override { unavailable(); }
  void free(int, void*) override { unavailable(); }
  void set(int, void*, int, uint64_t, fa_stream) override { unavailable(); }
  fa_stream stream_create(int) override { unavailable(); }
  void stream_destroy(int, fa_stream) override { unavailable(); }
  void stream_synchronize(int, fa_stream) override { unavailable(); }
  void stream_wait_event(int, fa_stream, void*) override { unavailable(); }
  void begin_capture(int, fa_stream) override { unavailable(); }
  void* end_capture(int, fa_stream) override { unavailable(); }
  void graph_launch(int, void*, fa_stream) override { unavailable(); }
  void graph_destroy(int, void*) override { unavailable(); }
  void* event_create(int) override { unavailable(); }
  void event_destroy(int, void*) override { unavailable(); }
  void event_record(int, void*, fa_stream) override { unavailable(); }
  bool event_query(int, void*) override { unavailable(); }
  void event_synchronize(int, void*) override { unavailable(); }
  float event_elapsed_ms(int, void*, void*) override { unavailable(); }
};

}  // namespace

Backend& cuda_backend() {
  static NoCudaBackend backend;
  return backend;
}

void* cuda_allocate_host(uint64_t bytes) {
  return cpu_backend().allocate(0, bytes);
}
void cuda_free_host(void* pointer) {
  cpu_backend().free(0, pointer);
}
void cuda_copy(fa_device, void*, fa_device, const void*, uint64_t, fa_stream) {
  unavailable();
}
const char* cuda_build_info() {
  return "no CUDA";
}

}  // namespace fa
