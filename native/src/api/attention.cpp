// Exports of flash_attention/attention.h: guard, validate, plan, dispatch.
#include "flash_attention/attention.h"

#include <cstring>

#include "api/guard.h"
#include "api/validate.h"
#include "dispatch/dispatch.h"
#include "plan/plan.h"

using fa::api::Depth;
using fa::api::guard;
using fa::api::require_pointer;

extern "C" {

fa_status fa_attention_forward(const fa_forward_params* params) FA_NOEXCEPT {
  return guard(__func__, [&] {
    const fa::api::ForwardCall call = fa::api::validate_forward(params, Depth::kAll);
    const fa::Plan plan = fa::make_plan(call.args.problem, call.caps);
    fa::api::validate_execution(call, plan);
    fa::run(plan, call.args);
  });
}

fa_status fa_attention_forward_workspace_size(const fa_forward_params* params, uint64_t* out_bytes) FA_NOEXCEPT {
  return guard(__func__, [&] {
    require_pointer(out_bytes, "out_bytes", "uint64_t");
    const fa::api::ForwardCall call = fa::api::validate_forward(params, Depth::kShapes);
    *out_bytes = fa::workspace_bytes(call.args.problem, call.caps);
  });
}

fa_status fa_attention_backward(const fa_backward_params* params) FA_NOEXCEPT {
  return guard(__func__, [&] {
    const fa::api::BackwardCall call = fa::api::validate_backward(params, Depth::kAll);
    const fa::Plan plan = fa::make_plan(call.args.problem, call.caps);
    fa::api::validate_execution(call, plan);
    fa::run(plan, call.args);
  });
}

fa_status fa_attention_backward_workspace_size(const fa_backward_params* params, uint64_t* out_bytes) FA_NOEXCEPT {
  return guard(__func__, [&] {
    require_pointer(out_bytes, "out_bytes", "uint64_t");
    const fa::api::BackwardCall call = fa::api::validate_backward(params, Depth::kShapes);
    *out_bytes = fa::workspace_bytes(call.args.problem, call.caps);
  });
}

fa_status fa_attention_dropout_mask(const fa_dropout_mask_params* params) FA_NOEXCEPT {
  return guard(__func__, [&] { fa::run(fa::api::validate_dropout_mask(params)); });
}

fa_status fa_attention_merge(const fa_merge_params* params) FA_NOEXCEPT {
  return guard(__func__, [&] { fa::run(fa::api::validate_merge(params, /*backward=*/false), fa::Pass::kForward); });
}

fa_status fa_attention_merge_backward(const fa_merge_params* params) FA_NOEXCEPT {
  return guard(__func__, [&] { fa::run(fa::api::validate_merge(params, /*backward=*/true), fa::Pass::kBackward); });
}

fa_status fa_attention_describe(const fa_describe_params* params, fa_plan_description* description) FA_NOEXCEPT {
  return guard(__func__, [&] {
    const size_t bytes = fa::api::sized_output(description, sizeof(*description), sizeof(*description), "description", "fa_plan_description");
    const fa::api::DescribeCall call = fa::api::validate_describe(params);
    fa_plan_description filled{};
    fa::describe(call.problem, fa::make_plan(call.problem, call.caps, /*with_reason=*/true), &filled);
    filled.struct_size = description->struct_size;
    std::memcpy(description, &filled, bytes);
  });
}

}  // extern "C"
