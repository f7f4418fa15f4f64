#include "kernels/sm80/backward/instantiate.cuh"

template fa::sm80::ModifiedBackwardKernel fa::sm80::modified_backward_kernel_of<1, __nv_bfloat16>();
