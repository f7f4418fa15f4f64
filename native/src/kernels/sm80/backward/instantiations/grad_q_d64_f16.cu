#include "kernels/sm80/backward/instantiate.cuh"

template fa::sm80::BackwardKernel fa::sm80::grad_q_kernel_of<0, __half>();
