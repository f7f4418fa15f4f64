// griddepcontrol: programmatic dependent launch. A kernel launched with that attribute may begin while the kernel in front of it in the stream still runs.
// PTX ISA 7.8, sm_90.
#pragma once

namespace fa::ptx {

/// Lets the next kernel of the stream begin, if it was launched so, once all blocks of this one have said so or ended. griddepcontrol.launch_dependents
__device__ __forceinline__ void launch_dependents() {
  asm volatile("griddepcontrol.launch_dependents;\n" ::: "memory");
}

/// Returns when the kernel in front has ended and its memory accesses are visible. Every kernel that is launched so must execute it before it touches memory
/// that kernels in front write or read. griddepcontrol.wait
__device__ __forceinline__ void wait_for_previous_kernel() {
  asm volatile("griddepcontrol.wait;\n" ::: "memory");
}

}  // namespace fa::ptx
