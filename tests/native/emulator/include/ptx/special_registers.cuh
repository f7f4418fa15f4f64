// Stands in for native/src/ptx/special_registers.cuh.
#pragma once

#include "emulator.h"

namespace fa::ptx {

inline int thread_index_anew() {
  return emulator::thread_index();
}

inline int block_index_anew() {
  return emulator::block_index();
}

}  // namespace fa::ptx
