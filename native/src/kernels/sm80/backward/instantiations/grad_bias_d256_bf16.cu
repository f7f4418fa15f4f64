#include "kernels/sm80/backward/instantiate.cuh"

template fa::sm80::GradBiasKernel fa::sm80::grad_bias_kernel_of<2, __nv_bfloat16>();
