// Structs that begin with struct_size: callers of any version of this library are understood.
#include <algorithm>
#include <cstring>

#include "api/validate.h"
#include "plan/error.h"

namespace fa::api {

namespace {

/// A struct this large is no version of ours: the field was not set.
constexpr uint32_t kMaxStructSize = 4096;

uint32_t read_struct_size(const void* pointer, size_t size, size_t minimum, const char* argument, const char* type) {
  require_pointer(pointer, argument, type);
  uint32_t given = 0;
  std::memcpy(&given, pointer, sizeof(given));
  if (given < minimum || given > kMaxStructSize) {
    fail(FA_STATUS_INVALID_ARGUMENT, "%s.struct_size: expected sizeof(%s), %zu, got %u", argument, type, size, given);
  }
  return given;
}

}  // namespace

void require_pointer(const void* pointer, const char* argument, const char* what) {
  if (pointer == nullptr) {
    fail(FA_STATUS_INVALID_ARGUMENT, "%s: expected a pointer to %s, got NULL", argument, what);
  }
}

void copy_sized_struct(void* destination, size_t size, size_t minimum, const void* source, const char* argument, const char* type) {
  const uint32_t given = read_struct_size(source, size, minimum, argument, type);
  const unsigned char* bytes = static_cast<const unsigned char*>(source);
  for (size_t i = size; i < given; ++i) {
    if (bytes[i] != 0) {
      fail(FA_STATUS_UNSUPPORTED, "%s: byte %zu of %s is set, but this library (%d.%d.%d) knows only the first %zu bytes; load a newer library", argument, i,
           type, FA_VERSION_MAJOR, FA_VERSION_MINOR, FA_VERSION_PATCH, size);
    }
  }
  std::memset(destination, 0, size);
  std::memcpy(destination, source, std::min<size_t>(given, size));
}

size_t sized_output(const void* pointer, size_t size, size_t minimum, const char* argument, const char* type) {
  return std::min<size_t>(read_struct_size(pointer, size, minimum, argument, type), size);
}

}  // namespace fa::api
