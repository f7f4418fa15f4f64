// Host side of the kernels that write lists of visible tiles.
#pragma once

#include "attention/visible_tiles.h"

namespace fa {

/// Queues the two kernels that read a job's masks and write its lists. Throws Error if a launch is refused.
void prepare_visible_tiles(const VisibleTilesJob& job, fa_stream stream);

}  // namespace fa
