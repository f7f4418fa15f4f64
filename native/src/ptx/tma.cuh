// TMA: copies of boxes of a tensor between global and shared memory by the tensor memory accelerator. PTX ISA 8.0, sm_90.
//
// A copy is issued by one thread. The tensor map must be in constant, parameter or global memory. Elements of a box outside the tensor are read as zero and are
// never written; a load always delivers all bytes of its box to the barrier.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "ptx/mbarrier.cuh"

namespace fa::ptx {

/// How long L2 should keep what a copy touches: encoded cache policies, as createpolicy.fractional gives them for the whole of an access.
enum class L2Hint : uint64_t { kEvictNormal = 0x1000000000000000, kEvictFirst = 0x12F0000000000000, kEvictLast = 0x14F0000000000000 };

/// Brings a tensor map into the descriptor cache. prefetch.tensormap
__device__ __forceinline__ void tma_prefetch_map(const CUtensorMap* map) {
  asm volatile("prefetch.tensormap [%0];\n" ::"l"(map) : "memory");
}

/// Loads the box at coordinates (c0, c1, c2, c3), innermost first, and reports its bytes to the barrier.
/// cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.L2::cache_hint
__device__ __forceinline__ void tma_load_4d(const CUtensorMap* map, uint64_t* barrier, void* s_destination, int c0, int c1, int c2, int c3, L2Hint hint) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1, {%3, %4, %5, %6}], [%2], %7;\n" ::"r"(
          shared_address(s_destination)),
      "l"(map), "r"(shared_address(barrier)), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "l"(static_cast<uint64_t>(hint))
      : "memory");
}

/// Loads the box at coordinates (c0, c1) of a matrix, innermost first, and reports its bytes to the barrier.
/// cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes
__device__ __forceinline__ void tma_load_2d(const CUtensorMap* map, uint64_t* barrier, void* s_destination, int c0, int c1) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];\n" ::"r"(shared_address(s_destination)),
      "l"(map), "r"(shared_address(barrier)), "r"(c0), "r"(c1)
      : "memory");
}

/// Stores a box at coordinates (c0, c1, c2, c3). The writers of the box must have executed fence_proxy_async_shared before a barrier with this thread.
/// cp.async.bulk.tensor.4d.global.shared::cta.tile.bulk_group
__device__ __forceinline__ void tma_store_4d(const CUtensorMap* map, const void* s_source, int c0, int c1, int c2, int c3) {
  asm volatile("cp.async.bulk.tensor.4d.global.shared::cta.tile.bulk_group [%0, {%2, %3, %4, %5}], [%1];\n" ::"l"(map), "r"(shared_address(s_source)), "r"(c0),
               "r"(c1), "r"(c2), "r"(c3)
               : "memory");
}

/// Adds a box to the tensor, of the map's type, each element rounded to it, under the conditions of tma_store_4d.
/// cp.reduce.async.bulk.tensor.4d.global.shared::cta.add.tile.bulk_group
__device__ __forceinline__ void tma_reduce_add_4d(const CUtensorMap* map, const void* s_source, int c0, int c1, int c2, int c3) {
  asm volatile("cp.reduce.async.bulk.tensor.4d.global.shared::cta.add.tile.bulk_group [%0, {%2, %3, %4, %5}], [%1];\n" ::"l"(map),
               "r"(shared_address(s_source)), "r"(c0), "r"(c1), "r"(c2), "r"(c3)
               : "memory");
}

/// Closes a group of this thread's stores. cp.async.bulk.commit_group
__device__ __forceinline__ void tma_store_commit() {
  asm volatile("cp.async.bulk.commit_group;\n" ::: "memory");
}

/// Returns when the shared memory of all of this thread's closed groups has been read and may be written again. cp.async.bulk.wait_group.read
__device__ __forceinline__ void tma_store_wait_read() {
  asm volatile("cp.async.bulk.wait_group.read 0;\n" ::: "memory");
}

}  // namespace fa::ptx
