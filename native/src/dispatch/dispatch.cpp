#include "dispatch/dispatch.h"

#include "dispatch/table.h"
#include "plan/error.h"

namespace fa {

namespace {

const KernelFamily* find(fa_kernel family) {
  for (int i = 0; i < kNumKernelFamilies; ++i) {
    if (kKernelFamilies[i].family == family) {
      return &kKernelFamilies[i];
    }
  }
  return nullptr;
}

[[noreturn]] void fail_not_built(const Plan& plan, const char* pass) {
  char built[128] = {};
  size_t used = 0;
  for (int i = 0; i < kNumKernelFamilies && used < sizeof(built); ++i) {
    const int written = std::snprintf(built + used, sizeof(built) - used, "%s%d", i ? ", " : "", kKernelFamilies[i].family);
    used += written > 0 ? static_cast<size_t>(written) : 0;
  }
  fail(FA_STATUS_UNSUPPORTED, "kernel %s (fa_kernel %d, %s) was planned but is not in this build; it has the families %s", plan.kernel_name, plan.family, pass,
       built);
}

}  // namespace

bool is_built(fa_kernel family) {
  return find(family) != nullptr;
}

void run(const Plan& plan, const ForwardArgs& args) {
  const KernelFamily* family = find(plan.family);
  if (family == nullptr || family->forward == nullptr) {
    fail_not_built(plan, "forward");
  }
  family->forward(plan, args);
}

void run(const Plan& plan, const BackwardArgs& args) {
  const KernelFamily* family = find(plan.family);
  if (family == nullptr || family->backward == nullptr) {
    fail_not_built(plan, "backward");
  }
  family->backward(plan, args);
}

namespace {

/// The operation of the table's row for the device, if it has one.
template <class Operation>
Operation find_operation(fa_device device, Operation OperationTable::*operation, const char* name) {
  for (int i = 0; i < kNumOperations; ++i) {
    if (kOperations[i].device_type == device.type && kOperations[i].*operation != nullptr) {
      return kOperations[i].*operation;
    }
  }
  fail(FA_STATUS_UNSUPPORTED, "device: %s is computed on the CPU (device type %d), got device type %d", name, FA_DEVICE_CPU, device.type);
}

}  // namespace

void run(const DropoutMaskArgs& args) {
  find_operation(args.device, &OperationTable::dropout_mask, "the dropout mask")(args);
}

void run(const MergeArgs& args, Pass pass) {
  if (pass == Pass::kForward) {
    find_operation(args.device, &OperationTable::merge, "the merge of partial results")(args);
  } else {
    find_operation(args.device, &OperationTable::merge_backward, "the backward pass of the merge")(args);
  }
}

}  // namespace fa
