// The one place that says which kernel runs and why. Host C++ without a CUDA header: every decision can be tested on any machine.
#pragma once

#include <cstdint>

#include "plan/error.h"
#include "plan/problem.h"

namespace fa {

/// A sentence for people: why a kernel was chosen, or why it cannot compute a problem. Formatting takes longer than planning, so the calls that compute leave
/// it out.
struct Reason {
  bool wanted = true;
  char text[256] = {};
  FA_PRINTF_FORMAT(2, 3) void set(const char* format, ...);
};

struct Plan {
  /// FA_KERNEL_CPU, FA_KERNEL_SM80 or FA_KERNEL_SM90.
  fa_kernel family = FA_KERNEL_CPU;
  /// Which instantiation of the family: an index into the family's own table of configurations.
  int variant = 0;
  int tile_q = 0;
  int tile_kv = 0;
  int stages = 1;
  int threads = 1;
  int registers_per_thread = 0;
  int launches = 1;
  int64_t blocks = 0;
  int64_t shared_memory_bytes = 0;
  uint64_t workspace_bytes = 0;
  char kernel_name[64] = {};
  Reason reason;
};

/// One family of kernels as the planner sees it: fills *plan and returns true, or says in *why_not why it cannot compute the problem on the device and returns
/// false. Each family's function lives in plan_<family>.cpp.
using PlanFamily = bool (*)(const Problem& problem, const DeviceCaps& caps, Plan* plan, Reason* why_not);

/// True, with the reason, if the problem has a variant that is not among `computed` (a set of VariantBit).
bool refuse_variants(const Problem& problem, uint32_t computed, Reason* why_not);

bool plan_cpu(const Problem& problem, const DeviceCaps& caps, Plan* plan, Reason* why_not);
bool plan_sm80(const Problem& problem, const DeviceCaps& caps, Plan* plan, Reason* why_not);
bool plan_sm90(const Problem& problem, const DeviceCaps& caps, Plan* plan, Reason* why_not);

/// What is known of CUDA devices of a compute capability (10 * major + minor), for planning without one. multiprocessors: 0 for the usual number. Throws Error
/// if either number is out of range.
DeviceCaps assumed_cuda_caps(int compute_capability, int multiprocessors);

/// Most workspace that make_plan can ask for, whatever the alignment of addresses that are not known yet.
uint64_t workspace_bytes(const Problem& problem, const DeviceCaps& caps);

/// The plan for a problem on a device: the first family, fastest first, that computes it (or the family the problem insists on). Throws Error
/// (FA_STATUS_UNSUPPORTED) with every family's reason if there is none. with_reason: also say in the plan why this kernel.
Plan make_plan(const Problem& problem, const DeviceCaps& caps, bool with_reason = false);

/// Fills the cost fields (flops … unfused_scratch_bytes) and the plan fields of a description; struct_size is left alone.
void describe(const Problem& problem, const Plan& plan, fa_plan_description* description);

}  // namespace fa
