#include "kernels/sm90/backward/launch_kernel.cuh"

template void fa::sm90::launch_backward<fa::sm90::BackwardConfig<__half, fa::sm90::PlannedBackwardTile<11>>>(const fa::sm90::BackwardParams&, cudaStream_t);
