#include "kernels/sm90/backward_modified/launch_kernel.cuh"

template void fa::sm90::launch_modified_backward<fa::sm90::ModifiedBackwardConfig<__half, 0, 5>>(const fa::sm90::ModifiedBackwardParams&, int, cudaStream_t);
