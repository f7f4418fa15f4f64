// plan.cpp asks every family; the tests here need none of them.
#include "plan/plan.h"

namespace fa {

bool plan_cpu(const Problem&, const DeviceCaps&, Plan*, Reason*) {
  return false;
}
bool plan_sm80(const Problem&, const DeviceCaps&, Plan*, Reason*) {
  return false;
}
bool plan_sm90(const Problem&, const DeviceCaps&, Plan*, Reason*) {
  return false;
}

}  // namespace fa
