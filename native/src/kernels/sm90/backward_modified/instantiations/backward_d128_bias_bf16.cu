#include "kernels/sm90/backward_modified/launch_kernel.cuh"

template void fa::sm90::launch_modified_backward<fa::sm90::ModifiedBackwardConfig<__nv_bfloat16, 1, 4>>(const fa::sm90::ModifiedBackwardParams&, int,
                                                                                                        cudaStream_t);
