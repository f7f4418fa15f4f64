#include "attention/sequence_schedule.cuh"
#include "kernels/sm80/launch.h"
#include "kernels/sm80/sequences/prepare.h"

namespace fa {
namespace {

__global__ void __launch_bounds__(SequenceScheduleConfig::kThreads) prepare_sequences_kernel(const __grid_constant__ SequenceJob job) {
  __shared__ SequenceScheduleConfig::Shared s_shared;
  SequenceScheduleBlock<SequenceScheduleConfig>(job, s_shared).run();
}

}  // namespace

void prepare_sequences(const SequenceJob& job, fa_device device, fa_stream stream) {
  sm80::launch(prepare_sequences_kernel, "prepare_sequences", device, sequence_schedule_blocks(job), SequenceScheduleConfig::kThreads, 0, stream, job);
}

}  // namespace fa
