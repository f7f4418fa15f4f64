// Two neighbouring 16-bit elements of a row.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace fa::sm90 {

template <typename Element>
struct PairOf;
template <>
struct PairOf<__half> {
  using Type = __half2;
};
template <>
struct PairOf<__nv_bfloat16> {
  using Type = __nv_bfloat162;
};

__device__ __forceinline__ float2 to_float2(__half2 pair) {
  return __half22float2(pair);
}
__device__ __forceinline__ float2 to_float2(__nv_bfloat162 pair) {
  return __bfloat1622float2(pair);
}

/// Both elements the same value.
template <typename Element>
__device__ __forceinline__ typename PairOf<Element>::Type pair_of(float value);
template <>
__device__ __forceinline__ __half2 pair_of<__half>(float value) {
  return __float2half2_rn(value);
}
template <>
__device__ __forceinline__ __nv_bfloat162 pair_of<__nv_bfloat16>(float value) {
  return __float2bfloat162_rn(value);
}

}  // namespace fa::sm90
