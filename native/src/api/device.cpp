// Exports of flash_attention/device.h.
#include "flash_attention/device.h"

#include <atomic>
#include <cstring>
#include <memory>
#include <mutex>
#include <unordered_map>

#include "api/guard.h"
#include "api/validate.h"
#include "runtime/backend.h"

struct fa_event_object {
  fa_device device;
  void* native;
  std::atomic<bool> recorded{false};
};

struct fa_graph_object {
  fa_device device;
  void* native;
};

namespace fa::api {

namespace {

/// Which kind of thing a live handle is. Handles that the library gave out are kept here, so that a foreign or dead one is an error and not a crash.
enum class Kind { kMemory, kHostMemory, kStream, kEvent, kGraph };

class LiveHandles {
 public:
  void add(const void* handle, Kind kind, fa_device device) {
    if (handle == nullptr) {
      return;
    }
    const std::lock_guard<std::mutex> lock(mutex_);
    live_[handle] = {kind, device};
  }

  /// Throws unless the handle is alive, of this kind and (if given) of this device.
  void require(const void* handle, Kind kind, const fa_device* device, const char* argument, const char* expected) {
    const std::lock_guard<std::mutex> lock(mutex_);
    require_locked(handle, kind, device, argument, expected);
  }

  /// require, then forgets the handle.
  void remove(const void* handle, Kind kind, const fa_device* device, const char* argument, const char* expected) {
    const std::lock_guard<std::mutex> lock(mutex_);
    require_locked(handle, kind, device, argument, expected);
    live_.erase(handle);
  }

 private:
  struct Entry {
    Kind kind;
    fa_device device;
  };

  void require_locked(const void* handle, Kind kind, const fa_device* device, const char* argument, const char* expected) {
    const auto found = live_.find(handle);
    if (found == live_.end() || found->second.kind != kind) {
      fail(FA_STATUS_INVALID_ARGUMENT, "%s: expected %s, got %p, which is none (or was destroyed already)", argument, expected, handle);
    }
    const fa_device owner = found->second.device;
    if (device != nullptr && (owner.type != device->type || owner.index != device->index)) {
      fail(FA_STATUS_INVALID_ARGUMENT, "%s: expected %s of device type %d index %d, got one of type %d index %d", argument, expected, device->type,
           device->index, owner.type, owner.index);
    }
  }

  std::mutex mutex_;
  std::unordered_map<const void*, Entry> live_;
};

LiveHandles& handles() {
  static LiveHandles* instance = new LiveHandles;  // never destroyed: callers may free from their own static destructors
  return *instance;
}

constexpr fa_device kHost{FA_DEVICE_CPU, 0};
constexpr char kMemoryOrigin[] = "memory of fa_memory_allocate";
constexpr char kHostMemoryOrigin[] = "memory of fa_memory_allocate_host";
constexpr char kEventOrigin[] = "an event of fa_event_create";
constexpr char kGraphOrigin[] = "a graph of fa_stream_end_capture";

fa_event_object* require_event(fa_event event, const char* argument) {
  handles().require(event, Kind::kEvent, nullptr, argument, kEventOrigin);
  return event;
}

void require_range(const void* pointer, uint64_t bytes, const char* argument) {
  if (pointer == nullptr && bytes > 0) {
    fail(FA_STATUS_INVALID_ARGUMENT, "%s: expected memory of %llu bytes, got NULL", argument, static_cast<unsigned long long>(bytes));
  }
  if (bytes > static_cast<uint64_t>(PTRDIFF_MAX) || reinterpret_cast<uintptr_t>(pointer) + bytes < reinterpret_cast<uintptr_t>(pointer)) {
    fail(FA_STATUS_INVALID_ARGUMENT, "size_bytes: expected a range inside the address space, got %llu bytes at %s %p", static_cast<unsigned long long>(bytes),
         argument, pointer);
  }
}

}  // namespace

}  // namespace fa::api

using fa::Backend;
using fa::backend_of;
using fa::fail;
using fa::api::guard;
using fa::api::handles;
using fa::api::Kind;
using fa::api::require_event;
using fa::api::require_pointer;

extern "C" {

fa_status fa_device_count(fa_device_type type, int32_t* out_count) FA_NOEXCEPT {
  return guard(__func__, [&] {
    require_pointer(out_count, "out_count", "int32_t");
    if (type != FA_DEVICE_CPU && type != FA_DEVICE_CUDA) {
      fail(FA_STATUS_INVALID_ARGUMENT, "type: expected FA_DEVICE_CPU (0) or FA_DEVICE_CUDA (1), got %d", type);
    }
    *out_count = (type == FA_DEVICE_CPU ? fa::cpu_backend() : fa::cuda_backend()).device_count();
  });
}

fa_status fa_device_get_info(fa_device device, fa_device_info* info) FA_NOEXCEPT {
  return guard(__func__, [&] {
    const size_t bytes = fa::api::sized_output(info, sizeof(*info), sizeof(*info), "info", "fa_device_info");
    fa_device_info filled{};
    backend_of(device, "device").info(device.index, &filled);
    filled.struct_size = info->struct_size;
    std::memcpy(info, &filled, bytes);
  });
}

fa_status fa_device_synchronize(fa_device device) FA_NOEXCEPT {
  return guard(__func__, [&] { backend_of(device, "device").synchronize(device.index); });
}

fa_status fa_cpu_set_num_threads(int32_t num_threads) FA_NOEXCEPT {
  return guard(__func__, [&] {
    if (num_threads < 0 || num_threads > 1024) {
      fail(FA_STATUS_INVALID_ARGUMENT, "num_threads: expected 0 (all processors) or 1 … 1024, got %d", num_threads);
    }
    fa::cpu_set_num_threads(num_threads);
  });
}

fa_status fa_cpu_get_num_threads(int32_t* out_num_threads) FA_NOEXCEPT {
  return guard(__func__, [&] {
    require_pointer(out_num_threads, "out_num_threads", "int32_t");
    *out_num_threads = fa::cpu_num_threads();
  });
}

fa_status fa_memory_allocate(fa_device device, uint64_t size_bytes, void** out_pointer) FA_NOEXCEPT {
  return guard(__func__, [&] {
    require_pointer(out_pointer, "out_pointer", "void*");
    Backend& backend = backend_of(device, "device");
    void* pointer = size_bytes == 0 ? nullptr : backend.allocate(device.index, size_bytes);
    handles().add(pointer, Kind::kMemory, device);
    *out_pointer = pointer;
  });
}

fa_status fa_memory_allocate_host(uint64_t size_bytes, void** out_pointer) FA_NOEXCEPT {
  return guard(__func__, [&] {
    require_pointer(out_pointer, "out_pointer", "void*");
    void* pointer = size_bytes == 0 ? nullptr : fa::cuda_allocate_host(size_bytes);
    handles().add(pointer, Kind::kHostMemory, fa::api::kHost);
    *out_pointer = pointer;
  });
}

fa_status fa_memory_free(fa_device device, void* pointer) FA_NOEXCEPT {
  return guard(__func__, [&] {
    Backend& backend = backend_of(device, "device");
    if (pointer != nullptr) {
      handles().remove(pointer, Kind::kMemory, &device, "pointer", fa::api::kMemoryOrigin);
      backend.free(device.index, pointer);
    }
  });
}

fa_status fa_memory_free_host(void* pointer) FA_NOEXCEPT {
  return guard(__func__, [&] {
    if (pointer != nullptr) {
      handles().remove(pointer, Kind::kHostMemory, &fa::api::kHost, "pointer", fa::api::kHostMemoryOrigin);
      fa::cuda_free_host(pointer);
    }
  });
}

fa_status fa_memory_copy(fa_device destination_device, void* destination, fa_device source_device, const void* source, uint64_t size_bytes,
                         fa_stream stream) FA_NOEXCEPT {
  return guard(__func__, [&] {
    backend_of(destination_device, "destination_device");
    backend_of(source_device, "source_device");
    fa::api::require_range(destination, size_bytes, "destination");
    fa::api::require_range(source, size_bytes, "source");
    const auto to = reinterpret_cast<uintptr_t>(destination), from = reinterpret_cast<uintptr_t>(source);
    if (size_bytes > 0 && destination_device.type == source_device.type && destination_device.index == source_device.index && to < from + size_bytes &&
        from < to + size_bytes) {
      fail(FA_STATUS_INVALID_ARGUMENT, "destination: expected memory apart from source, got %llu bytes at %p, which overlap source %p",
           static_cast<unsigned long long>(size_bytes), destination, source);
    }
    const bool host_only = destination_device.type == FA_DEVICE_CPU && source_device.type == FA_DEVICE_CPU;
    if (host_only && stream != nullptr) {
      fail(FA_STATUS_INVALID_ARGUMENT, "stream: expected NULL for a copy within host memory, got %p", stream);
    }
    if (size_bytes == 0) {
      return;
    }
    if (host_only) {
      std::memcpy(destination, source, static_cast<size_t>(size_bytes));
    } else {
      fa::cuda_copy(destination_device, destination, source_device, source, size_bytes, stream);
    }
  });
}

fa_status fa_memory_set(fa_device device, void* destination, int32_t value, uint64_t size_bytes, fa_stream stream) FA_NOEXCEPT {
  return guard(__func__, [&] {
    Backend& backend = backend_of(device, "device");
    if (value < 0 || value > 255) {
      fail(FA_STATUS_INVALID_ARGUMENT, "value: expected a byte, 0 … 255, got %d", value);
    }
    fa::api::require_range(destination, size_bytes, "destination");
    if (size_bytes > 0) {
      backend.set(device.index, destination, value, size_bytes, stream);
    }
  });
}

fa_status fa_stream_create(fa_device device, fa_stream* out_stream) FA_NOEXCEPT {
  return guard(__func__, [&] {
    require_pointer(out_stream, "out_stream", "fa_stream");
    fa_stream stream = backend_of(device, "device").stream_create(device.index);
    handles().add(stream, Kind::kStream, device);
    *out_stream = stream;
  });
}

fa_status fa_stream_destroy(fa_device device, fa_stream stream) FA_NOEXCEPT {
  return guard(__func__, [&] {
    Backend& backend = backend_of(device, "device");
    if (stream != nullptr) {
      handles().remove(stream, Kind::kStream, &device, "stream", "a stream of fa_stream_create");
      backend.stream_destroy(device.index, stream);
    }
  });
}

fa_status fa_stream_synchronize(fa_device device, fa_stream stream) FA_NOEXCEPT {
  return guard(__func__, [&] { backend_of(device, "device").stream_synchronize(device.index, stream); });
}

fa_status fa_event_create(fa_device device, fa_event* out_event) FA_NOEXCEPT {
  return guard(__func__, [&] {
    require_pointer(out_event, "out_event", "fa_event");
    Backend& backend = backend_of(device, "device");
    auto event = std::make_unique<fa_event_object>();
    event->device = device;
    event->native = backend.event_create(device.index);
    handles().add(event.get(), Kind::kEvent, device);
    *out_event = event.release();
  });
}

fa_status fa_event_destroy(fa_event event) FA_NOEXCEPT {
  return guard(__func__, [&] {
    if (event != nullptr) {
      handles().remove(event, Kind::kEvent, nullptr, "event", fa::api::kEventOrigin);
      const std::unique_ptr<fa_event_object> owner(event);
      backend_of(owner->device, "event").event_destroy(owner->device.index, owner->native);
    }
  });
}

fa_status fa_event_record(fa_event event, fa_stream stream) FA_NOEXCEPT {
  return guard(__func__, [&] {
    fa_event_object* object = require_event(event, "event");
    backend_of(object->device, "event").event_record(object->device.index, object->native, stream);
    object->recorded = true;
  });
}

fa_status fa_stream_wait_event(fa_device device, fa_stream stream, fa_event event) FA_NOEXCEPT {
  return guard(__func__, [&] {
    Backend& backend = backend_of(device, "device");
    fa_event_object* object = require_event(event, "event");
    if (object->device.type != device.type) {
      fail(FA_STATUS_INVALID_ARGUMENT, "event: expected an event of device type %d, got one of type %d", device.type, object->device.type);
    }
    backend.stream_wait_event(device.index, stream, object->native);
  });
}

fa_status fa_event_query(fa_event event, int32_t* out_complete) FA_NOEXCEPT {
  return guard(__func__, [&] {
    require_pointer(out_complete, "out_complete", "int32_t");
    fa_event_object* object = require_event(event, "event");
    *out_complete = backend_of(object->device, "event").event_query(object->device.index, object->native) ? 1 : 0;
  });
}

fa_status fa_event_synchronize(fa_event event) FA_NOEXCEPT {
  return guard(__func__, [&] {
    fa_event_object* object = require_event(event, "event");
    backend_of(object->device, "event").event_synchronize(object->device.index, object->native);
  });
}

fa_status fa_event_elapsed_ms(fa_event start, fa_event end, float* out_milliseconds) FA_NOEXCEPT {
  return guard(__func__, [&] {
    require_pointer(out_milliseconds, "out_milliseconds", "float");
    fa_event_object* first = require_event(start, "start");
    fa_event_object* second = require_event(end, "end");
    if (first->device.type != second->device.type || first->device.index != second->device.index) {
      fail(FA_STATUS_INVALID_ARGUMENT, "end: expected an event of the device of start (type %d index %d), got one of type %d index %d", first->device.type,
           first->device.index, second->device.type, second->device.index);
    }
    if (!first->recorded || !second->recorded) {
      fail(FA_STATUS_INVALID_ARGUMENT, "%s: expected an event that was recorded, got one that was not", first->recorded ? "end" : "start");
    }
    *out_milliseconds = backend_of(first->device, "start").event_elapsed_ms(first->device.index, first->native, second->native);
  });
}

fa_status fa_stream_begin_capture(fa_device device, fa_stream stream) FA_NOEXCEPT {
  return guard(__func__, [&] {
    Backend& backend = backend_of(device, "device");
    if (device.type == FA_DEVICE_CUDA && stream == nullptr) {
      fail(FA_STATUS_INVALID_ARGUMENT, "stream: expected a stream other than the default one, which cannot be captured, got NULL");
    }
    backend.begin_capture(device.index, stream);
  });
}

fa_status fa_stream_end_capture(fa_device device, fa_stream stream, fa_graph* out_graph) FA_NOEXCEPT {
  return guard(__func__, [&] {
    require_pointer(out_graph, "out_graph", "fa_graph");
    Backend& backend = backend_of(device, "device");
    auto graph = std::make_unique<fa_graph_object>();
    graph->device = device;
    graph->native = backend.end_capture(device.index, stream);
    handles().add(graph.get(), Kind::kGraph, device);
    *out_graph = graph.release();
  });
}

fa_status fa_graph_launch(fa_graph graph, fa_stream stream) FA_NOEXCEPT {
  return guard(__func__, [&] {
    handles().require(graph, Kind::kGraph, nullptr, "graph", fa::api::kGraphOrigin);
    backend_of(graph->device, "graph").graph_launch(graph->device.index, graph->native, stream);
  });
}

fa_status fa_graph_destroy(fa_graph graph) FA_NOEXCEPT {
  return guard(__func__, [&] {
    if (graph != nullptr) {
      handles().remove(graph, Kind::kGraph, nullptr, "graph", fa::api::kGraphOrigin);
      const std::unique_ptr<fa_graph_object> owner(graph);
      backend_of(owner->device, "graph").graph_destroy(owner->device.index, owner->native);
    }
  });
}

}  // extern "C"
