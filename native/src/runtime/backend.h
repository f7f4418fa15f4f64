// What the device functions of the C ABI need from a backend. One implementation for the CPU (cpu_backend.cpp), one for CUDA (cuda_backend.cpp), and one
// for builds without CUDA (no_cuda_backend.cpp, chosen by CMake), which knows zero devices. All functions throw Error.
#pragma once

#include <cstdint>

#include "flash_attention/device.h"
#include "plan/problem.h"

namespace fa {

class Backend {
 public:
  virtual ~Backend() = default;
  virtual int device_count() = 0;  ///< never throws; 0 where there is no driver
  /// Throws FA_STATUS_DEVICE_UNAVAILABLE, saying why, if there is no such device.
  virtual DeviceCaps caps(int index) = 0;
  virtual void info(int index, fa_device_info* info) = 0;  ///< fills all fields but struct_size
  virtual void synchronize(int index) = 0;

  /// Throws FA_STATUS_INVALID_ARGUMENT if the device cannot access the memory at pointer (as far as that can be known). Cheap; legal during graph capture.
  virtual void check_access(int index, const void* pointer, const char* argument) = 0;

  virtual void* allocate(int index, uint64_t bytes) = 0;
  virtual void free(int index, void* pointer) = 0;
  virtual void set(int index, void* destination, int value, uint64_t bytes, fa_stream stream) = 0;

  virtual fa_stream stream_create(int index) = 0;
  virtual void stream_destroy(int index, fa_stream stream) = 0;
  virtual void stream_synchronize(int index, fa_stream stream) = 0;
  virtual void stream_wait_event(int index, fa_stream stream, void* event) = 0;
  virtual void begin_capture(int index, fa_stream stream) = 0;
  virtual void* end_capture(int index, fa_stream stream) = 0;  ///< an executable graph
  virtual void graph_launch(int index, void* graph, fa_stream stream) = 0;
  virtual void graph_destroy(int index, void* graph) = 0;

  virtual void* event_create(int index) = 0;
  virtual void event_destroy(int index, void* event) = 0;
  virtual void event_record(int index, void* event, fa_stream stream) = 0;
  virtual bool event_query(int index, void* event) = 0;
  virtual void event_synchronize(int index, void* event) = 0;
  virtual float event_elapsed_ms(int index, void* start, void* end) = 0;
};

Backend& cpu_backend();
Backend& cuda_backend();

/// The backend of a device; throws on an unknown type or index, naming the argument.
Backend& backend_of(fa_device device, const char* argument);

/// Page-locked host memory (plain memory where there is no CUDA device), and copies in which at least one side is a CUDA device.
void* cuda_allocate_host(uint64_t bytes);
void cuda_free_host(void* pointer);
void cuda_copy(fa_device destination_device, void* destination, fa_device source_device, const void* source, uint64_t bytes, fa_stream stream);
/// "CUDA 12.4, sm_80 sm_90a" or "no CUDA".
const char* cuda_build_info();

/// Threads of the CPU backend.
int cpu_num_threads();
void cpu_set_num_threads(int num_threads);  ///< 0: as many as the process may use
/// "AVX-512", "AVX2" …: the instruction set the CPU kernels use on this machine.
const char* cpu_instruction_set();

}  // namespace fa
