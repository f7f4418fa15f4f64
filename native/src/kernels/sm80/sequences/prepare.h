// Host side of the kernel that reads the lengths of sequences.
#pragma once

#include "attention/sequence_schedule.h"

namespace fa {

/// Queues the kernel that writes a job's tables and fills its outputs outside of all sequences. Throws Error if the launch is refused.
void prepare_sequences(const SequenceJob& job, fa_device device, fa_stream stream);

}  // namespace fa
