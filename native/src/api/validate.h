// From C structs to validated internal arguments. Every check of the C ABI is made here, before anything is written or queued.
#pragma once

#include "plan/plan.h"
#include "plan/problem.h"

namespace fa::api {

/// How much of a call is looked at.
enum class Depth {
  kShapes,  ///< workspace size, describe: shapes, strides, dtypes, options; no pointer is read
  kAll      ///< a call that computes: pointers, alignment, overlap as well
};

struct ForwardCall {
  ForwardArgs args;
  DeviceCaps caps;
};

struct BackwardCall {
  BackwardArgs args;
  DeviceCaps caps;
};

struct DescribeCall {
  Problem problem;
  DeviceCaps caps;
};

/// Each throws Error naming the argument, what was expected and what came.
ForwardCall validate_forward(const fa_forward_params* params, Depth depth);
BackwardCall validate_backward(const fa_backward_params* params, Depth depth);
DescribeCall validate_describe(const fa_describe_params* params);
DropoutMaskArgs validate_dropout_mask(const fa_dropout_mask_params* params);
MergeArgs validate_merge(const fa_merge_params* params, bool backward);

/// Checks the caller's workspace and stream against the plan, and that the workspace overlaps no tensor of the call.
void validate_execution(const ForwardCall& call, const Plan& plan);
void validate_execution(const BackwardCall& call, const Plan& plan);

/// Copies a caller's struct that begins with struct_size into ours: missing fields are zero, and unknown ones must be zero. minimum: size of the struct's first
/// version.
void copy_sized_struct(void* destination, size_t size, size_t minimum, const void* source, const char* argument, const char* type);

/// Checks struct_size of a struct the library fills, and gives the number of bytes to write.
size_t sized_output(const void* pointer, size_t size, size_t minimum, const char* argument, const char* type);

/// Throws if pointer is null.
void require_pointer(const void* pointer, const char* argument, const char* what);

}  // namespace fa::api
