// Keeps every exception inside the library and turns it into a status and a thread-local message.
#pragma once

#include <exception>
#include <new>

#include "flash_attention/types.h"
#include "plan/error.h"

namespace fa::api {

/// Records the message of a failed call for fa_last_error_message and passes the status on. The function's name goes in front.
fa_status record(fa_status status, const char* function, const char* message) noexcept;

/// Runs the body of an export. function: the export's own name, for the message.
template <class Body>
fa_status guard(const char* function, Body&& body) noexcept {
  try {
    body();
    return FA_STATUS_OK;
  } catch (const Error& error) {
    return record(error.status(), function, error.what());
  } catch (const std::bad_alloc&) {
    return record(FA_STATUS_OUT_OF_MEMORY, function, "host memory is exhausted");
  } catch (const std::exception& error) {
    return record(FA_STATUS_INTERNAL_ERROR, function, error.what());
  } catch (...) {
    return record(FA_STATUS_INTERNAL_ERROR, function, "an unknown exception was thrown");
  }
}

}  // namespace fa::api
