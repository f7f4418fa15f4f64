/* Exact attention, forward and backward: O = softmax(scale * Q K^T + mask) V, fused and tiled so that the len_q x len_kv score matrix never exists in
 * memory; extra memory is O(len_q + len_kv).
 *
 * Algorithms: FlashAttention (Dao et al., 2022, arXiv 2205.14135), FlashAttention-2 (Dao, 2023, arXiv 2307.08691), FlashAttention-3 (Shah et al., 2024,
 * arXiv 2407.08608); online softmax after Milakov and Gimelshein (2018, arXiv 1805.02867). The backward pass recomputes the scores tile by tile.
 *
 * Semantics, the same on every backend
 *  - Shapes: q (batch, len_q, heads_q, head_dim), k (batch, len_kv, heads_kv, head_dim), v (batch, len_kv, heads_kv, head_dim_v), o (batch, len_q, heads_q,
 *    head_dim_v). All four share one dtype. Gradients have the shape and dtype of what they are gradients of.
 *  - Scores: s[i][j] = scale * sum_c q[i][c] * k[j][c], accumulated in fp32. scale defaults to 1/sqrt(head_dim).
 *  - Mask: query i sees key j always (FA_MASK_NONE), iff j <= i (FA_MASK_CAUSAL_TOP_LEFT, PyTorch's is_causal), or iff j <= i + len_kv - len_q
 *    (FA_MASK_CAUSAL_BOTTOM_RIGHT, FlashAttention's causal: the last query sees every key). The two differ when len_q != len_kv.
 *  - Output: o[i] = sum_j p[i][j] v[j] with p[i][j] = exp(s[i][j]) / sum_j exp(s[i][j]) over the visible j, accumulated in fp32. Backends that compute on
 *    tensor cores round p to the dtype before the product with v.
 *  - lse (batch, heads_q, len_q), fp32, contiguous: the natural logarithm of sum_j exp(s[i][j]) over the visible j.
 *  - A query that sees no key has o = 0, lse = -infinity and adds nothing to any gradient. Zero batches and zero-length sequences are legal; they only fill
 *    those values (and zero gradients).
 *  - Grouped-query attention: heads_q is a multiple of heads_kv and query head h reads kv head h / (heads_q / heads_kv); dk and dv are summed over the group.
 *  - NaN and infinity in an input propagate to the rows that see it, as in the unfused form, and to no other row. Masked keys are never read into a result.
 *  - Offsets are 64-bit: a tensor may hold more than 2^31 elements.
 *
 * What is computed where: README.md, "Support". A problem that no kernel computes is refused with FA_STATUS_UNSUPPORTED and a message that says why; there is
 * never a silent fallback to another device. */
#ifndef FLASH_ATTENTION_ATTENTION_H
#define FLASH_ATTENTION_ATTENTION_H

#include "flash_attention/types.h"

#if defined(__cplusplus)
extern "C" {
#endif

/** Which keys a query sees, one of fa_mask_value. */
typedef int32_t fa_mask;

enum fa_mask_value {
  /** Every query sees every key. */
  FA_MASK_NONE = 0,
  /** Query i sees key j iff j <= i. */
  FA_MASK_CAUSAL_TOP_LEFT = 1,
  /** Query i sees key j iff j <= i + len_kv - len_q. */
  FA_MASK_CAUSAL_BOTTOM_RIGHT = 2
};

/** Pass, one of fa_pass_value. */
typedef int32_t fa_pass;

enum fa_pass_value { FA_PASS_FORWARD = 0, FA_PASS_BACKWARD = 1 };

/** Family of kernels, one of fa_kernel_value. */
typedef int32_t fa_kernel;

enum fa_kernel_value {
  /** The planner's choice: the fastest family that computes the problem on the device. */
  FA_KERNEL_AUTO = 0,
  /** The CPU backend. */
  FA_KERNEL_CPU = 1,
  /** CUDA, compute capability 8.0 and newer: mma.sync, cp.async. */
  FA_KERNEL_SM80 = 2,
  /** CUDA, compute capability 9.0 (Hopper): wgmma, TMA. */
  FA_KERNEL_SM90 = 3
};

/** How to compute. All-zero fields after struct_size are the defaults; a NULL pointer to this struct means the same. */
typedef struct fa_attention_options {
  /** sizeof(fa_attention_options) of the caller. */
  uint32_t struct_size;
  /** One of fa_mask_value. */
  fa_mask mask;
  /** Factor on q*k: finite and > 0, or 0 for 1/sqrt(head_dim). */
  float scale;
  /** 1: the backward pass gives bitwise equal gradients for equal inputs on the same device and library version, whatever else runs. 0: it may add partial
   * sums in any order (the CPU backend is deterministic either way). The forward pass is always deterministic. */
  int32_t deterministic;
  /** One of fa_kernel_value: insist on a kernel family. The call is refused if that family cannot compute the problem on the device. */
  fa_kernel kernel;
  /** Must be 0. */
  int32_t reserved;
} fa_attention_options;

/** Arguments of the forward pass. */
typedef struct fa_forward_params {
  /** sizeof(fa_forward_params) of the caller. */
  uint32_t struct_size;
  /** Must be 0. */
  int32_t reserved;
  /** Where all pointers live and the work is done. */
  fa_device device;
  /** In: (batch, len_q, heads_q, head_dim). */
  fa_tensor q;
  /** In: (batch, len_kv, heads_kv, head_dim). */
  fa_tensor k;
  /** In: (batch, len_kv, heads_kv, head_dim_v). */
  fa_tensor v;
  /** Out: (batch, len_q, heads_q, head_dim_v). Must not overlap an input; every element is written. */
  fa_tensor o;
  /** Out: (batch, heads_q, len_q) fp32 contiguous, 4-byte aligned; NULL if not wanted. The backward pass needs it. */
  float* lse;
  /** NULL for the defaults. */
  const fa_attention_options* options;
  /** Scratch memory on the device, 16-byte aligned; NULL if the workspace size is 0. Contents are undefined before and after. */
  void* workspace;
  /** Size of workspace in bytes, at least what fa_attention_forward_workspace_size gives. */
  uint64_t workspace_bytes;
  /** Queue of the device; see fa_stream. */
  fa_stream stream;
} fa_forward_params;

/** Arguments of the backward pass: from q, k, v, o, lse of the forward pass and the gradient of o to the gradients of q, k and v. */
typedef struct fa_backward_params {
  /** sizeof(fa_backward_params) of the caller. */
  uint32_t struct_size;
  /** Must be 0. */
  int32_t reserved;
  /** Where all pointers live and the work is done. */
  fa_device device;
  /** In: (batch, len_q, heads_q, head_dim). */
  fa_tensor q;
  /** In: (batch, len_kv, heads_kv, head_dim). */
  fa_tensor k;
  /** In: (batch, len_kv, heads_kv, head_dim_v). */
  fa_tensor v;
  /** In: (batch, len_q, heads_q, head_dim_v), as the forward pass gave it for the same options. */
  fa_tensor o;
  /** In: gradient of o, shaped like o. */
  fa_tensor grad_o;
  /** Out: gradient of q, shaped like q. No output may overlap an input or another output; every element is written. */
  fa_tensor grad_q;
  /** Out: gradient of k, shaped like k. */
  fa_tensor grad_k;
  /** Out: gradient of v, shaped like v. */
  fa_tensor grad_v;
  /** In: (batch, heads_q, len_q) fp32 contiguous, as the forward pass gave it. Not NULL unless it is empty. */
  const float* lse;
  /** In: gradient of lse, (batch, heads_q, len_q) fp32 contiguous; NULL if lse took no part in the loss. Ignored for rows that see no key. */
  const float* grad_lse;
  /** NULL for the defaults; must describe the same problem as in the forward pass. */
  const fa_attention_options* options;
  /** Scratch memory on the device, 16-byte aligned; NULL if the workspace size is 0. Contents are undefined before and after. */
  void* workspace;
  /** Size of workspace in bytes, at least what fa_attention_backward_workspace_size gives. */
  uint64_t workspace_bytes;
  /** Queue of the device; see fa_stream. */
  fa_stream stream;
} fa_backward_params;

/** Computes o (and lse). For CUDA the work is queued on the stream: nothing is allocated, nothing waits, and the call can be captured in a graph.
 * @param params not NULL. */
FA_API fa_status fa_attention_forward(const fa_forward_params* params) FA_NOEXCEPT;

/** Bytes of workspace that fa_attention_forward needs for these shapes, strides and options. Pointers in params are not read except options, and may be NULL.
 * @param params not NULL. @param out_bytes not NULL; left as it was on failure. */
FA_API fa_status fa_attention_forward_workspace_size(const fa_forward_params* params, uint64_t* out_bytes) FA_NOEXCEPT;

/** Computes grad_q, grad_k and grad_v. As asynchronous as the forward pass. @param params not NULL. */
FA_API fa_status fa_attention_backward(const fa_backward_params* params) FA_NOEXCEPT;

/** Bytes of workspace that fa_attention_backward needs; otherwise as fa_attention_forward_workspace_size. */
FA_API fa_status fa_attention_backward_workspace_size(const fa_backward_params* params, uint64_t* out_bytes) FA_NOEXCEPT;

/** What to describe: a problem, and the device (real or assumed) to plan for. */
typedef struct fa_describe_params {
  /** sizeof(fa_describe_params) of the caller. */
  uint32_t struct_size;
  /** One of fa_pass_value. */
  fa_pass pass;
  fa_device device;
  /** Shapes, strides and dtypes; data is not read and may be NULL. */
  fa_tensor q;
  fa_tensor k;
  fa_tensor v;
  /** NULL for the defaults. */
  const fa_attention_options* options;
  /** 0: plan for the device as it is. Otherwise plan for an absent CUDA device of this compute capability, 10 * major + minor (80, 86, 89, 90 …). */
  int32_t assumed_compute_capability;
  /** Multiprocessors of the assumed device; 0 for the usual number of that compute capability. */
  int32_t assumed_multiprocessor_count;
} fa_describe_params;

/** What would run for a problem. */
typedef struct fa_plan_description {
  /** In: sizeof(fa_plan_description) of the caller. */
  uint32_t struct_size;
  /** One of fa_kernel_value, never FA_KERNEL_AUTO. */
  fa_kernel kernel;
  /** Rows of q and of k/v that one step works on. */
  int32_t tile_q;
  int32_t tile_kv;
  /** Depth of the pipeline that brings k/v tiles (backward: q tiles) in; 1 for the CPU. */
  int32_t stages;
  /** Threads per block; for the CPU the threads of the call. */
  int32_t threads;
  /** Registers per thread that the kernel's configuration declares; 0 for the CPU. */
  int32_t registers_per_thread;
  /** Kernels launched one after the other. */
  int32_t launches;
  /** Thread blocks of the main kernel; for the CPU the number of independent tasks. */
  int64_t blocks;
  /** Shared memory of one block of the main kernel, in bytes. */
  uint64_t shared_memory_bytes;
  /** What …_workspace_size reports. */
  uint64_t workspace_bytes;
  /** Floating-point operations of the pass over the visible pairs: 2 * pairs * (head_dim + head_dim_v) forward, 2 * pairs * (3 * head_dim + 2 * head_dim_v)
   * backward (2.5 times the forward when the two are equal). */
  double flops;
  /** Exponentials of the pass: visible pairs. */
  double exponentials;
  /** Least bytes to and from device memory: every input read once, every output written once. */
  double minimum_bytes;
  /** Bytes to and from device memory with this tiling, counting each load of a tile. */
  double tiled_bytes;
  /** Bytes to and from device memory of the unfused form, which writes and reads the score and probability matrices. */
  double unfused_bytes;
  /** Scratch of the unfused form in bytes: the score and probability matrices, and in the backward pass their gradients' one. */
  double unfused_scratch_bytes;
  /** Name of the kernel, NUL-terminated UTF-8. */
  char kernel_name[64];
  /** One sentence: why this kernel and this tile. */
  char reason[256];
} fa_plan_description;

/** Says what would run for a problem and what it costs, without running anything. FA_STATUS_UNSUPPORTED, with the reason in the message, if nothing would.
 * @param params not NULL. @param description struct_size must be set; not NULL; left as it was on failure. */
FA_API fa_status fa_attention_describe(const fa_describe_params* params, fa_plan_description* description) FA_NOEXCEPT;

#if defined(__cplusplus)
}
#endif

#endif /* FLASH_ATTENTION_ATTENTION_H */
