// Stand-in for native/src/ptx/tma.cuh: a load leaves its coordinates where its box goes. A map holds the bytes of its boxes.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "ptx/mbarrier.cuh"

namespace fa::ptx {

enum class L2Hint : uint64_t { kEvictNormal, kEvictFirst, kEvictLast };

struct LoadedBox {
  const CUtensorMap* map;
  int c0, c1, c2, c3;
};

inline void tma_load_4d(const CUtensorMap* map, uint64_t* barrier, void* s_destination, int c0, int c1, int c2, int c3, L2Hint) {
  *static_cast<LoadedBox*>(s_destination) = {map, c0, c1, c2, c3};
  model::add(barrier, 0, -*reinterpret_cast<const int32_t*>(map->opaque));
}

}  // namespace fa::ptx
