/* Devices, memory, streams, events and graphs, for callers that have no CUDA library of their own. Pointers and streams of any other CUDA library
 * (the runtime, the driver, a framework) are equally welcome in every call.
 *
 * All functions work for the CPU device as well: memory is host memory aligned to 64 bytes, the only stream is NULL, and an operation on a stream is
 * complete when the call returns. */
#ifndef FLASH_ATTENTION_DEVICE_H
#define FLASH_ATTENTION_DEVICE_H

#include "flash_attention/types.h"

#if defined(__cplusplus)
extern "C" {
#endif

/** What a device is and can do. */
typedef struct fa_device_info {
  /** In: sizeof(fa_device_info) of the caller. */
  uint32_t struct_size;
  /** Compute capability, e.g. 9 and 0 for Hopper; 0 and 0 for the CPU. */
  int32_t compute_capability_major;
  int32_t compute_capability_minor;
  /** Streaming multiprocessors; for the CPU the number of threads that calls use now. */
  int32_t multiprocessor_count;
  /** Device memory (CPU: physical memory) in bytes. */
  uint64_t total_memory_bytes;
  /** Last-level cache in bytes; 0 if unknown. */
  uint64_t l2_cache_bytes;
  /** Largest shared memory of one thread block in bytes; 0 for the CPU. */
  uint64_t shared_memory_per_block_bytes;
  /** CUDA driver version as 1000 * major + 10 * minor; 0 for the CPU. */
  int32_t driver_version;
  /** Nominal SM clock in kHz; 0 if unknown. */
  int32_t clock_khz;
  /** Product name, NUL-terminated UTF-8; for the CPU its brand string and the instruction set in use. */
  char name[128];
} fa_device_info;

/** Number of devices of a type: 1 for the CPU; for CUDA 0 where there is no driver or no GPU (that is no error).
 * @param out_count receives the number; not NULL. */
FA_API fa_status fa_device_count(fa_device_type type, int32_t* out_count) FA_NOEXCEPT;

/** Fills *info. @param info struct_size must be set; not NULL. */
FA_API fa_status fa_device_get_info(fa_device device, fa_device_info* info) FA_NOEXCEPT;

/** Waits until all work queued on the device by this process has finished, and reports errors of earlier asynchronous work. */
FA_API fa_status fa_device_synchronize(fa_device device) FA_NOEXCEPT;

/** Sets how many threads the CPU backend uses from the next call on (process-wide). Workspace sizes depend on it.
 * @param num_threads 1 … 1024, or 0 for the number of processors this process may run on. */
FA_API fa_status fa_cpu_set_num_threads(int32_t num_threads) FA_NOEXCEPT;

/** Number of threads that CPU calls use now. @param out_num_threads not NULL. */
FA_API fa_status fa_cpu_get_num_threads(int32_t* out_num_threads) FA_NOEXCEPT;

/* ---- memory ------------------------------------------------------------------------------------------------------------------------- */

/** Allocates device memory (CPU: host memory, 64-byte aligned). Contents are undefined. Zero bytes give NULL. Free with fa_memory_free.
 * @param out_pointer receives the address; not NULL; left as it was on failure. */
FA_API fa_status fa_memory_allocate(fa_device device, uint64_t size_bytes, void** out_pointer) FA_NOEXCEPT;

/** Allocates page-locked host memory, which makes copies to and from a GPU asynchronous. Where there is no CUDA it is plain host memory. Free with
 * fa_memory_free_host. @param out_pointer not NULL; left as it was on failure. */
FA_API fa_status fa_memory_allocate_host(uint64_t size_bytes, void** out_pointer) FA_NOEXCEPT;

/** Frees memory of fa_memory_allocate. NULL is allowed. A pointer that did not come from it, or was freed already, is refused. For CUDA it may wait for
 * queued work that uses the device, as cudaFree does. */
FA_API fa_status fa_memory_free(fa_device device, void* pointer) FA_NOEXCEPT;

/** Frees memory of fa_memory_allocate_host. NULL is allowed; a pointer that did not come from it is refused. */
FA_API fa_status fa_memory_free_host(void* pointer) FA_NOEXCEPT;

/** Copies size_bytes from source to destination, in stream order. Host memory is named by the CPU device. The ranges must not overlap. With pageable host
 * memory CUDA may finish the copy before the call returns. Between two CUDA devices the stream belongs to the destination's device.
 * @param destination not NULL unless size_bytes is 0. @param source not NULL unless size_bytes is 0. */
FA_API fa_status fa_memory_copy(fa_device destination_device, void* destination, fa_device source_device, const void* source, uint64_t size_bytes,
                                fa_stream stream) FA_NOEXCEPT;

/** Sets size_bytes bytes to value, in stream order. @param destination not NULL unless size_bytes is 0. @param value 0 … 255. */
FA_API fa_status fa_memory_set(fa_device device, void* destination, int32_t value, uint64_t size_bytes, fa_stream stream) FA_NOEXCEPT;

/* ---- streams, events, graphs -------------------------------------------------------------------------------------------------------- */

/** Creates a stream that does not synchronise with the default stream (CPU: gives NULL). Destroy with fa_stream_destroy. */
FA_API fa_status fa_stream_create(fa_device device, fa_stream* out_stream) FA_NOEXCEPT;

/** Destroys a stream of fa_stream_create; its queued work still finishes. NULL is allowed. */
FA_API fa_status fa_stream_destroy(fa_device device, fa_stream stream) FA_NOEXCEPT;

/** Waits until all work queued on the stream has finished, and reports its errors. */
FA_API fa_status fa_stream_synchronize(fa_device device, fa_stream stream) FA_NOEXCEPT;

/** A point in a stream with a time stamp. */
typedef struct fa_event_object* fa_event;

/** Creates an event on a device. Destroy with fa_event_destroy. */
FA_API fa_status fa_event_create(fa_device device, fa_event* out_event) FA_NOEXCEPT;

/** Destroys an event. NULL is allowed; anything but a live event is refused. */
FA_API fa_status fa_event_destroy(fa_event event) FA_NOEXCEPT;

/** Marks the work queued on the stream so far. The stream belongs to the event's device. */
FA_API fa_status fa_event_record(fa_event event, fa_stream stream) FA_NOEXCEPT;

/** Makes later work on the stream wait for the event (no wait on the host). An event that was never recorded is complete. */
FA_API fa_status fa_stream_wait_event(fa_device device, fa_stream stream, fa_event event) FA_NOEXCEPT;

/** Tells without waiting whether the recorded work is complete: 1 or 0. An event that was never recorded is complete. */
FA_API fa_status fa_event_query(fa_event event, int32_t* out_complete) FA_NOEXCEPT;

/** Waits for the event. */
FA_API fa_status fa_event_synchronize(fa_event event) FA_NOEXCEPT;

/** Waits for both events and gives the time between them in milliseconds. Both must have been recorded, on the same device. */
FA_API fa_status fa_event_elapsed_ms(fa_event start, fa_event end, float* out_milliseconds) FA_NOEXCEPT;

/** Recorded work of a CUDA stream that can be launched again and again. */
typedef struct fa_graph_object* fa_graph;

/** Starts recording the stream's work into a graph instead of running it (CUDA; the default stream cannot be captured). */
FA_API fa_status fa_stream_begin_capture(fa_device device, fa_stream stream) FA_NOEXCEPT;

/** Ends the recording. Destroy the graph with fa_graph_destroy. */
FA_API fa_status fa_stream_end_capture(fa_device device, fa_stream stream, fa_graph* out_graph) FA_NOEXCEPT;

/** Queues the recorded work on a stream of the same device. */
FA_API fa_status fa_graph_launch(fa_graph graph, fa_stream stream) FA_NOEXCEPT;

/** Destroys a graph. NULL is allowed; anything but a live graph is refused. */
FA_API fa_status fa_graph_destroy(fa_graph graph) FA_NOEXCEPT;

#if defined(__cplusplus)
}
#endif

#endif /* FLASH_ATTENTION_DEVICE_H */
