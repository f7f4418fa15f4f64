#include "kernels/sm80/forward/instantiate.cuh"

template fa::sm80::ModifiedForwardKernel fa::sm80::modified_forward_kernel_of<6, __half>();
