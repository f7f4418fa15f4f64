// Stands in for native/src/ptx/cp_async.cuh.
#pragma once

#include <cstdint>

#include "emulator.h"

namespace fa::ptx {

inline void cp_async_16(uint32_t s_dst, const void* g_src, int src_bytes) {
  emulator::copy_async(s_dst, g_src, src_bytes);
}

inline void cp_async_16(uint32_t s_dst, const void* g_src) {
  emulator::copy_async(s_dst, g_src, 16);
}

inline void cp_async_commit() {
  emulator::commit_copies();
}

template <int kPending>
void cp_async_wait() {
  emulator::wait_for_copies(kPending);
}

}  // namespace fa::ptx
