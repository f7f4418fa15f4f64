#include "kernels/sm80/backward/instantiate.cuh"

template fa::sm80::BackwardKernel fa::sm80::backward_kernel_of<9, __nv_bfloat16>();
