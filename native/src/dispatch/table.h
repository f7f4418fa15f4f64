// The kernel families of this build. CMake picks table_cuda.cpp or table_cpu.cpp.
#pragma once

#include "dispatch/dispatch.h"

namespace fa {

extern const KernelFamily kKernelFamilies[];
extern const int kNumKernelFamilies;

extern const OperationTable kOperations[];
extern const int kNumOperations;

}  // namespace fa
