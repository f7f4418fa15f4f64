// The backward kernels that were compiled; each is defined in its own file of instantiations/ (main and grad_q kernels) or in passes.cu (the small ones).
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "kernels/sm80/backward/params.h"
#include "plan/sm80_variants.h"

namespace fa::sm80 {

using BackwardKernel = void (*)(BackwardParams);
using BackwardKernelOf = BackwardKernel (*)();

template <int kVariant, class Element>
BackwardKernel backward_kernel_of();
template <int kVariant, class Element>
BackwardKernel grad_q_kernel_of();
/// modified: whether a row counts is said by its log-sum-exp, not by the causal mask.
template <class Element>
BackwardKernel prepare_kernel_of(bool modified);
template <class Element>
BackwardKernel finish_kernel_of();
/// Of sequences of different lengths.
using SequencePassKernel = void (*)(SequencePassParams);
template <class Element>
SequencePassKernel prepare_sequence_kernel_of();
template <class Element>
SequencePassKernel finish_sequence_kernel_of();

/// The same with ModifiedScores, for the rows of kModifiedBackward and kModifiedGradQ.
using ModifiedBackwardKernel = void (*)(ModifiedBackwardParams);
using ModifiedBackwardKernelOf = ModifiedBackwardKernel (*)();

template <int kVariant, class Element>
ModifiedBackwardKernel modified_backward_kernel_of();
template <int kVariant, class Element>
ModifiedBackwardKernel modified_grad_q_kernel_of();
ModifiedBackwardKernel grad_sinks_kernel_of();

/// Rows of kGradBias.
using GradBiasKernel = void (*)(GradBiasParams);
using GradBiasKernelOf = GradBiasKernel (*)();

template <int kVariant, class Element>
GradBiasKernel grad_bias_kernel_of();

}  // namespace fa::sm80
