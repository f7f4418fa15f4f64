#include "kernels/sm80/forward/instantiate.cuh"

template fa::sm80::ForwardKernel fa::sm80::forward_kernel_of<8, __half>();
