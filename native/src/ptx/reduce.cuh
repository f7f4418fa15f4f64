// red, atom: atomic additions to global memory, and counters between blocks. Vectors of fp32: PTX ISA 8.1, sm_90.
#pragma once

#include <cstdint>

namespace fa::ptx {

/// Adds four values to four neighbours, each atomically; 16-byte aligned. red.relaxed.gpu.global.add.v4.f32
__device__ __forceinline__ void reduce_add_v4(float* g_destination, float x, float y, float z, float w) {
  asm volatile("red.relaxed.gpu.global.add.v4.f32 [%0], {%1, %2, %3, %4};\n" ::"l"(g_destination), "f"(x), "f"(y), "f"(z), "f"(w) : "memory");
}

/// Four neighbours at once; 16-byte aligned. st.global.v4.f32
__device__ __forceinline__ void store_v4(float* g_destination, float x, float y, float z, float w) {
  asm volatile("st.global.v4.f32 [%0], {%1, %2, %3, %4};\n" ::"l"(g_destination), "f"(x), "f"(y), "f"(z), "f"(w) : "memory");
}

/// Four neighbours that other blocks may have written, at most just before a counter that was read by load_acquire. ld.relaxed.gpu.global.v4.f32
__device__ __forceinline__ void load_v4(const float* g_source, float& x, float& y, float& z, float& w) {
  asm volatile("ld.relaxed.gpu.global.v4.f32 {%0, %1, %2, %3}, [%4];\n" : "=f"(x), "=f"(y), "=f"(z), "=f"(w) : "l"(g_source) : "memory");
}

/// Adds one; release for the device. red.release.gpu.global.add.s32
__device__ __forceinline__ void increment_release(int* g_counter) {
  asm volatile("red.release.gpu.global.add.s32 [%0], 1;\n" ::"l"(g_counter) : "memory");
}

/// Adds one and returns what the counter was; from 2³¹ - 1 on it begins with 0 again. ptxas makes an addition (atom.add, atomicAdd) that may be of several
/// lanes one for the warp, and a shuffle behind it waits for the answer at once; this form is waited for where the value is used.
/// atom.relaxed.gpu.global.inc.u32
__device__ __forceinline__ int fetch_increment_relaxed(int* g_counter) {
  uint32_t value;
  asm volatile("atom.relaxed.gpu.global.inc.u32 %0, [%1], 0x7FFFFFFF;\n" : "=r"(value) : "l"(g_counter) : "memory");
  return static_cast<int>(value);
}

/// Sets bits and returns what the word was. atom.relaxed.gpu.global.or.b32
__device__ __forceinline__ int fetch_or_relaxed(int* g_word, int bits) {
  int value;
  asm volatile("atom.relaxed.gpu.global.or.b32 %0, [%1], %2;\n" : "=r"(value) : "l"(g_word), "r"(bits) : "memory");
  return value;
}

/// Sets bits; release for the device. red.release.gpu.global.or.b32
__device__ __forceinline__ void or_release(int* g_word, int bits) {
  asm volatile("red.release.gpu.global.or.b32 [%0], %1;\n" ::"l"(g_word), "r"(bits) : "memory");
}

/// st.release.gpu.global.s32
__device__ __forceinline__ void store_release(int* g_counter, int value) {
  asm volatile("st.release.gpu.global.s32 [%0], %1;\n" ::"l"(g_counter), "r"(value) : "memory");
}

/// A counter in shared memory that only grows, between threads of a block; both sides atomic, which racecheck knows how to take. s_counter: shared_address of
/// it. red.release.cta.shared.max.s32, atom.acquire.cta.shared.add.s32
__device__ __forceinline__ void raise_release_shared(uint32_t s_counter, int value) {
  asm volatile("red.release.cta.shared::cta.max.s32 [%0], %1;\n" ::"r"(s_counter), "r"(value) : "memory");
}
__device__ __forceinline__ int load_acquire_shared(uint32_t s_counter) {
  int value;
  asm volatile("atom.acquire.cta.shared::cta.add.s32 %0, [%1], 0;\n" : "=r"(value) : "r"(s_counter) : "memory");
  return value;
}

/// ld.relaxed.gpu.global.s32
__device__ __forceinline__ int load_relaxed(const int* g_counter) {
  int value;
  asm volatile("ld.relaxed.gpu.global.s32 %0, [%1];\n" : "=r"(value) : "l"(g_counter) : "memory");
  return value;
}

/// Empties the multiprocessor's first-level cache. ld.acquire.gpu.global.s32
__device__ __forceinline__ int load_acquire(const int* g_counter) {
  int value;
  asm volatile("ld.acquire.gpu.global.s32 %0, [%1];\n" : "=r"(value) : "l"(g_counter) : "memory");
  return value;
}

}  // namespace fa::ptx
