#include "kernels/sm90/grad_bias/launch_kernel.cuh"

template void fa::sm90::launch_shared_grad_bias<fa::sm90::SharedGradBiasConfig<__half, 0>>(const fa::sm90::SharedGradBiasParams&, int, cudaStream_t);
