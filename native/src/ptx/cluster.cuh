// Thread block clusters: blocks that run at the same time on neighbouring multiprocessors and reach each other's shared memory. PTX ISA 7.8 to 8.0, sm_90.
//
// The blocks of a cluster have shared memory of the same layout; an address in the own block's window, mapped to another block, names the same place there.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "ptx/ldmatrix.cuh"
#include "ptx/tma.cuh"

namespace fa::ptx {

/// The block's number in its cluster. %cluster_ctarank
__device__ __forceinline__ int cluster_rank() {
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return static_cast<int>(rank);
}

/// Waits for all threads of the cluster and orders their memory accesses; also keeps blocks alive until their neighbours are done with their shared memory.
/// barrier.cluster.arrive.release, barrier.cluster.wait.acquire
__device__ __forceinline__ void cluster_sync() {
  asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;\n" ::: "memory");
}

/// The address of an object of the own block's shared memory in block `rank` of the cluster. mapa.shared::cluster.u32
__device__ __forceinline__ uint32_t cluster_address(const void* s_pointer, int rank) {
  uint32_t address;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;\n" : "=r"(address) : "r"(shared_address(s_pointer)), "r"(rank));
  return address;
}

// Arrivals at barriers anywhere in the cluster have the default scope, the block: they order asynchronous accesses (products and copies that were waited for),
// not ordinary ones of different blocks. With the scope of the cluster each is preceded by a fence that waits for everything in flight, the additions to global
// memory included.

/// One arrival at a barrier anywhere in the cluster. mbarrier.arrive.shared::cluster.b64
__device__ __forceinline__ void mbarrier_arrive_cluster(uint32_t barrier_address) {
  asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];\n" ::"r"(barrier_address) : "memory");
}

/// One arrival at a barrier anywhere in the cluster, and `bytes` more to come from copies. mbarrier.arrive.expect_tx.shared::cluster.b64
__device__ __forceinline__ void mbarrier_arrive_expect_tx_cluster(uint32_t barrier_address, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cluster.b64 _, [%0], %1;\n" ::"r"(barrier_address), "r"(bytes) : "memory");
}

/// Copies `bytes` from the own block's shared memory to the cluster address s_destination and reports them to the barrier, which must be in the destination's
/// block. The writers of the source must have executed fence_proxy_async_shared before a barrier with this thread.
/// cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes
__device__ __forceinline__ void bulk_copy_cluster(uint32_t s_destination, const void* s_source, uint32_t bytes, uint32_t barrier_address) {
  asm volatile("cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];\n" ::"r"(s_destination),
               "r"(shared_address(s_source)), "r"(bytes), "r"(barrier_address)
               : "memory");
}

/// As tma_load_4d, but into all blocks of the cluster whose bit is set in `blocks`: at the same place in each, and its bytes reported to the same barrier in
/// each. cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster.L2::cache_hint
__device__ __forceinline__ void tma_load_4d_multicast(const CUtensorMap* map, uint64_t* barrier, void* s_destination, uint16_t blocks, int c0, int c1, int c2,
                                                      int c3, L2Hint hint) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster.L2::cache_hint [%0], [%1, {%4, %5, %6, %7}], [%2], "
      "%3, %8;\n" ::"r"(shared_address(s_destination)),
      "l"(map), "r"(shared_address(barrier)), "h"(blocks), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "l"(static_cast<uint64_t>(hint))
      : "memory");
}

}  // namespace fa::ptx
