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

}  // namespace fa
