#include "kernels/sm90/forward/launch_modified.cuh"

FA_SM90_INSTANTIATE_FORWARD(kSm90NarrowRangeForwardTile, 1)
