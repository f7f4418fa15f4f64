// The library's one error type: a status and the message that fa_last_error_message() will return. Only src/api catches it.
#pragma once

#include <cstdarg>
#include <cstdio>
#include <exception>

#include "flash_attention/types.h"

// Lets the compiler check a printf format (parameter `format`, counted from 1) against the arguments from `first` on. MinGW has two printf dialects; the C++
// library's functions use the standard one.
#if defined(__MINGW32__) && !defined(__clang__)
#define FA_PRINTF_FORMAT(format_parameter, first) __attribute__((format(gnu_printf, format_parameter, first)))
#elif defined(__GNUC__)
#define FA_PRINTF_FORMAT(format_parameter, first) __attribute__((format(printf, format_parameter, first)))
#else
#define FA_PRINTF_FORMAT(format_parameter, first)
#endif

namespace fa {

/// Longest message including its terminating NUL; longer ones are cut.
inline constexpr int kMaxMessageBytes = 2048;

class Error final : public std::exception {
 public:
  Error(fa_status status, const char* format, std::va_list arguments) noexcept : status_(status) {
    std::vsnprintf(message_, sizeof(message_), format, arguments);
  }
  fa_status status() const noexcept { return status_; }
  const char* what() const noexcept override { return message_; }

 private:
  fa_status status_;
  char message_[kMaxMessageBytes];
};

/// Throws Error with a printf-formatted message: argument, what was expected, what came.
[[noreturn]] FA_PRINTF_FORMAT(2, 3) inline void fail(fa_status status, const char* format, ...) {
  std::va_list arguments;
  va_start(arguments, format);
  Error error(status, format, arguments);
  va_end(arguments);
  throw error;
}

}  // namespace fa
