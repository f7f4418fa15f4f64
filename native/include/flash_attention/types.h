/* Common types of the C ABI: export macro, version, status codes, devices, tensors.
 *
 * Rules that hold for every function of this library:
 *  - it returns an fa_status; on failure fa_last_error_message() names the argument, what was expected and what came;
 *  - everything is validated before the first side effect: a call that fails validation has written nothing;
 *  - it never throws, prints, exits or aborts;
 *  - the caller owns all memory passed in, and the library keeps no pointer to it after the call (for CUDA: after the
 *    work queued on the stream has finished);
 *  - it may be called from any number of threads at once, unless its comment says otherwise;
 *  - only a function whose name says so (…_synchronize, …_elapsed_ms) waits for a device. */
#ifndef FLASH_ATTENTION_TYPES_H
#define FLASH_ATTENTION_TYPES_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#if defined(FLASH_ATTENTION_BUILD)
#define FA_API __declspec(dllexport)
#elif defined(FLASH_ATTENTION_STATIC)
#define FA_API
#else
#define FA_API __declspec(dllimport)
#endif
#elif defined(__GNUC__)
#define FA_API __attribute__((visibility("default")))
#else
#define FA_API
#endif

#if defined(__cplusplus)
#define FA_NOEXCEPT noexcept
#else
#define FA_NOEXCEPT
#endif

/** Version of the product (semantic versioning). */
#define FA_VERSION_MAJOR 0
#define FA_VERSION_MINOR 2
#define FA_VERSION_PATCH 0

/** Version of the binary interface. It changes only when an existing struct layout, constant or signature changes meaning;
 * fields appended to a struct that starts with struct_size, and new functions, do not change it. */
#define FA_ABI_VERSION 1

#if defined(__cplusplus)
extern "C" {
#endif

/** Result of a call, one of fa_status_value. */
typedef int32_t fa_status;

enum fa_status_value {
  /** Success. */
  FA_STATUS_OK = 0,
  /** An argument is wrong by itself or contradicts another one; the message names it. */
  FA_STATUS_INVALID_ARGUMENT = 1,
  /** The arguments are meaningful, but no kernel of this build and device computes this problem; the message says which would. */
  FA_STATUS_UNSUPPORTED = 2,
  /** workspace_bytes is smaller than the matching …_workspace_size call reported. */
  FA_STATUS_WORKSPACE_TOO_SMALL = 3,
  /** Host or device memory could not be allocated. */
  FA_STATUS_OUT_OF_MEMORY = 4,
  /** The device does not exist here: no driver, no such index, or a library built without this backend. */
  FA_STATUS_DEVICE_UNAVAILABLE = 5,
  /** The device or its driver reported an error; the message carries the driver's own words. */
  FA_STATUS_DEVICE_ERROR = 6,
  /** A defect of this library. */
  FA_STATUS_INTERNAL_ERROR = 7
};

/** Element type, one of fa_dtype_value. */
typedef int32_t fa_dtype;

enum fa_dtype_value {
  /** IEEE 754 binary32. Computed on the CPU only. */
  FA_DTYPE_FLOAT32 = 0,
  /** IEEE 754 binary16. */
  FA_DTYPE_FLOAT16 = 1,
  /** bfloat16: the upper half of binary32. */
  FA_DTYPE_BFLOAT16 = 2,
  /** Unsigned bytes, 0 or not 0: boolean masks only. */
  FA_DTYPE_UINT8 = 3
};

/** Kind of device, one of fa_device_type_value. */
typedef int32_t fa_device_type;

enum fa_device_type_value {
  /** Host memory, computed by the CPU backend before the call returns. Its only index is 0. */
  FA_DEVICE_CPU = 0,
  /** An NVIDIA GPU; the index is the CUDA runtime's device ordinal. Calls queue work on a stream and return. */
  FA_DEVICE_CUDA = 1
};

/** A device: where the pointers of a call live and where it is computed. */
typedef struct fa_device {
  /** One of fa_device_type_value. */
  fa_device_type type;
  /** Ordinal among the devices of that type, from 0. */
  int32_t index;
} fa_device;

/** Queue of work on a device. For CUDA a cudaStream_t (or CUstream) of any origin, NULL being the default stream; for the CPU
 * always NULL, since CPU calls are complete when they return. */
typedef void* fa_stream;

/** Number of dimensions of every fa_tensor. */
#define FA_TENSOR_RANK 4

/** A strided view of memory on the call's device, logically (batch, sequence, heads, head_dim). This layout never grows.
 *
 * Any memory order can be described: (batch, sequence, heads, head_dim) and (batch, heads, sequence, head_dim) tensors and slices of a packed QKV
 * buffer need no copy. */
typedef struct fa_tensor {
  /** Address of element (0,0,0,0), aligned to the element size. May be NULL only if some size is 0, or where a call reads shapes only. */
  void* data;
  /** Extents in elements: batch, sequence, heads, head_dim; none negative. */
  int64_t sizes[4];
  /** Distance in elements between neighbours along each dimension; none negative. strides[3] must be 1 unless sizes[3] <= 1. Inputs may use
   * stride 0 (a broadcast view); elements of an output must be distinct. The stride of a dimension of size 0 or 1 is ignored. */
  int64_t strides[4];
  /** One of fa_dtype_value. */
  fa_dtype dtype;
  /** Must be 0. */
  int32_t reserved;
} fa_tensor;

/** Name of a status constant, e.g. "FA_STATUS_INVALID_ARGUMENT"; "FA_STATUS_UNKNOWN" for any other value. Static memory, never NULL. */
FA_API const char* fa_status_name(fa_status status) FA_NOEXCEPT;

/** Message of the last failed call on this thread, UTF-8, at most 2047 bytes; "" if none failed yet. A successful call leaves it as it is. The
 * memory belongs to the library and is valid until the next failing call on the same thread. Never NULL. */
FA_API const char* fa_last_error_message(void) FA_NOEXCEPT;

/** Product version of the loaded library, e.g. "0.2.0". Static memory. */
FA_API const char* fa_version(void) FA_NOEXCEPT;

/** FA_ABI_VERSION of the loaded library. A caller compiled against another value must not make any further call. */
FA_API int32_t fa_abi_version(void) FA_NOEXCEPT;

/** One line about how the loaded library was built: compiler, CUDA toolkit and GPU architectures or "no CUDA", CPU instruction sets. Static memory. */
FA_API const char* fa_build_info(void) FA_NOEXCEPT;

#if defined(__cplusplus)
}
#endif

#endif /* FLASH_ATTENTION_TYPES_H */
