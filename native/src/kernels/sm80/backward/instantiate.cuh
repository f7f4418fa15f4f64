// What a file of instantiations/ includes: it compiles one kernel, of one variant and dtype.
#pragma once

#include "kernels/sm80/backward/grad_bias.cuh"
#include "kernels/sm80/backward/grad_q.cuh"
#include "kernels/sm80/backward/kernel.cuh"
#include "kernels/sm80/backward/table.h"

namespace fa::sm80 {

template <int kVariant, class Element>
BackwardKernel backward_kernel_of() {
  return backward_kernel<BackwardConfig<Element, BackwardRow<kVariant>>>;
}

template <int kVariant, class Element>
BackwardKernel grad_q_kernel_of() {
  return grad_q_kernel<GradQConfig<Element, GradQRow<kVariant>>>;
}

template <int kVariant, class Element>
ModifiedBackwardKernel modified_backward_kernel_of() {
  return backward_kernel<BackwardConfig<Element, BackwardRow<kVariant>, ModifiedScores>>;
}

template <int kVariant, class Element>
ModifiedBackwardKernel modified_grad_q_kernel_of() {
  return grad_q_kernel<GradQConfig<Element, GradQRow<kVariant>, ModifiedScores>>;
}

template <int kVariant, class Element>
GradBiasKernel grad_bias_kernel_of() {
  return grad_bias_kernel<GradBiasConfig<Element, GradBiasRow<kVariant>>>;
}

}  // namespace fa::sm80
