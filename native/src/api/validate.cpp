#include "api/validate.h"

#include <cmath>
#include <cstdio>

#include "api/overlap.h"
#include "plan/error.h"
#include "runtime/backend.h"

namespace fa::api {

namespace {

using ll = long long;

/// Largest extent of one dimension: kernels index tiles with 32 bits (offsets are 64-bit throughout).
constexpr int64_t kMaxSize = 2147483647;
/// Largest distance from a tensor's first to its last byte; more than any machine has, and small enough for sums of a few such numbers.
constexpr int64_t kMaxExtentBytes = int64_t{1} << 60;
constexpr const char* kDimensionNames[FA_TENSOR_RANK] = {"batch", "sequence", "heads", "head_dim"};

int element_bytes(fa_dtype dtype) {
  return dtype == FA_DTYPE_FLOAT32 ? 4 : 2;
}

DType to_dtype(fa_dtype dtype) {
  return dtype == FA_DTYPE_FLOAT32 ? DType::kFloat32 : dtype == FA_DTYPE_FLOAT16 ? DType::kFloat16 : DType::kBFloat16;
}

bool is_empty(const fa_tensor& tensor) {
  return tensor.sizes[0] == 0 || tensor.sizes[1] == 0 || tensor.sizes[2] == 0 || tensor.sizes[3] == 0;
}

/// A tensor by itself: dtype, sizes, strides, and that its last byte has an address.
void check_tensor(const fa_tensor& tensor, const char* name) {
  if (tensor.dtype < FA_DTYPE_FLOAT32 || tensor.dtype > FA_DTYPE_BFLOAT16) {
    fail(FA_STATUS_INVALID_ARGUMENT, "%s.dtype: expected FA_DTYPE_FLOAT32 (0), FA_DTYPE_FLOAT16 (1) or FA_DTYPE_BFLOAT16 (2), got %d", name, tensor.dtype);
  }
  if (tensor.reserved != 0) {
    fail(FA_STATUS_INVALID_ARGUMENT, "%s.reserved: expected 0, got %d", name, tensor.reserved);
  }
  const int64_t max_elements = kMaxExtentBytes / element_bytes(tensor.dtype);
  int64_t last = 0;  // index of the last element, or max_elements if it is beyond
  for (int i = 0; i < FA_TENSOR_RANK; ++i) {
    const int64_t smallest = i < 2 ? 0 : 1;  // batch and sequence may be empty
    if (tensor.sizes[i] < smallest || tensor.sizes[i] > kMaxSize) {
      fail(FA_STATUS_INVALID_ARGUMENT, "%s.sizes[%d] (%s): expected %lld … %lld, got %lld", name, i, kDimensionNames[i], ll{smallest}, ll{kMaxSize},
           ll{tensor.sizes[i]});
    }
    if (tensor.strides[i] < 0) {
      fail(FA_STATUS_INVALID_ARGUMENT, "%s.strides[%d] (%s): expected a stride >= 0, got %lld", name, i, kDimensionNames[i], ll{tensor.strides[i]});
    }
    if (tensor.sizes[i] > 1) {
      const int64_t steps = tensor.sizes[i] - 1;
      last = tensor.strides[i] > (max_elements - last) / steps ? max_elements : last + steps * tensor.strides[i];
    }
  }
  if (tensor.sizes[3] > 1 && tensor.strides[3] != 1) {
    fail(FA_STATUS_INVALID_ARGUMENT, "%s.strides[3] (head_dim): expected 1 (head_dim is contiguous), got %lld", name, ll{tensor.strides[3]});
  }
  if (!is_empty(tensor) && last >= max_elements) {
    fail(FA_STATUS_INVALID_ARGUMENT,
         "%s: expected sizes and strides whose last element lies within 2^60 bytes, got sizes (%lld, %lld, %lld, %lld) and strides (%lld, %lld, %lld, %lld)",
         name, ll{tensor.sizes[0]}, ll{tensor.sizes[1]}, ll{tensor.sizes[2]}, ll{tensor.sizes[3]}, ll{tensor.strides[0]}, ll{tensor.strides[1]},
         ll{tensor.strides[2]}, ll{tensor.strides[3]});
  }
}

void check_same_dtype(const fa_tensor& tensor, const char* name, const fa_tensor& q) {
  if (tensor.dtype != q.dtype) {
    fail(FA_STATUS_INVALID_ARGUMENT, "%s.dtype: expected the dtype of q, %s, got %s", name, dtype_name(to_dtype(q.dtype)), dtype_name(to_dtype(tensor.dtype)));
  }
}

void check_size(const fa_tensor& tensor, const char* name, int dimension, int64_t expected, const char* of) {
  if (tensor.sizes[dimension] != expected) {
    fail(FA_STATUS_INVALID_ARGUMENT, "%s.sizes[%d] (%s): expected that of %s, %lld, got %lld", name, dimension, kDimensionNames[dimension], of, ll{expected},
         ll{tensor.sizes[dimension]});
  }
}

void check_shape(const fa_tensor& tensor, const char* name, const fa_tensor& like, const char* like_name) {
  for (int i = 0; i < FA_TENSOR_RANK; ++i) {
    check_size(tensor, name, i, like.sizes[i], like_name);
  }
}

/// Strides of dimensions that are never stepped along are 0, so that kernels need no special case.
Strides strides_of(const fa_tensor& tensor) {
  const auto stride = [&](int i) { return tensor.sizes[i] > 1 ? tensor.strides[i] : 0; };
  return {stride(0), stride(1), stride(2)};
}

Tensor to_tensor(const fa_tensor& tensor) {
  return {tensor.data, strides_of(tensor)};
}

bool strides_aligned_16(const fa_tensor& tensor) {
  const Strides strides = strides_of(tensor);
  const int bytes = element_bytes(tensor.dtype);
  return ((strides.batch | strides.seq | strides.head) * bytes) % 16 == 0;
}

bool address_aligned_16(const fa_tensor& tensor) {
  return reinterpret_cast<uintptr_t>(tensor.data) % 16 == 0;
}

/// The options given, or the defaults, applied to a problem whose shapes are set.
void apply_options(const fa_attention_options* given, Problem* problem) {
  fa_attention_options options{};
  if (given != nullptr) {
    copy_sized_struct(&options, sizeof(options), sizeof(options), given, "options", "fa_attention_options");
  }
  if (options.mask < FA_MASK_NONE || options.mask > FA_MASK_CAUSAL_BOTTOM_RIGHT) {
    fail(FA_STATUS_INVALID_ARGUMENT, "options.mask: expected FA_MASK_NONE (0), FA_MASK_CAUSAL_TOP_LEFT (1) or FA_MASK_CAUSAL_BOTTOM_RIGHT (2), got %d",
         options.mask);
  }
  if (!std::isfinite(options.scale) || options.scale < 0.0f) {
    fail(FA_STATUS_INVALID_ARGUMENT, "options.scale: expected a finite number > 0, or 0 for 1/sqrt(head_dim), got %g", static_cast<double>(options.scale));
  }
  if (options.deterministic != 0 && options.deterministic != 1) {
    fail(FA_STATUS_INVALID_ARGUMENT, "options.deterministic: expected 0 or 1, got %d", options.deterministic);
  }
  if (options.kernel < FA_KERNEL_AUTO || options.kernel > FA_KERNEL_SM90) {
    fail(FA_STATUS_INVALID_ARGUMENT, "options.kernel: expected FA_KERNEL_AUTO (0) … FA_KERNEL_SM90 (3), got %d", options.kernel);
  }
  if (options.reserved != 0) {
    fail(FA_STATUS_INVALID_ARGUMENT, "options.reserved: expected 0, got %d", options.reserved);
  }
  problem->mask = options.mask == FA_MASK_NONE ? Mask::kNone : options.mask == FA_MASK_CAUSAL_TOP_LEFT ? Mask::kCausalTopLeft : Mask::kCausalBottomRight;
  problem->scale = options.scale > 0.0f ? options.scale : static_cast<float>(1.0 / std::sqrt(static_cast<double>(problem->head_dim)));
  problem->deterministic = options.deterministic != 0;
  problem->required_kernel = options.kernel;
}

/// Shapes of q, k, v against each other.
Problem problem_of(Pass pass, const fa_tensor& q, const fa_tensor& k, const fa_tensor& v, const fa_attention_options* options) {
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
  apply_options(options, &problem);
  return problem;
}

/// A memory range of a call, for the checks that need all of them.
struct Range {
  const char* name;
  Box box;
  bool output;
};

class Ranges {
 public:
  void add(const fa_tensor& tensor, const char* name, bool output) {
    Box box;
    box.base = reinterpret_cast<uintptr_t>(tensor.data);
    box.element_bytes = element_bytes(tensor.dtype);
    for (int i = 0; i < Box::kRank; ++i) {
      box.sizes[i] = tensor.sizes[i];
      box.stride_bytes[i] = tensor.sizes[i] > 1 ? tensor.strides[i] * box.element_bytes : 0;
    }
    add({name, box, output});
  }
  void add(const void* pointer, uint64_t bytes, const char* name, bool output) { add({name, byte_range(pointer, bytes), output}); }

  /// No output shares a byte with anything else, or with itself.
  void check() const {
    for (int i = 0; i < count_; ++i) {
      if (!ranges_[i].output) {
        continue;
      }
      if (overlaps_itself(ranges_[i].box)) {
        const Box& box = ranges_[i].box;
        const ll bytes = box.element_bytes;
        fail(FA_STATUS_INVALID_ARGUMENT, "%s.strides: expected distinct elements, since it is written, got (%lld, %lld, %lld, %lld), which reach one twice",
             ranges_[i].name, box.stride_bytes[0] / bytes, box.stride_bytes[1] / bytes, box.stride_bytes[2] / bytes, box.stride_bytes[3] / bytes);
      }
      for (int j = 0; j < count_; ++j) {
        if (i != j && overlaps(ranges_[i].box, ranges_[j].box)) {
          fail(FA_STATUS_INVALID_ARGUMENT, "%s: expected memory apart from %s, got overlapping ranges (%p … %p and %p … %p)", ranges_[i].name, ranges_[j].name,
               reinterpret_cast<void*>(ranges_[i].box.base), reinterpret_cast<void*>(ranges_[i].box.end()), reinterpret_cast<void*>(ranges_[j].box.base),
               reinterpret_cast<void*>(ranges_[j].box.end()));
        }
      }
    }
  }

 private:
  static constexpr int kMaxRanges = 12;
  void add(const Range& range) {
    if (!range.box.empty() && range.box.base != 0) {
      ranges_[count_++] = range;
    }
  }
  Range ranges_[kMaxRanges] = {};
  int count_ = 0;
};

/// Address of a tensor that the call reads or writes.
void check_data(const fa_tensor& tensor, const char* name, Backend& backend, int index) {
  if (is_empty(tensor)) {
    return;
  }
  if (tensor.data == nullptr) {
    fail(FA_STATUS_INVALID_ARGUMENT, "%s.data: expected the address of %lld x %lld x %lld x %lld elements, got NULL", name, ll{tensor.sizes[0]},
         ll{tensor.sizes[1]}, ll{tensor.sizes[2]}, ll{tensor.sizes[3]});
  }
  if (reinterpret_cast<uintptr_t>(tensor.data) % static_cast<unsigned>(element_bytes(tensor.dtype)) != 0) {
    fail(FA_STATUS_INVALID_ARGUMENT, "%s.data: expected an address aligned to the element size, %d bytes, got %p", name, element_bytes(tensor.dtype),
         tensor.data);
  }
  char argument[32];
  std::snprintf(argument, sizeof(argument), "%s.data", name);
  backend.check_access(index, tensor.data, argument);
}

uint64_t lse_bytes(const Problem& problem) {
  return static_cast<uint64_t>(problem.batch) * static_cast<uint64_t>(problem.heads_q) * static_cast<uint64_t>(problem.len_q) * sizeof(float);
}

/// Address of a (batch, heads_q, len_q) array of fp32.
void check_row_values(const float* values, const char* name, Backend& backend, int index) {
  if (reinterpret_cast<uintptr_t>(values) % alignof(float) != 0) {
    fail(FA_STATUS_INVALID_ARGUMENT, "%s: expected an address aligned to 4 bytes, got %p", name, static_cast<const void*>(values));
  }
  backend.check_access(index, values, name);
}

void check_stream(fa_device device, fa_stream stream) {
  if (device.type == FA_DEVICE_CPU && stream != nullptr) {
    fail(FA_STATUS_INVALID_ARGUMENT, "stream: expected NULL, the only stream of the CPU device, got %p", stream);
  }
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

}  // namespace

ForwardCall validate_forward(const fa_forward_params* given, Depth depth) {
  fa_forward_params params;
  copy_sized_struct(&params, sizeof(params), sizeof(params), given, "params", "fa_forward_params");
  check_reserved(params);
  Backend& backend = backend_of(params.device, "device");

  ForwardCall call;
  ForwardArgs& args = call.args;
  args.problem = problem_of(Pass::kForward, params.q, params.k, params.v, params.options);
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
  check_row_values(params.lse, "lse", backend, index);
  Ranges ranges;
  ranges.add(params.q, "q", false);
  ranges.add(params.k, "k", false);
  ranges.add(params.v, "v", false);
  ranges.add(params.o, "o", true);
  ranges.add(params.lse, lse_bytes(args.problem), "lse", true);
  ranges.add(params.workspace, params.workspace_bytes, "workspace", true);
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
  copy_sized_struct(&params, sizeof(params), sizeof(params), given, "params", "fa_backward_params");
  check_reserved(params);
  Backend& backend = backend_of(params.device, "device");

  BackwardCall call;
  BackwardArgs& args = call.args;
  args.problem = problem_of(Pass::kBackward, params.q, params.k, params.v, params.options);
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
  Ranges ranges;
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
  check_row_values(params.lse, "lse", backend, index);
  check_row_values(params.grad_lse, "grad_lse", backend, index);
  ranges.add(params.lse, lse_bytes(args.problem), "lse", false);
  ranges.add(params.grad_lse, lse_bytes(args.problem), "grad_lse", false);
  ranges.add(params.workspace, params.workspace_bytes, "workspace", true);
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
  call.problem = problem_of(params.pass == FA_PASS_FORWARD ? Pass::kForward : Pass::kBackward, params.q, params.k, params.v, params.options);
  return call;
}

void validate_execution(const ForwardCall& call, const Plan& plan) {
  check_workspace(call.args, call.caps, plan);
}

void validate_execution(const BackwardCall& call, const Plan& plan) {
  check_workspace(call.args, call.caps, plan);
}

}  // namespace fa::api
