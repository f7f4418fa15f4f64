// Values of fa_attention_options, and the options against the shapes of the problem.
#include <algorithm>
#include <cmath>

#include "api/options.h"
#include "api/validate.h"
#include "plan/error.h"

namespace fa::api {

namespace {

/// sizeof(fa_attention_options) of version 0.1.
constexpr size_t kFirstOptionsBytes = 24;
/// Reaches and chunks beyond this see everything: positions are below 2^32 in magnitude.
constexpr int64_t kEverything = int64_t{1} << 33;

void check_basic(const fa_attention_options& options) {
  if (options.mask < FA_MASK_NONE || options.mask > FA_MASK_WINDOW_BOTTOM_RIGHT) {
    fail(FA_STATUS_INVALID_ARGUMENT, "options.mask: expected FA_MASK_NONE (0) … FA_MASK_WINDOW_BOTTOM_RIGHT (4), got %d", options.mask);
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
  if (options.reserved2 != 0) {
    fail(FA_STATUS_INVALID_ARGUMENT, "options.reserved2: expected 0, got %d", options.reserved2);
  }
}

void check_reach(int64_t reach, const char* name, bool window) {
  if (window ? reach < -1 : reach != 0) {
    fail(FA_STATUS_INVALID_ARGUMENT, "options.%s: expected %s, got %lld", name, window ? "-1 (all keys) or more" : "0 with a mask that is no window",
         ll{reach});
  }
}

void check_variants(const fa_attention_options& options) {
  const bool window = options.mask == FA_MASK_WINDOW_TOP_LEFT || options.mask == FA_MASK_WINDOW_BOTTOM_RIGHT;
  check_reach(options.window_left, "window_left", window);
  check_reach(options.window_right, "window_right", window);
  if (options.chunk < 0) {
    fail(FA_STATUS_INVALID_ARGUMENT, "options.chunk: expected 0 (none) or more, got %lld", ll{options.chunk});
  }
  if (!std::isfinite(options.softcap) || options.softcap < 0.0f) {
    fail(FA_STATUS_INVALID_ARGUMENT, "options.softcap: expected a finite number > 0, or 0 for none, got %g", static_cast<double>(options.softcap));
  }
  if (!(options.dropout >= 0.0f && options.dropout < 1.0f)) {
    fail(FA_STATUS_INVALID_ARGUMENT, "options.dropout: expected a probability in [0, 1), got %g", static_cast<double>(options.dropout));
  }
  if (options.alibi_batch_stride < 0 || options.alibi_batch_stride >= int64_t{1} << 26) {
    fail(FA_STATUS_INVALID_ARGUMENT, "options.alibi_batch_stride: expected 0 … 2^26 - 1 elements, got %lld", ll{options.alibi_batch_stride});
  }
  if (options.alibi_batch_stride != 0 && options.alibi_slopes == nullptr) {
    fail(FA_STATUS_INVALID_ARGUMENT, "options.alibi_batch_stride: expected 0 without alibi_slopes, got %lld", ll{options.alibi_batch_stride});
  }
  const auto check_block = [&](int32_t extent, const char* name) {
    if (options.block_mask == nullptr ? extent != 0 : extent <= 0 || extent % 16 != 0) {
      fail(FA_STATUS_INVALID_ARGUMENT, "options.%s: expected %s, got %d", name,
           options.block_mask == nullptr ? "0 without block_mask" : "a positive multiple of 16", extent);
    }
  };
  check_block(options.block_q, "block_q");
  check_block(options.block_kv, "block_kv");
}

void check_sequences(const fa_sequences& sequences) {
  if (sequences.left_padded != 0 && sequences.left_padded != 1) {
    fail(FA_STATUS_INVALID_ARGUMENT, "sequences.left_padded: expected 0 or 1, got %d", sequences.left_padded);
  }
  if (sequences.count < 0 || sequences.count >= int64_t{1} << 31) {
    fail(FA_STATUS_INVALID_ARGUMENT, "sequences.count: expected 0 … 2^31 - 1, got %lld", ll{sequences.count});
  }
  if ((sequences.cu_seqlens_q == nullptr) != (sequences.cu_seqlens_kv == nullptr)) {
    fail(FA_STATUS_INVALID_ARGUMENT, "sequences.%s: expected an address, since the other of cu_seqlens_q and cu_seqlens_kv has one, got NULL",
         sequences.cu_seqlens_q == nullptr ? "cu_seqlens_q" : "cu_seqlens_kv");
  }
  const bool packed = sequences.cu_seqlens_q != nullptr;
  const auto check_longest = [&](int64_t longest, const char* name) {
    if (packed && (longest < 0 || longest >= int64_t{1} << 31)) {
      fail(FA_STATUS_INVALID_ARGUMENT, "sequences.%s: expected the length of the longest sequence, 0 … 2^31 - 1, got %lld", name, ll{longest});
    }
  };
  check_longest(sequences.max_len_q, "max_len_q");
  check_longest(sequences.max_len_kv, "max_len_kv");
}

/// Extents of a tensor over pairs: `rows` x `columns` of every head of every sequence, the first `broadcastable` dimensions 1 as well.
void check_pairs(const fa_tensor& tensor, const char* name, const Problem& problem, int64_t rows, int64_t columns, int broadcastable) {
  check_layout(tensor, name, kPairDimensions);
  const int64_t expected[FA_TENSOR_RANK] = {problem.num_sequences(), problem.heads_q, rows, columns};
  for (int i = 0; i < FA_TENSOR_RANK; ++i) {
    if (tensor.sizes[i] != expected[i] && !(i < broadcastable && tensor.sizes[i] == 1)) {
      fail(FA_STATUS_INVALID_ARGUMENT, "%s.sizes[%d] (%s): expected %lld%s, got %lld", name, i, kPairDimensions.names[i], ll{expected[i]},
           i < broadcastable ? " or 1" : "", ll{tensor.sizes[i]});
    }
  }
}

void check_boolean(const fa_tensor& tensor, const char* name) {
  if (tensor.dtype != FA_DTYPE_UINT8) {
    fail(FA_STATUS_INVALID_ARGUMENT, "%s.dtype: expected FA_DTYPE_UINT8 (3), got %d", name, tensor.dtype);
  }
}

/// Batch entries and heads that read the same memory have the same mask.
void widen_masks(const fa_tensor& tensor, Variants* variants) {
  variants->mask_batches = std::max(variants->mask_batches, tensor.strides[0] != 0 ? static_cast<int>(tensor.sizes[0]) : 1);
  variants->mask_heads = std::max(variants->mask_heads, tensor.strides[1] != 0 ? static_cast<int>(tensor.sizes[1]) : 1);
}

void apply_mask(const fa_attention_options& options, Problem* problem) {
  constexpr Mask kMasks[] = {Mask::kNone, Mask::kCausalTopLeft, Mask::kCausalBottomRight, Mask::kWindowTopLeft, Mask::kWindowBottomRight};
  problem->mask = kMasks[options.mask];
  if (options.mask < FA_MASK_WINDOW_TOP_LEFT) {
    return;
  }
  const auto reach = [](int64_t given) { return given >= kEverything ? -1 : given; };
  const int64_t left = reach(options.window_left), right = reach(options.window_right);
  // Windows without a left edge are what every family of kernels computes. Positions matter beyond the window to chunks and ALiBi.
  const bool top_left = options.mask == FA_MASK_WINDOW_TOP_LEFT;
  if (left < 0 && right == 0) {
    problem->mask = top_left ? Mask::kCausalTopLeft : Mask::kCausalBottomRight;
  } else if (left < 0 && right < 0 && (top_left || (options.chunk == 0 && options.alibi_slopes == nullptr))) {
    problem->mask = Mask::kNone;
  } else {
    problem->variants.window_left = left;
    problem->variants.window_right = right;
  }
}

void apply_sequences(const Options& options, Problem* problem) {
  const fa_sequences& given = options.sequences;
  SequenceShape& shape = problem->variants.sequences;
  shape.given = true;
  shape.packed = given.cu_seqlens_q != nullptr;
  shape.left_padded = given.left_padded != 0;
  shape.count = given.count;
  if (shape.packed && problem->batch != 1) {
    fail(FA_STATUS_INVALID_ARGUMENT, "q.sizes[0] (batch): expected 1 with packed sequences, got %lld", ll{problem->batch});
  }
  if (!shape.packed && given.count != problem->batch) {
    fail(FA_STATUS_INVALID_ARGUMENT, "sequences.count: expected the batch of q, %lld, got %lld", ll{problem->batch}, ll{given.count});
  }
  if (shape.packed) {
    shape.max_len_q = given.max_len_q;
    shape.max_len_kv = given.max_len_kv;
  }
}

}  // namespace

Options read_options(const fa_attention_options* given) {
  Options options;
  if (given == nullptr) {
    return options;
  }
  copy_sized_struct(&options.basic, sizeof(options.basic), kFirstOptionsBytes, given, "options", "fa_attention_options");
  check_basic(options.basic);
  check_variants(options.basic);
  options.has_bias = options.basic.bias != nullptr;
  options.has_visible = options.basic.visible != nullptr;
  options.has_block_mask = options.basic.block_mask != nullptr;
  options.has_sequences = options.basic.sequences != nullptr;
  if (options.has_bias) {
    options.bias = *options.basic.bias;
  }
  if (options.has_visible) {
    options.visible = *options.basic.visible;
  }
  if (options.has_block_mask) {
    options.block_mask = *options.basic.block_mask;
  }
  if (options.has_sequences) {
    copy_sized_struct(&options.sequences, sizeof(options.sequences), sizeof(options.sequences), options.basic.sequences, "sequences", "fa_sequences");
    check_sequences(options.sequences);
  }
  return options;
}

void apply_options(const Options& options, fa_dtype q_dtype, Problem* problem) {
  const fa_attention_options& basic = options.basic;
  problem->scale = basic.scale > 0.0f ? basic.scale : static_cast<float>(1.0 / std::sqrt(static_cast<double>(problem->head_dim)));
  problem->deterministic = basic.deterministic != 0;
  problem->required_kernel = basic.kernel;
  apply_mask(basic, problem);
  Variants& variants = problem->variants;
  variants.chunk = basic.chunk < kEverything ? basic.chunk : kEverything;
  variants.softcap = basic.softcap;
  variants.dropout = {basic.dropout, basic.dropout_seed, basic.dropout_offset};
  variants.alibi = basic.alibi_slopes != nullptr;
  variants.sinks = basic.sinks != nullptr;
  if (options.has_sequences) {
    apply_sequences(options, problem);
  }
  if (basic.dropout > 0.0f && problem->num_sequences() > (int64_t{1} << 32) / problem->heads_q) {
    fail(FA_STATUS_INVALID_ARGUMENT, "options.dropout: expected batch * heads_q of at most 2^32 with dropout, got %lld * %lld", ll{problem->num_sequences()},
         ll{problem->heads_q});
  }
  const int64_t len_q = problem->max_len_q(), len_kv = problem->max_len_kv();
  if (options.has_bias) {
    if (options.bias.dtype != FA_DTYPE_FLOAT32 && options.bias.dtype != q_dtype) {
      fail(FA_STATUS_INVALID_ARGUMENT, "bias.dtype: expected FA_DTYPE_FLOAT32 (0) or the dtype of q, %d, got %d", q_dtype, options.bias.dtype);
    }
    check_pairs(options.bias, "bias", *problem, len_q, len_kv, 3);
    variants.bias = true;
    variants.bias_dtype = to_dtype(options.bias.dtype);
    variants.bias_batches = options.bias.sizes[0];
    variants.bias_heads = options.bias.sizes[1];
    variants.bias_in_tiles =
        options.bias.dtype != FA_DTYPE_FLOAT32 && options.bias.sizes[2] == len_q && strides_aligned_16(options.bias) && address_aligned_16(options.bias);
  }
  if (options.has_visible) {
    check_boolean(options.visible, "visible");
    check_pairs(options.visible, "visible", *problem, len_q, len_kv, 3);
    variants.visible = true;
    widen_masks(options.visible, &variants);
  }
  if (options.has_block_mask) {
    const auto blocks = [](int64_t length, int32_t block) { return (length + block - 1) / block; };
    check_boolean(options.block_mask, "block_mask");
    check_pairs(options.block_mask, "block_mask", *problem, blocks(len_q, basic.block_q), blocks(len_kv, basic.block_kv), 2);
    variants.block_mask = true;
    variants.block_q = basic.block_q;
    variants.block_kv = basic.block_kv;
    widen_masks(options.block_mask, &variants);
  }
}

}  // namespace fa::api
