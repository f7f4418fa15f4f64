// Stands in for native/src/ptx/register_pair.cuh.
#pragma once

namespace fa::ptx {

inline void keep_in_register_pair(float, float) {}

}  // namespace fa::ptx
