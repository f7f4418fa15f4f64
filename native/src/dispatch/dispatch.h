// From a plan to the code that carries it out: one table, one lookup, one error that lists what this build has.
#pragma once

#include "plan/plan.h"

namespace fa {

/// Entry points of one kernel family. A launcher queues (CUDA) or completes (CPU) the work, throws Error on failure, never allocates, never synchronises.
struct KernelFamily {
  fa_kernel family;
  void (*forward)(const Plan& plan, const ForwardArgs& args);
  void (*backward)(const Plan& plan, const BackwardArgs& args);
};

void run(const Plan& plan, const ForwardArgs& args);
void run(const Plan& plan, const BackwardArgs& args);

/// True if this build contains code for the family.
bool is_built(fa_kernel family);

// The launchers, each defined beside its kernels.
void cpu_forward(const Plan& plan, const ForwardArgs& args);     // src/cpu
void cpu_backward(const Plan& plan, const BackwardArgs& args);   // src/cpu
void sm80_forward(const Plan& plan, const ForwardArgs& args);    // src/kernels/sm80/forward
void sm80_backward(const Plan& plan, const BackwardArgs& args);  // src/kernels/sm80/backward
void sm90_forward(const Plan& plan, const ForwardArgs& args);    // src/kernels/sm90/forward
void sm90_backward(const Plan& plan, const BackwardArgs& args);  // src/kernels/sm90/backward

}  // namespace fa
