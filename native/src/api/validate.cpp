#include "api/validate.h"

#include <cstddef>
#include <cstring>

#include "api/checks.h"
#include "api/options.h"
#include "plan/error.h"
#include "runtime/backend.h"

namespace fa::api {

namespace {

/// sizeof(fa_backward_params) of version 0.1.
constexpr size_t kFirstBackwardBytes = offsetof(fa_backward_params, grad_bias);

/// Shapes of q, k, v against each other, and the options.
Problem problem_of(Pass pass, const fa_tensor& q, const fa_tensor& k, const fa_tensor& v, const Options& options) {
  check_tensor(q, "q");
  check_tensor(k, "k");
  check_tensor(v, "v");
  check_same_dtype(k, "k", q);
  check_same_dtype(v, "v", q);
  check_size(k, "k", 0, q.sizes[0], "q");
  check_size(v, "v", 0, q.sizes[0], "q");
  check_size(k, "k", 3, q.sizes[3], "q");
  check_size(v, "v", 1, k.sizes[1], "k");
  check_size(v, "v", 2, k.sizes[2], "k");
  if (q.sizes[2] % k.sizes[2] != 0) {
    fail(FA_STATUS_INVALID_ARGUMENT, "q.sizes[2] (heads): expected a multiple of the heads of k and v, %lld, got %lld", ll{k.sizes[2]}, ll{q.sizes[2]});
  }
  Problem problem;
  problem.pass = pass;
  problem.dtype = to_dtype(q.dtype);
  problem.batch = q.sizes[0];
  problem.len_q = q.sizes[1];
  problem.len_kv = k.sizes[1];
  problem.heads_q = q.sizes[2];
  problem.heads_kv = k.sizes[2];
  problem.head_dim = q.sizes[3];
  problem.head_dim_v = v.sizes[3];
  problem.aligned_16_bytes = strides_aligned_16(q) && strides_aligned_16(k) && strides_aligned_16(v);
  constexpr int64_t kMaxRows = int64_t{1} << 50;
  if (problem.batch > 0 && problem.heads_q > kMaxRows / problem.batch / (problem.len_q > 0 ? problem.len_q : 1)) {
    fail(FA_STATUS_INVALID_ARGUMENT, "q.sizes: expected batch * sequence * heads below 2^50, got (%lld, %lld, %lld)", ll{q.sizes[0]}, ll{q.sizes[1]},
         ll{q.sizes[2]});
  }
  apply_options(options, q.dtype, &problem);
  return problem;
}

uint64_t lse_bytes(const Problem& problem) {
  return static_cast<uint64_t>(problem.batch) * static_cast<uint64_t>(problem.heads_q) * static_cast<uint64_t>(problem.len_q) * sizeof(float);
}

template <class Params>
void check_reserved(const Params& params) {
  if (params.reserved != 0) {
    fail(FA_STATUS_INVALID_ARGUMENT, "params.reserved: expected 0, got %d", params.reserved);
  }
}

/// The workspace against the plan.
template <class Args>
void check_workspace(const Args& args, const DeviceCaps& caps, const Plan& plan) {
  if (plan.workspace_bytes == 0) {
    return;
  }
  if (args.workspace_bytes < plan.workspace_bytes) {
    fail(FA_STATUS_WORKSPACE_TOO_SMALL, "workspace_bytes: expected at least %llu for this problem, got %llu",
         static_cast<unsigned long long>(plan.workspace_bytes), static_cast<unsigned long long>(args.workspace_bytes));
  }
  if (args.workspace == nullptr) {
    fail(FA_STATUS_INVALID_ARGUMENT, "workspace: expected the address of %llu bytes, got NULL", static_cast<unsigned long long>(args.workspace_bytes));
  }
  if (reinterpret_cast<uintptr_t>(args.workspace) % 16 != 0) {
    fail(FA_STATUS_INVALID_ARGUMENT, "workspace: expected an address aligned to 16 bytes, got %p", args.workspace);
  }
  backend_of(caps.device, "device").check_access(caps.device.index, args.workspace, "workspace");
}

/// The gradients of options: true and checked shapes where they are wanted.
void check_option_gradients(const fa_backward_params& params, const Options& options, Problem* problem) {
  constexpr fa_tensor kUnset{};
  if (std::memcmp(&params.grad_bias, &kUnset, sizeof(kUnset)) != 0) {
    if (!options.has_bias) {
      fail(FA_STATUS_INVALID_ARGUMENT, "grad_bias: expected an all-zero tensor without options.bias");
    }
    if (params.grad_bias.dtype != options.bias.dtype) {
      fail(FA_STATUS_INVALID_ARGUMENT, "grad_bias.dtype: expected the dtype of bias, %d, got %d", options.bias.dtype, params.grad_bias.dtype);
    }
    check_layout(params.grad_bias, "grad_bias", kPairDimensions);
    for (int i = 0; i < FA_TENSOR_RANK; ++i) {
      if (params.grad_bias.sizes[i] != options.bias.sizes[i]) {
        fail(FA_STATUS_INVALID_ARGUMENT, "grad_bias.sizes[%d] (%s): expected that of bias, %lld, got %lld", i, kPairDimensions.names[i],
             ll{options.bias.sizes[i]}, ll{params.grad_bias.sizes[i]});
      }
    }
    problem->variants.grad_bias = true;
    // TMA writes whole pieces of 16 bytes.
    problem->variants.grad_bias_in_tiles =
        problem->variants.bias_in_tiles && problem->max_len_kv() % 8 == 0 && strides_aligned_16(params.grad_bias) && address_aligned_16(params.grad_bias);
  }
  if (params.grad_sinks != nullptr) {
    if (options.basic.sinks == nullptr) {
      fail(FA_STATUS_INVALID_ARGUMENT, "grad_sinks: expected NULL without options.sinks, got %p", static_cast<void*>(params.grad_sinks));
    }
    problem->variants.grad_sinks = true;
  }
}

/// Addresses of the same.
void check_option_gradient_data(const fa_backward_params& params, Backend& backend, AttentionRanges* ranges, BackwardArgs* args) {
  if (args->problem.variants.grad_bias) {
    check_data(params.grad_bias, "grad_bias", backend, params.device.index);
    ranges->add(params.grad_bias, "grad_bias", true);
    args->grad_bias = to_pair_tensor(params.grad_bias);
  }
  check_array(params.grad_sinks, "grad_sinks", backend, params.device.index);
  ranges->add(params.grad_sinks, static_cast<uint64_t>(args->problem.heads_q) * sizeof(float), "grad_sinks", true);
  args->grad_sinks = params.grad_sinks;
}

}  // namespace

ForwardCall validate_forward(const fa_forward_params* given, Depth depth) {
  fa_forward_params params;
  copy_sized_struct(&params, sizeof(params), sizeof(params), given, "params", "fa_forward_params");
  check_reserved(params);
  Backend& backend = backend_of(params.device, "device");

  const Options options = read_options(params.options);
  ForwardCall call;
  ForwardArgs& args = call.args;
  args.problem = problem_of(Pass::kForward, params.q, params.k, params.v, options);
  check_tensor(params.o, "o");
  check_same_dtype(params.o, "o", params.q);
  check_size(params.o, "o", 0, params.q.sizes[0], "q");
  check_size(params.o, "o", 1, params.q.sizes[1], "q");
  check_size(params.o, "o", 2, params.q.sizes[2], "q");
  check_size(params.o, "o", 3, params.v.sizes[3], "v");
  args.problem.aligned_16_bytes = args.problem.aligned_16_bytes && strides_aligned_16(params.o);
  call.caps = backend.caps(params.device.index);
  args.device = params.device;
  if (depth == Depth::kShapes) {
    return call;
  }

  const int index = params.device.index;
  check_stream(params.device, params.stream);
  check_data(params.q, "q", backend, index);
  check_data(params.k, "k", backend, index);
  check_data(params.v, "v", backend, index);
  check_data(params.o, "o", backend, index);
  check_array(params.lse, "lse", backend, index);
  AttentionRanges ranges;
  ranges.add(params.q, "q", false);
  ranges.add(params.k, "k", false);
  ranges.add(params.v, "v", false);
  ranges.add(params.o, "o", true);
  ranges.add(params.lse, lse_bytes(args.problem), "lse", true);
  ranges.add(params.workspace, params.workspace_bytes, "workspace", true);
  args.variants = check_variant_data(options, args.problem, params.device, backend, &ranges);
  ranges.check();

  args.problem.aligned_16_bytes = args.problem.aligned_16_bytes && address_aligned_16(params.q) && address_aligned_16(params.k) &&
                                  address_aligned_16(params.v) && address_aligned_16(params.o);
  args.q = to_tensor(params.q);
  args.k = to_tensor(params.k);
  args.v = to_tensor(params.v);
  args.o = to_tensor(params.o);
  args.lse = params.lse;
  args.workspace = params.workspace;
  args.workspace_bytes = params.workspace_bytes;
  args.stream = params.stream;
  return call;
}

BackwardCall validate_backward(const fa_backward_params* given, Depth depth) {
  fa_backward_params params;
  copy_sized_struct(&params, sizeof(params), kFirstBackwardBytes, given, "params", "fa_backward_params");
  check_reserved(params);
  Backend& backend = backend_of(params.device, "device");

  const Options options = read_options(params.options);
  BackwardCall call;
  BackwardArgs& args = call.args;
  args.problem = problem_of(Pass::kBackward, params.q, params.k, params.v, options);
  fa_tensor like_o = params.q;  // o has the shape of q, with head_dim_v
  like_o.sizes[3] = params.v.sizes[3];
  struct Checked {
    const fa_tensor* tensor;
    const char* name;
    const fa_tensor* like;
    const char* like_name;
    bool output;
  };
  const Checked tensors[] = {
      {&params.o, "o", &like_o, "q and v", false},      {&params.grad_o, "grad_o", &like_o, "q and v", false}, {&params.grad_q, "grad_q", &params.q, "q", true},
      {&params.grad_k, "grad_k", &params.k, "k", true}, {&params.grad_v, "grad_v", &params.v, "v", true},
  };
  for (const Checked& each : tensors) {
    check_tensor(*each.tensor, each.name);
    check_same_dtype(*each.tensor, each.name, params.q);
    check_shape(*each.tensor, each.name, *each.like, each.like_name);
    args.problem.aligned_16_bytes = args.problem.aligned_16_bytes && strides_aligned_16(*each.tensor);
  }
  check_option_gradients(params, options, &args.problem);
  call.caps = backend.caps(params.device.index);
  args.device = params.device;
  if (depth == Depth::kShapes) {
    return call;
  }

  const int index = params.device.index;
  check_stream(params.device, params.stream);
  check_data(params.q, "q", backend, index);
  check_data(params.k, "k", backend, index);
  check_data(params.v, "v", backend, index);
  bool aligned = address_aligned_16(params.q) && address_aligned_16(params.k) && address_aligned_16(params.v);
  AttentionRanges ranges;
  ranges.add(params.q, "q", false);
  ranges.add(params.k, "k", false);
  ranges.add(params.v, "v", false);
  for (const Checked& each : tensors) {
    check_data(*each.tensor, each.name, backend, index);
    ranges.add(*each.tensor, each.name, each.output);
    aligned = aligned && address_aligned_16(*each.tensor);
  }
  if (params.lse == nullptr && lse_bytes(args.problem) > 0) {
    fail(FA_STATUS_INVALID_ARGUMENT, "lse: expected the %llu values that the forward pass gave, got NULL",
         static_cast<unsigned long long>(lse_bytes(args.problem) / sizeof(float)));
  }
  check_array(params.lse, "lse", backend, index);
  check_array(params.grad_lse, "grad_lse", backend, index);
  ranges.add(params.lse, lse_bytes(args.problem), "lse", false);
  ranges.add(params.grad_lse, lse_bytes(args.problem), "grad_lse", false);
  ranges.add(params.workspace, params.workspace_bytes, "workspace", true);
  args.variants = check_variant_data(options, args.problem, params.device, backend, &ranges);
  check_option_gradient_data(params, backend, &ranges, &args);
  ranges.check();

  args.problem.aligned_16_bytes = args.problem.aligned_16_bytes && aligned;
  args.q = to_tensor(params.q);
  args.k = to_tensor(params.k);
  args.v = to_tensor(params.v);
  args.o = to_tensor(params.o);
  args.grad_o = to_tensor(params.grad_o);
  args.grad_q = to_tensor(params.grad_q);
  args.grad_k = to_tensor(params.grad_k);
  args.grad_v = to_tensor(params.grad_v);
  args.lse = params.lse;
  args.grad_lse = params.grad_lse;
  args.workspace = params.workspace;
  args.workspace_bytes = params.workspace_bytes;
  args.stream = params.stream;
  return call;
}

DescribeCall validate_describe(const fa_describe_params* given) {
  fa_describe_params params;
  copy_sized_struct(&params, sizeof(params), sizeof(params), given, "params", "fa_describe_params");
  if (params.pass != FA_PASS_FORWARD && params.pass != FA_PASS_BACKWARD) {
    fail(FA_STATUS_INVALID_ARGUMENT, "params.pass: expected FA_PASS_FORWARD (0) or FA_PASS_BACKWARD (1), got %d", params.pass);
  }
  DescribeCall call;
  if (params.assumed_compute_capability == 0) {
    if (params.assumed_multiprocessor_count != 0) {
      fail(FA_STATUS_INVALID_ARGUMENT, "params.assumed_multiprocessor_count: expected 0 without an assumed_compute_capability, got %d",
           params.assumed_multiprocessor_count);
    }
    call.caps = backend_of(params.device, "device").caps(params.device.index);
  } else {
    if (params.device.type != FA_DEVICE_CUDA) {
      fail(FA_STATUS_INVALID_ARGUMENT, "params.assumed_compute_capability: expected 0 for a device that is not FA_DEVICE_CUDA (1), got %d for device type %d",
           params.assumed_compute_capability, params.device.type);
    }
    call.caps = assumed_cuda_caps(params.assumed_compute_capability, params.assumed_multiprocessor_count);
  }
  call.problem = problem_of(params.pass == FA_PASS_FORWARD ? Pass::kForward : Pass::kBackward, params.q, params.k, params.v, read_options(params.options));
  return call;
}

void validate_execution(const ForwardCall& call, const Plan& plan) {
  check_workspace(call.args, call.caps, plan);
}

void validate_execution(const BackwardCall& call, const Plan& plan) {
  check_workspace(call.args, call.caps, plan);
}

}  // namespace fa::api
