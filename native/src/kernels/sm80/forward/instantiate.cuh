// What a file of instantiations/ includes: it compiles one kernel, of one variant and dtype.
#pragma once

#include "kernels/sm80/forward/kernel.cuh"
#include "kernels/sm80/forward/table.h"

namespace fa::sm80 {

template <int kVariant, class Element>
ForwardKernel forward_kernel_of() {
  return forward_kernel<ForwardConfig<Element, ForwardRow<kVariant>>>;
}

template <int kVariant, class Element>
ModifiedForwardKernel modified_forward_kernel_of() {
  return forward_kernel<ForwardConfig<Element, ForwardRow<kVariant>, ModifiedScores>>;
}

}  // namespace fa::sm80
