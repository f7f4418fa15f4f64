// From a plan to the code that carries it out: one table, one lookup, one error that lists what this build has.
#pragma once

#include "plan/plan.h"

namespace fa {

/// Operations beside attention that a kind of device computes; null where it does not.
struct OperationTable {
  fa_device_type device_type;
  void (*dropout_mask)(const DropoutMaskArgs& args);
  void (*merge)(const MergeArgs& args);
  void (*merge_backward)(const MergeArgs& args);
};

/// Entry points of one kernel family. A launcher queues (CUDA) or completes (CPU) the work, throws Error on failure, never allocates, never synchronises.
struct KernelFamily {
  fa_kernel family;
  void (*forward)(const Plan& plan, const ForwardArgs& args);
  void (*backward)(const Plan& plan, const BackwardArgs& args);
};

void run(const Plan& plan, const ForwardArgs& args);
void run(const Plan& plan, const BackwardArgs& args);

/// What is computed beside attention itself, by the code for the kind of device that the arguments name.
void run(const DropoutMaskArgs& args);
void run(const MergeArgs& args, Pass pass);

/// True if this build contains code for the family.
bool is_built(fa_kernel family);

// The launchers, each defined beside its kernels.
void cpu_forward(const Plan& plan, const ForwardArgs& args);     // src/cpu
void cpu_backward(const Plan& plan, const BackwardArgs& args);   // src/cpu
void cpu_dropout_mask(const DropoutMaskArgs& args);              // src/cpu
void cpu_merge(const MergeArgs& args);                           // src/cpu
void cpu_merge_backward(const MergeArgs& args);                  // src/cpu
void cuda_dropout_mask(const DropoutMaskArgs& args);             // src/kernels/sm80/operations
void cuda_merge(const MergeArgs& args);                          // src/kernels/sm80/operations
void cuda_merge_backward(const MergeArgs& args);                 // src/kernels/sm80/operations
void sm80_forward(const Plan& plan, const ForwardArgs& args);    // src/kernels/sm80/forward
void sm80_backward(const Plan& plan, const BackwardArgs& args);  // src/kernels/sm80/backward
void sm90_forward(const Plan& plan, const ForwardArgs& args);    // src/kernels/sm90/forward
void sm90_backward(const Plan& plan, const BackwardArgs& args);  // src/kernels/sm90/backward

}  // namespace fa
