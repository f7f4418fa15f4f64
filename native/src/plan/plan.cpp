#include "plan/plan.h"

#include <cstdarg>
#include <cstdio>

#include "plan/error.h"

namespace fa {

const char* dtype_name(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return "float32";
    case DType::kFloat16:
      return "float16";
    case DType::kBFloat16:
      return "bfloat16";
  }
  return "unknown";
}

const char* mask_name(Mask mask) {
  switch (mask) {
    case Mask::kNone:
      return "no mask";
    case Mask::kCausalTopLeft:
      return "causal top-left";
    case Mask::kCausalBottomRight:
      return "causal bottom-right";
    case Mask::kWindowTopLeft:
      return "window top-left";
    case Mask::kWindowBottomRight:
      return "window bottom-right";
  }
  return "unknown";
}

void Reason::set(const char* format, ...) {
  if (!wanted) {
    return;
  }
  std::va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof(text), format, arguments);
  va_end(arguments);
}

namespace {

struct Family {
  fa_kernel kernel;
  const char* name;
  PlanFamily plan;
  bool cuda;
};

// Fastest first.
constexpr Family kFamilies[] = {
    {FA_KERNEL_SM90, "sm90", plan_sm90, true},
    {FA_KERNEL_SM80, "sm80", plan_sm80, true},
    {FA_KERNEL_CPU, "cpu", plan_cpu, false},
};

}  // namespace

namespace {

/// Tries the families in order. On success true; otherwise *reasons (if any) lists what each said.
bool try_families(const Problem& problem, const DeviceCaps& caps, Plan* plan, char* reasons, size_t reasons_size) {
  size_t used = 0;
  const bool on_cuda = caps.device.type == FA_DEVICE_CUDA;
  for (const Family& family : kFamilies) {
    const bool required = problem.required_kernel == family.kernel;
    if (!required && (problem.required_kernel != FA_KERNEL_AUTO || family.cuda != on_cuda)) {
      continue;
    }
    Reason why_not;
    why_not.wanted = reasons != nullptr;
    if (family.cuda != on_cuda) {
      why_not.set("it computes on %s only", family.cuda ? "CUDA devices" : "the CPU");
    } else if (family.plan(problem, caps, plan, &why_not)) {
      plan->family = family.kernel;
      return true;
    }
    if (reasons != nullptr && used < reasons_size) {
      const int written = std::snprintf(reasons + used, reasons_size - used, "%s%s: %s", used ? "; " : "", family.name, why_not.text);
      used += written > 0 ? static_cast<size_t>(written) : 0;
    }
  }
  return false;
}

}  // namespace

Plan make_plan(const Problem& problem, const DeviceCaps& caps, bool with_reason) {
  Plan plan;
  plan.reason.wanted = with_reason;
  if (try_families(problem, caps, &plan, nullptr, 0)) {
    return plan;
  }
  char reasons[768] = {};
  try_families(problem, caps, &plan, reasons, sizeof(reasons));
  fail(FA_STATUS_UNSUPPORTED, "no kernel computes this problem: %s, %s, head_dim %lld, head_dim_v %lld, %s, on %s (%s)",
       problem.pass == Pass::kForward ? "forward" : "backward", dtype_name(problem.dtype), static_cast<long long>(problem.head_dim),
       static_cast<long long>(problem.head_dim_v), mask_name(problem.mask), caps.device.type == FA_DEVICE_CUDA ? "CUDA" : "the CPU", reasons);
}

uint64_t workspace_bytes(const Problem& problem, const DeviceCaps& caps) {
  const uint64_t as_described = make_plan(problem, caps).workspace_bytes;
  if (!problem.aligned_16_bytes || problem.required_kernel == FA_KERNEL_SM90 || caps.device.type == FA_DEVICE_CPU) {
    return as_described;
  }
  Problem unaligned = problem;
  unaligned.aligned_16_bytes = false;
  const uint64_t otherwise = make_plan(unaligned, caps).workspace_bytes;
  return as_described > otherwise ? as_described : otherwise;
}

DeviceCaps assumed_cuda_caps(int compute_capability, int multiprocessors) {
  if (compute_capability < 10 || compute_capability > 999) {
    fail(FA_STATUS_INVALID_ARGUMENT, "params.assumed_compute_capability: expected 10 * major + minor, such as 80 or 90, got %d", compute_capability);
  }
  if (multiprocessors < 0 || multiprocessors > 4096) {
    fail(FA_STATUS_INVALID_ARGUMENT, "params.assumed_multiprocessor_count: expected 0 … 4096, got %d", multiprocessors);
  }
  // Shared memory per block that a kernel may ask for, multiprocessors and L2 of a usual product: CUDA C++ Programming Guide, "Technical Specifications per
  // Compute Capability".
  struct Known {
    int compute_capability;
    int multiprocessors;
    int shared_memory_kib;
    int l2_mib;
  };
  constexpr Known kKnown[] = {{75, 40, 64, 4},   {80, 108, 163, 40}, {86, 84, 99, 6},      {87, 16, 163, 4},
                              {89, 128, 99, 72}, {90, 132, 227, 50}, {100, 148, 227, 126}, {120, 170, 99, 96}};
  Known known = kKnown[0];
  for (const Known& each : kKnown) {
    if (each.compute_capability <= compute_capability) {
      known = each;
    }
  }
  DeviceCaps caps;
  caps.device = {FA_DEVICE_CUDA, 0};
  caps.compute_capability = compute_capability;
  caps.multiprocessors = multiprocessors > 0 ? multiprocessors : known.multiprocessors;
  caps.shared_memory_per_block_bytes = int64_t{known.shared_memory_kib} * 1024;
  caps.l2_bytes = int64_t{known.l2_mib} * 1024 * 1024;
  return caps;
}

void describe(const Problem& problem, const Plan& plan, fa_plan_description* out) {
  const bool forward = problem.pass == Pass::kForward;
  const double element = dtype_bytes(problem.dtype);
  const double d = static_cast<double>(problem.head_dim), d_v = static_cast<double>(problem.head_dim_v);
  const double heads = static_cast<double>(problem.batch) * static_cast<double>(problem.heads_q);
  const double rows_q = heads * static_cast<double>(problem.len_q);
  const double rows_kv = static_cast<double>(problem.batch) * static_cast<double>(problem.heads_kv) * static_cast<double>(problem.len_kv);
  const double pairs = static_cast<double>(problem.heads_q) * problem.full_sequences() * problem.visible_pairs_per_head();
  const double all_pairs =
      static_cast<double>(problem.heads_q) * problem.full_sequences() * static_cast<double>(problem.max_len_q()) * static_cast<double>(problem.max_len_kv());
  const double q_side = rows_q * (d + d_v) * element;    // q and o, or their gradients
  const double kv_side = rows_kv * (d + d_v) * element;  // k and v, or their gradients
  const double lse = rows_q * sizeof(float);

  out->kernel = plan.family;
  out->tile_q = plan.tile_q;
  out->tile_kv = plan.tile_kv;
  out->stages = plan.stages;
  out->threads = plan.threads;
  out->registers_per_thread = plan.registers_per_thread;
  out->launches = plan.launches;
  out->blocks = plan.blocks;
  out->shared_memory_bytes = static_cast<uint64_t>(plan.shared_memory_bytes);
  out->workspace_bytes = plan.workspace_bytes;
  out->exponentials = pairs;
  const double tile_q = plan.tile_q > 0 ? plan.tile_q : 1, tile_kv = plan.tile_kv > 0 ? plan.tile_kv : 1;
  if (forward) {
    out->flops = 2 * pairs * (d + d_v);
    out->minimum_bytes = q_side + kv_side + lse;
    // Every query tile reads the keys and values that its rows see.
    const double streamed = pairs / tile_q * (d + d_v) * element;
    out->tiled_bytes = q_side + lse + (streamed > kv_side ? streamed : kv_side);
    // S written and read, P written and read.
    out->unfused_bytes = q_side + kv_side + 4 * all_pairs * element;
    out->unfused_scratch_bytes = 2 * all_pairs * element;
  } else {
    out->flops = 2 * pairs * (3 * d + 2 * d_v);
    out->minimum_bytes = 2 * q_side + 2 * kv_side + lse;
    // Every key tile reads q and grad_o of the rows that see it, and adds its part of grad_q in fp32 (a read and a write).
    const double streamed = pairs / tile_kv * ((d + d_v) * element + 2 * d * sizeof(float));
    out->tiled_bytes = 2 * q_side + 2 * kv_side + 2 * lse + streamed;
    // P read for grad_v; grad_P written; P and grad_P read, grad_S written; grad_S read for grad_q and for grad_k.
    out->unfused_bytes = 2 * q_side + 2 * kv_side + 7 * all_pairs * element;
    out->unfused_scratch_bytes = 3 * all_pairs * element;
  }
  std::snprintf(out->kernel_name, sizeof(out->kernel_name), "%s", plan.kernel_name);
  std::snprintf(out->reason, sizeof(out->reason), "%s", plan.reason.text);
}

}  // namespace fa
