// cp.async.bulk: linear copies from shared to global memory by the tensor memory accelerator, without a tensor map. PTX ISA 8.0, sm_90.
//
// One thread issues a copy. Addresses and sizes are multiples of 16 bytes.
#pragma once

#include <cstdint>

#include "ptx/mbarrier.cuh"

namespace fa::ptx {

/// Stores shared memory, under the conditions of bulk_reduce_add. cp.async.bulk.global.shared::cta.bulk_group
__device__ __forceinline__ void bulk_store(float* g_destination, const float* s_source, uint32_t bytes) {
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;\n" ::"l"(g_destination), "r"(shared_address(s_source)), "r"(bytes) : "memory");
}

/// Adds fp32 values in shared memory to global memory, each atomically, in no particular order. The writers of the source must have executed
/// fence_proxy_async_shared before a barrier with this thread. cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32
__device__ __forceinline__ void bulk_reduce_add(float* g_destination, const float* s_source, uint32_t bytes) {
  asm volatile("cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [%0], [%1], %2;\n" ::"l"(g_destination), "r"(shared_address(s_source)), "r"(bytes)
               : "memory");
}

/// Closes a group of this thread's copies from shared memory. cp.async.bulk.commit_group
__device__ __forceinline__ void bulk_commit() {
  asm volatile("cp.async.bulk.commit_group;\n" ::: "memory");
}

/// Returns when the sources of all of this thread's closed groups have been read. cp.async.bulk.wait_group.read
__device__ __forceinline__ void bulk_wait_read() {
  asm volatile("cp.async.bulk.wait_group.read 0;\n" ::: "memory");
}

/// Returns when all of this thread's closed groups are complete, their writes included. cp.async.bulk.wait_group
__device__ __forceinline__ void bulk_wait() {
  asm volatile("cp.async.bulk.wait_group 0;\n" ::: "memory");
}

}  // namespace fa::ptx
