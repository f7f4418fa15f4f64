// fence.proxy.async: between ordinary accesses to memory and those of the asynchronous proxy (TMA, wgmma operands). PTX ISA 8.0, sm_90.
#pragma once

namespace fa::ptx {

/// Makes this thread's earlier ordinary writes to shared memory visible to the asynchronous proxy; each writer executes it, then a barrier follows.
/// fence.proxy.async.shared::cta
__device__ __forceinline__ void fence_proxy_async_shared() {
  asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory");
}

/// The same for global memory, also for what this thread knows of other threads' writes. fence.proxy.async.global
__device__ __forceinline__ void fence_proxy_async_global() {
  asm volatile("fence.proxy.async.global;\n" ::: "memory");
}

}  // namespace fa::ptx
