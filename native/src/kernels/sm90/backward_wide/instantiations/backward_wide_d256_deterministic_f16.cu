#include "kernels/sm90/backward/config.h"
#include "kernels/sm90/backward_wide/launch_kernel.cuh"

template void fa::sm90::launch_backward_wide<fa::sm90::BackwardWideConfig<__half, fa::sm90::PlannedBackwardTile<8>>>(const fa::sm90::BackwardParams&,
                                                                                                                     cudaStream_t);
