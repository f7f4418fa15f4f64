// What device code takes for granted, for the emulator: qualifiers, built-in variables, vector types, barriers, shuffles.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include "emulator.h"

/// Lets headers that host code shares with kernels show their device functions.
#define FA_EMULATOR
#define __device__
#define __host__
#define __global__
#define __shared__
#define __grid_constant__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))

using std::max;
using std::min;

namespace emulator {

struct ThreadX {
  operator unsigned() const { return static_cast<unsigned>(thread_index()); }
};
struct BlockX {
  operator unsigned() const { return static_cast<unsigned>(block_index()); }
};
/// Of the grid whose blocks run_block runs; what starts it sets it.
inline unsigned grid_blocks = 0;
struct GridX {
  operator unsigned() const { return grid_blocks; }
};
template <class X>
struct Index {
  X x;
};

inline void meet(Warp&) {
  order_warp();
}

/// in: flag.
inline void ballot(Warp& warp) {
  uint32_t flags = 0;
  for (uint32_t lane = 0; lane < kWarpSize; ++lane) flags |= (warp[lane].in[0] != 0 ? 1u : 0u) << lane;
  for (Lane& lane : warp) lane.out[0] = flags;
}

inline void or_flags(Warp& warp) {
  uint32_t any = 0;
  for (const Lane& lane : warp) any |= lane.in[0];
  for (Lane& lane : warp) lane.out[0] = any;
}

/// in: value, lane mask.
inline void shuffle_xor(Warp& warp) {
  for (uint32_t lane = 0; lane < kWarpSize; ++lane) warp[lane].out[0] = warp[lane ^ warp[lane].in[1]].in[0];
}
inline void shuffle(Warp& warp) {
  for (uint32_t lane = 0; lane < kWarpSize; ++lane) warp[lane].out[0] = warp[warp[lane].in[1]].in[0];
}

}  // namespace emulator

inline constexpr emulator::Index<emulator::ThreadX> threadIdx{};
inline constexpr emulator::Index<emulator::BlockX> blockIdx{};
inline constexpr emulator::Index<emulator::GridX> gridDim{};

struct float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};
struct alignas(16) int4 {
  int x, y, z, w;
};

inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) {
  return {x, y, z, w};
}
inline int4 make_int4(int x, int y, int z, int w) {
  return {x, y, z, w};
}

inline float4 make_float4(float x, float y, float z, float w) {
  return {x, y, z, w};
}

/// Hints to the caches are all that sets these apart.
template <class Value>
Value __ldcg(const Value* address) {
  return *address;
}
template <class Value>
void __stcg(Value* address, Value value) {
  *address = value;
}

inline float __int_as_float(int bits) {
  return std::bit_cast<float>(bits);
}
inline float __uint_as_float(uint32_t bits) {
  return std::bit_cast<float>(bits);
}

inline int __clz(unsigned bits) {
  return std::countl_zero(bits);
}
inline int __ffs(int bits) {
  return bits == 0 ? 0 : std::countr_zero(static_cast<unsigned>(bits)) + 1;
}
inline int __popc(unsigned bits) {
  return std::popcount(bits);
}
inline uint32_t __umulhi(uint32_t a, uint32_t b) {
  return static_cast<uint32_t>(uint64_t{a} * b >> 32);
}
/// As the device does where the divisor is not finite.
inline float __fdividef(float dividend, float divisor) {
  return std::isinf(divisor) ? std::numeric_limits<float>::quiet_NaN() : dividend / divisor;
}

inline int __float_as_int(float x) {
  return std::bit_cast<int>(x);
}
inline float __log2f(float x) {
  return std::log2(x);
}

inline void __syncthreads() {
  emulator::block_barrier(false);
}
/// Blocks run one after the other.
inline void __threadfence() {}
inline void __threadfence_block() {}
inline int __syncthreads_or(int flag) {
  return emulator::block_barrier(flag != 0);
}
inline void __syncwarp() {
  emulator::warp_wide(emulator::meet, {});
}
inline int __any_sync(unsigned, int flag) {
  return static_cast<int>(emulator::warp_wide(emulator::or_flags, {flag != 0})[0]);
}
inline int __all_sync(unsigned, int flag) {
  return static_cast<int>(emulator::warp_wide(emulator::or_flags, {flag == 0})[0] == 0);
}
inline unsigned __ballot_sync(unsigned, int flag) {
  return emulator::warp_wide(emulator::ballot, {flag != 0})[0];
}
inline int __shfl_sync(unsigned, int value, int lane) {
  return static_cast<int>(emulator::warp_wide(emulator::shuffle, {static_cast<uint32_t>(value), static_cast<uint32_t>(lane)})[0]);
}
inline unsigned __shfl_xor_sync(unsigned, unsigned value, int lane_mask) {
  return emulator::warp_wide(emulator::shuffle_xor, {value, static_cast<uint32_t>(lane_mask)})[0];
}
inline float __shfl_xor_sync(unsigned, float value, int lane_mask) {
  return std::bit_cast<float>(emulator::warp_wide(emulator::shuffle_xor, {std::bit_cast<uint32_t>(value), static_cast<uint32_t>(lane_mask)})[0]);
}

template <class Number>
Number atomicAdd(Number* address, Number value) {
  const Number before = *address;
  *address = before + value;
  return before;
}
