#include "kernels/sm90/backward/config.h"
#include "kernels/sm90/backward_pair/launch_kernel.cuh"

template void fa::sm90::launch_backward_pair<fa::sm90::BackwardPairConfig<__half, fa::sm90::PlannedBackwardTile<6>>>(const fa::sm90::BackwardParams&,
                                                                                                                     cudaStream_t);
