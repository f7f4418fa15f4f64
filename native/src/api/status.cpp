// Status names, the last error message, versions.
#include <cstdio>
#include <cstring>

#include "api/guard.h"
#include "runtime/backend.h"

#define FA_STRINGIZE_(x) #x
#define FA_STRINGIZE(x) FA_STRINGIZE_(x)

namespace fa::api {

namespace {

thread_local char t_message[kMaxMessageBytes] = {};

#if defined(__clang__)
#define FA_COMPILER "clang " __clang_version__
#elif defined(__GNUC__)
#define FA_COMPILER "gcc " __VERSION__
#elif defined(_MSC_VER)
#define FA_COMPILER "MSVC " FA_STRINGIZE(_MSC_VER)
#else
#define FA_COMPILER "unknown compiler"
#endif

}  // namespace

fa_status record(fa_status status, const char* function, const char* message) noexcept {
  std::snprintf(t_message, sizeof(t_message), "%s: %s", function, message);
  return status;
}

}  // namespace fa::api

extern "C" {

const char* fa_status_name(fa_status status) FA_NOEXCEPT {
  switch (status) {
    case FA_STATUS_OK:
      return "FA_STATUS_OK";
    case FA_STATUS_INVALID_ARGUMENT:
      return "FA_STATUS_INVALID_ARGUMENT";
    case FA_STATUS_UNSUPPORTED:
      return "FA_STATUS_UNSUPPORTED";
    case FA_STATUS_WORKSPACE_TOO_SMALL:
      return "FA_STATUS_WORKSPACE_TOO_SMALL";
    case FA_STATUS_OUT_OF_MEMORY:
      return "FA_STATUS_OUT_OF_MEMORY";
    case FA_STATUS_DEVICE_UNAVAILABLE:
      return "FA_STATUS_DEVICE_UNAVAILABLE";
    case FA_STATUS_DEVICE_ERROR:
      return "FA_STATUS_DEVICE_ERROR";
    case FA_STATUS_INTERNAL_ERROR:
      return "FA_STATUS_INTERNAL_ERROR";
    default:
      return "FA_STATUS_UNKNOWN";
  }
}

const char* fa_last_error_message(void) FA_NOEXCEPT {
  return fa::api::t_message;
}

const char* fa_version(void) FA_NOEXCEPT {
  return FA_STRINGIZE(FA_VERSION_MAJOR) "." FA_STRINGIZE(FA_VERSION_MINOR) "." FA_STRINGIZE(FA_VERSION_PATCH);
}

int32_t fa_abi_version(void) FA_NOEXCEPT {
  return FA_ABI_VERSION;
}

const char* fa_build_info(void) FA_NOEXCEPT {
  // Built once; initialisation of a function's static is thread-safe.
  struct Text {
    char value[256];
    Text() {
      std::snprintf(value, sizeof(value), "flash_attention %s, %s, %s, CPU %s", fa_version(), FA_COMPILER, fa::cuda_build_info(), fa::cpu_instruction_set());
    }
  };
  static const Text text;
  return text.value;
}

}  // extern "C"
