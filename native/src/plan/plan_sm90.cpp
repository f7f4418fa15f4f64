#include "plan/plan.h"

namespace fa {

bool plan_sm90(const Problem&, const DeviceCaps&, Plan*, Reason* why_not) {
  why_not->set("this build has no kernels of the family");
  return false;
}

}  // namespace fa
