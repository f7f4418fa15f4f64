// The forward kernels that were compiled, one per row of kForward and dtype; each is defined in its own file of instantiations/.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "kernels/sm80/forward/params.h"
#include "plan/sm80_variants.h"

namespace fa::sm80 {

using ForwardKernel = void (*)(ForwardParams);
using ForwardKernelOf = ForwardKernel (*)();

template <int kVariant, class Element>
ForwardKernel forward_kernel_of();

/// The same with ModifiedScores, for the rows of kModifiedForward.
using ModifiedForwardKernel = void (*)(ModifiedForwardParams);
using ModifiedForwardKernelOf = ModifiedForwardKernel (*)();

template <int kVariant, class Element>
ModifiedForwardKernel modified_forward_kernel_of();

}  // namespace fa::sm80
