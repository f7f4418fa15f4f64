/* Exact attention, forward and backward: O = softmax(scale * Q K^T + mask) V, fused and tiled so that the len_q x len_kv score matrix never exists in
 * memory; extra memory is O(len_q + len_kv). One exception: where visible or block_mask is set, kernels may keep lists of the tiles that they show, and a bit
 * per pair, in the workspace, once for every batch entry and head that has a mask of its own (…_workspace_size says how much).
 *
 * Algorithms: FlashAttention (Dao et al., 2022, arXiv 2205.14135), FlashAttention-2 (Dao, 2023, arXiv 2307.08691), FlashAttention-3 (Shah et al., 2024,
 * arXiv 2407.08608); online softmax after Milakov and Gimelshein (2018, arXiv 1805.02867). The backward pass recomputes the scores tile by tile.
 *
 * Semantics, the same on every backend
 *  - Shapes: q (batch, len_q, heads_q, head_dim), k (batch, len_kv, heads_kv, head_dim), v (batch, len_kv, heads_kv, head_dim_v), o (batch, len_q, heads_q,
 *    head_dim_v). All four share one dtype. Gradients have the shape and dtype of what they are gradients of.
 *  - Scores: s[i][j] = scale * sum_c q[i][c] * k[j][c], accumulated in fp32. scale defaults to 1/sqrt(head_dim). Then, each where its option is set and in
 *    this order: s = softcap * tanh(s / softcap); s += bias[b][h][i][j]; s -= slope[b][h] * |pos(i) - j| (ALiBi, Press et al., 2021, arXiv 2108.12409).
 *  - Position of a query among the keys: pos(i) = i for masks aligned top-left and for FA_MASK_NONE, pos(i) = i + len_kv - len_q for masks aligned
 *    bottom-right. The two differ when len_q != len_kv.
 *  - Mask: query i sees key j always (FA_MASK_NONE), iff j <= pos(i) (causal: FA_MASK_CAUSAL_TOP_LEFT is PyTorch's is_causal, FA_MASK_CAUSAL_BOTTOM_RIGHT
 *    FlashAttention's causal: the last query sees every key), or iff pos(i) - window_left <= j <= pos(i) + window_right (FA_MASK_WINDOW_…). What is set besides
 *    narrows that further, a pair being visible iff all agree: chunk, visible, block_mask, sequences.
 *  - Output: o[i] = sum_j p[i][j] v[j] with p[i][j] = exp(s[i][j]) / sum_j exp(s[i][j]) over the visible j, accumulated in fp32. Backends that compute on
 *    tensor cores round p to the dtype before the product with v.
 *  - lse (batch, heads_q, len_q), fp32, contiguous: the natural logarithm of sum_j exp(s[i][j]) over the visible j.
 *  - A query that sees no key has o = 0, lse = -infinity and adds nothing to any gradient. Zero batches and zero-length sequences are legal; they only fill
 *    those values (and zero gradients).
 *  - Sinks: a sink is the logit of a further key whose value is 0. The sum over j, and with it lse and every p, contains exp(sink[h]); a query that sees no
 *    key then has o = 0 and lse = sink[h].
 *  - Dropout: o[i] = sum_j keep[i][j] / (1 - dropout) * p[i][j] v[j]; lse is that without dropout. keep is a function of (dropout_seed, dropout_offset,
 *    batch, query head, i, j) alone, the same on every backend, in both passes and for any tiling: see fa_attention_dropout_mask.
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
  FA_MASK_CAUSAL_BOTTOM_RIGHT = 2,
  /** Sliding window: query i sees key j iff i - window_left <= j <= i + window_right. */
  FA_MASK_WINDOW_TOP_LEFT = 3,
  /** Sliding window: query i sees key j iff pos - window_left <= j <= pos + window_right with pos = i + len_kv - len_q. */
  FA_MASK_WINDOW_BOTTOM_RIGHT = 4
};

/** Sequences of different lengths in one call: packed one behind the other, or one per batch entry with unused positions. Positions i and j, len_q and len_kv
 * of the semantics above, and the rows and columns of bias, visible and block_mask, then count within a sequence, and batch means the sequence: packed, the
 * extents of those tensors are count, max_len_q and max_len_kv. A position of k and v that belongs to no sequence is a key that no query sees. The lengths
 * are read on the device: nothing waits for them. On the CPU values out of range are refused; on CUDA they are clamped, so that nothing outside the tensors
 * is touched. A position of q that belongs to no sequence gets o = 0 and lse = -infinity, sinks or not, and nothing there is read into a gradient. */
typedef struct fa_sequences {
  /** sizeof(fa_sequences) of the caller. */
  uint32_t struct_size;
  /** 1: a sequence uses the last seqused positions of its place instead of the first. */
  int32_t left_padded;
  /** Number of sequences. Packed: batch of the tensors is 1. Otherwise: equal to their batch. */
  int64_t count;
  /** Packed: (count + 1) offsets along the sequence dimension of q, on the device, non-decreasing from 0: sequence b has places [cu_seqlens_q[b],
   * cu_seqlens_q[b + 1]). NULL if not packed; both or neither of cu_seqlens_q and cu_seqlens_kv. */
  const int32_t* cu_seqlens_q;
  /** As cu_seqlens_q, for k and v. */
  const int32_t* cu_seqlens_kv;
  /** (count) used lengths of q, on the device, at most the places of the sequence; NULL: all places are used. */
  const int32_t* seqused_q;
  /** As seqused_q, for k and v. */
  const int32_t* seqused_kv;
  /** Upper bound of the places of one sequence of q: packed, the longest; otherwise ignored. Longer sequences are cut on CUDA, refused on the CPU. */
  int64_t max_len_q;
  /** As max_len_q, for k and v. */
  int64_t max_len_kv;
} fa_sequences;

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
  /** Since 0.2: keys before the query's position that a FA_MASK_WINDOW_… mask shows; -1 for all. Must be 0 with other masks. */
  int64_t window_left;
  /** Keys after the query's position that a FA_MASK_WINDOW_… mask shows; -1 for all, 0 for a causal window. Must be 0 with other masks. */
  int64_t window_right;
  /** > 0: query i sees key j only if floor(pos(i) / chunk) == floor(j / chunk) (attention chunks, as in Llama 4). 0: no chunks. */
  int64_t chunk;
  /** > 0: bound of the scores, softcap * tanh(s / softcap); finite. 0: none. */
  float softcap;
  /** Probability that a pair is dropped, in [0, 1). 0: none. */
  float dropout;
  /** Key of the generator. */
  uint64_t dropout_seed;
  /** Distinguishes calls with one seed. */
  uint32_t dropout_offset;
  /** Extents of a block of block_mask in queries and keys: positive multiples of 16; 0 without block_mask. */
  int32_t block_q;
  int32_t block_kv;
  /** Must be 0. */
  int32_t reserved2;
  /** ALiBi slopes on the device, fp32, (heads_q) or, with alibi_batch_stride, (batch, heads_q), heads contiguous; NULL: none. */
  const float* alibi_slopes;
  /** Distance in elements between the slopes of two batches; 0: the same for all. */
  int64_t alibi_batch_stride;
  /** Sink logits on the device, fp32, (heads_q); NULL: none. */
  const float* sinks;
  /** Additive bias on the device, (batch, heads_q, len_q, len_kv) with contiguous last dimension; an extent of 1 in one of the first three broadcasts. fp32 or
   * the dtype of q. -infinity hides a pair. NULL: none. */
  const fa_tensor* bias;
  /** FA_DTYPE_UINT8 on the device, shaped as bias: query i sees key j only where it is not 0. A key-padding mask has extents (batch, 1, 1, len_kv). NULL: all.
   */
  const fa_tensor* visible;
  /** FA_DTYPE_UINT8 on the device, (batch, heads_q, ceil(len_q / block_q), ceil(len_kv / block_kv)), the first two extents may be 1: pairs of a block whose
   * entry is 0 are hidden, and no work is spent on them. NULL: all. */
  const fa_tensor* block_mask;
  /** Lengths of the sequences; NULL: every batch entry is a sequence of full length. */
  const fa_sequences* sequences;
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
  /** In: gradient of lse, (batch, heads_q, len_q) fp32 contiguous; NULL if lse took no part in the loss. Ignored for rows that see no key,
   * except that their lse is that of the sink where there is one. */
  const float* grad_lse;
  /** NULL for the defaults; must describe the same problem as in the forward pass. */
  const fa_attention_options* options;
  /** Scratch memory on the device, 16-byte aligned; NULL if the workspace size is 0. Contents are undefined before and after. */
  void* workspace;
  /** Size of workspace in bytes, at least what fa_attention_backward_workspace_size gives. */
  uint64_t workspace_bytes;
  /** Queue of the device; see fa_stream. */
  fa_stream stream;
  /** Since 0.2. Out: gradient of options->bias, with its extents (summed over the broadcast ones) and dtype; all-zero if not wanted. */
  fa_tensor grad_bias;
  /** Out: gradient of options->sinks, (heads_q) fp32, 4-byte aligned; NULL if not wanted. */
  float* grad_sinks;
} fa_backward_params;

/** Computes o (and lse). For CUDA the work is queued on the stream: nothing is allocated, nothing waits, and the call can be captured in a graph.
 * @param params not NULL. */
FA_API fa_status fa_attention_forward(const fa_forward_params* params) FA_NOEXCEPT;

/** Bytes of workspace that fa_attention_forward needs for these shapes, strides and options. Pointers in params are not read except options and the
 * structs it points to, and may be NULL; nor is memory of the device. Of optional pointers in options it counts whether they are NULL.
 * @param params not NULL. @param out_bytes not NULL; left as it was on failure. */
FA_API fa_status fa_attention_forward_workspace_size(const fa_forward_params* params, uint64_t* out_bytes) FA_NOEXCEPT;

/** Computes grad_q, grad_k and grad_v. As asynchronous as the forward pass. @param params not NULL. */
FA_API fa_status fa_attention_backward(const fa_backward_params* params) FA_NOEXCEPT;

/** Bytes of workspace that fa_attention_backward needs; otherwise as fa_attention_forward_workspace_size. */
FA_API fa_status fa_attention_backward_workspace_size(const fa_backward_params* params, uint64_t* out_bytes) FA_NOEXCEPT;

/** Arguments of fa_attention_dropout_mask. */
typedef struct fa_dropout_mask_params {
  /** sizeof(fa_dropout_mask_params) of the caller. */
  uint32_t struct_size;
  /** Probability that a pair is dropped, in [0, 1). */
  float dropout;
  uint64_t seed;
  uint32_t offset;
  /** Must be 0. */
  int32_t reserved;
  /** Where out lives and the work is done. */
  fa_device device;
  /** Out: FA_DTYPE_UINT8, (batch, heads_q, len_q, len_kv), last dimension contiguous; 1 where a pair is kept, 0 where it is dropped. */
  fa_tensor out;
  /** Queue of the device; see fa_stream. */
  fa_stream stream;
} fa_dropout_mask_params;

/** Writes which pairs dropout keeps. Pair (i, j) of query head h in batch b is dropped iff w < floor(dropout * 2^32), where w is word j mod 4 of Philox4x32-10
 * (Salmon et al., 2011) with key (seed mod 2^32, seed / 2^32) and counter (j / 4, i, b * heads_q + h, offset). @param params not NULL. */
FA_API fa_status fa_attention_dropout_mask(const fa_dropout_mask_params* params) FA_NOEXCEPT;

/** Most partial results that one merge takes. */
#define FA_MERGE_MAX_PARTS 16

/** Arguments of fa_attention_merge and fa_attention_merge_backward: attention over disjoint sets of keys, computed apart, put together. */
typedef struct fa_merge_params {
  /** sizeof(fa_merge_params) of the caller. */
  uint32_t struct_size;
  /** Number of parts, 1 … FA_MERGE_MAX_PARTS. */
  int32_t parts;
  fa_device device;
  /** In: o of each part, (batch, len_q, heads_q, head_dim_v), all of one dtype (fp32 on any device as well as fp16 and bf16). */
  fa_tensor part_o[FA_MERGE_MAX_PARTS];
  /** In: lse of each part, (batch, heads_q, len_q) fp32 contiguous; -infinity where the part holds no visible key. */
  const float* part_lse[FA_MERGE_MAX_PARTS];
  /** Forward: out; backward: in. (batch, len_q, heads_q, head_dim_v), dtype of its own: sum over parts of exp(part_lse - lse) * part_o; 0 where every lse is
   * -infinity. */
  fa_tensor o;
  /** Forward: out; backward: in. (batch, heads_q, len_q) fp32: log of the sum of exp(part_lse). */
  float* lse;
  /** Backward, in: gradient of o, and of lse (NULL if it took no part in the loss). Forward: all-zero. */
  fa_tensor grad_o;
  const float* grad_lse;
  /** Backward, out: gradient of each part's o and lse. Forward: all-zero. */
  fa_tensor grad_part_o[FA_MERGE_MAX_PARTS];
  float* grad_part_lse[FA_MERGE_MAX_PARTS];
  /** Queue of the device; see fa_stream. */
  fa_stream stream;
} fa_merge_params;

/** Merges partial results into what attention over all their keys gives. @param params not NULL. */
FA_API fa_status fa_attention_merge(const fa_merge_params* params) FA_NOEXCEPT;

/** Gradients of the parts from the gradients of the merged o and lse. @param params not NULL. */
FA_API fa_status fa_attention_merge_backward(const fa_merge_params* params) FA_NOEXCEPT;

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
