#include "attention/visible_tiles.cuh"
#include "kernels/sm90/visible_tiles/prepare.h"
#include "ptx/grid_dependency.cuh"
#include "runtime/launch_dependent.h"

namespace fa {
namespace {

__global__ void __launch_bounds__(VisibleUnitsConfig::kThreads) visible_units_kernel(const __grid_constant__ VisibleTilesJob job) {
  __shared__ VisibleUnitsConfig::Shared s_shared;
  ptx::launch_dependents();
  VisibleUnitsBlock<VisibleUnitsConfig>(job, s_shared).run();
}

__global__ void __launch_bounds__(VisibleListsConfig::kThreads) visible_lists_kernel(const __grid_constant__ VisibleTilesJob job) {
  __shared__ VisibleListsConfig::Shared s_shared;
  ptx::launch_dependents();
  ptx::wait_for_previous_kernel();
  VisibleListsBlock<VisibleListsConfig>(job, s_shared).run();
}

}  // namespace

void prepare_visible_tiles(const VisibleTilesJob& job, fa_stream stream) {
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  void* arguments[] = {const_cast<VisibleTilesJob*>(&job)};
  cuda_check(cudaLaunchKernel(reinterpret_cast<const void*>(visible_units_kernel), dim3(static_cast<unsigned>(visible_unit_blocks(job))),
                              dim3(VisibleUnitsConfig::kThreads), arguments, 0, cuda_stream),
             "launch of the kernel that reads the masks");
  const int64_t list_blocks = visible_list_blocks(job.tiles) * job.tiles.num_groups;
  launch_dependent(reinterpret_cast<const void*>(visible_lists_kernel), static_cast<unsigned>(list_blocks), VisibleListsConfig::kThreads, arguments, 0,
                   cuda_stream, "launch of the kernel that lists visible tiles");
}

}  // namespace fa
