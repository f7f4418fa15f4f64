// Instantiation of a kernel with modified scores.
#pragma once

#include "kernels/sm90/forward/launch_kernel.cuh"

/// Row of kSm90ModifiedForwardTiles and of kSm90ScoreSets, in both element types. Ends without a semicolon.
#define FA_SM90_INSTANTIATE_FORWARD(tile, set)                                                                                  \
  namespace fa::sm90 {                                                                                                          \
  template void launch_forward<ModifiedForward<__half, tile, set>>(const ModifiedForwardParams&, int64_t, cudaStream_t);        \
  template void launch_forward<ModifiedForward<__nv_bfloat16, tile, set>>(const ModifiedForwardParams&, int64_t, cudaStream_t); \
  }

/// The same for the kernels that go through lists of visible tiles.
#define FA_SM90_INSTANTIATE_MASKED_FORWARD(tile)                                                                                       \
  namespace fa::sm90 {                                                                                                                 \
  template void launch_forward<ModifiedForward<__half, tile, kSm90MaskSet>>(const MaskedForwardParams&, int64_t, cudaStream_t);        \
  template void launch_forward<ModifiedForward<__nv_bfloat16, tile, kSm90MaskSet>>(const MaskedForwardParams&, int64_t, cudaStream_t); \
  }
