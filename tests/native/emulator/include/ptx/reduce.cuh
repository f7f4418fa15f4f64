// Stand-in for native/src/ptx/reduce.cuh.
#pragma once

namespace fa::ptx {

inline int fetch_increment_relaxed(int* counter) {
  return (*counter)++;
}

}  // namespace fa::ptx
