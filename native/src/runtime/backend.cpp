#include "runtime/backend.h"

#include "plan/error.h"

namespace fa {

Backend& backend_of(fa_device device, const char* argument) {
  if (device.type != FA_DEVICE_CPU && device.type != FA_DEVICE_CUDA) {
    fail(FA_STATUS_INVALID_ARGUMENT, "%s.type: expected FA_DEVICE_CPU (0) or FA_DEVICE_CUDA (1), got %d", argument, device.type);
  }
  if (device.index < 0) {
    fail(FA_STATUS_INVALID_ARGUMENT, "%s.index: expected a device ordinal >= 0, got %d", argument, device.index);
  }
  Backend& backend = device.type == FA_DEVICE_CPU ? cpu_backend() : cuda_backend();
  const int count = backend.device_count();
  if (device.index >= count) {
    if (device.type == FA_DEVICE_CPU) {
      fail(FA_STATUS_INVALID_ARGUMENT, "%s.index: expected 0, the only CPU device, got %d", argument, device.index);
    }
    backend.caps(device.index);  // throws with the reason where there is no CUDA at all
    fail(FA_STATUS_DEVICE_UNAVAILABLE, "%s.index: expected an ordinal below the number of CUDA devices, %d, got %d", argument, count, device.index);
  }
  return backend;
}

}  // namespace fa
