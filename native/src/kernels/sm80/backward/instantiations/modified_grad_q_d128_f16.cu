#include "kernels/sm80/backward/instantiate.cuh"

template fa::sm80::ModifiedBackwardKernel fa::sm80::modified_grad_q_kernel_of<1, __half>();
