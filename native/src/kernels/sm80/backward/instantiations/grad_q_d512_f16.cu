#include "kernels/sm80/backward/instantiate.cuh"

template fa::sm80::BackwardKernel fa::sm80::grad_q_kernel_of<4, __half>();
