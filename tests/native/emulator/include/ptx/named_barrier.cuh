// Stand-in for native/src/ptx/named_barrier.cuh.
#pragma once

#include "emulator.h"

namespace fa::ptx {

inline void named_barrier_sync(int id, int threads) {
  emulator::named_barrier(id, threads);
}

}  // namespace fa::ptx
