#include "kernels/sm90/forward/launch_kernel.cuh"

namespace fa::sm90 {

template void launch_forward<ForwardConfig<__half, SharingPlannedTile<6>>>(const SharedForwardParams&, int64_t, cudaStream_t);
template void launch_forward<ForwardConfig<__nv_bfloat16, SharingPlannedTile<6>>>(const SharedForwardParams&, int64_t, cudaStream_t);

}  // namespace fa::sm90
