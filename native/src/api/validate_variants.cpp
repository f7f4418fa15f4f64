// Addresses of what the options point to on the device; on the CPU the lengths of the sequences as well.
#include "api/options.h"
#include "plan/error.h"

namespace fa::api {

namespace {

void check_offsets(const int32_t* offsets, int64_t count, int64_t total, int64_t longest, const char* name, const char* longest_name) {
  for (int64_t i = 0; i <= count; ++i) {
    const int64_t least = i == 0 ? 0 : offsets[i - 1], most = i == 0 ? 0 : total;
    if (offsets[i] < least || offsets[i] > most) {
      fail(FA_STATUS_INVALID_ARGUMENT, "sequences.%s[%lld]: expected %lld … %lld, got %d", name, ll{i}, ll{least}, ll{most}, offsets[i]);
    }
    if (i > 0 && offsets[i] - offsets[i - 1] > longest) {
      fail(FA_STATUS_INVALID_ARGUMENT, "sequences.%s: expected at least %d, the length of sequence %lld, got %lld", longest_name, offsets[i] - offsets[i - 1],
           ll{i - 1}, ll{longest});
    }
  }
}

/// offsets: of the packed sequences, or null where each has `length` places.
void check_used(const int32_t* used, const int32_t* offsets, int64_t count, int64_t length, const char* name) {
  for (int64_t i = 0; i < count; ++i) {
    const int64_t places = offsets == nullptr ? length : offsets[i + 1] - offsets[i];
    if (used[i] < 0 || used[i] > places) {
      fail(FA_STATUS_INVALID_ARGUMENT, "sequences.%s[%lld]: expected 0 … %lld, the places of the sequence, got %d", name, ll{i}, ll{places}, used[i]);
    }
  }
}

void check_lengths(const fa_sequences& sequences, const Problem& problem) {
  const int64_t count = sequences.count;
  if (sequences.cu_seqlens_q != nullptr) {
    check_offsets(sequences.cu_seqlens_q, count, problem.len_q, sequences.max_len_q, "cu_seqlens_q", "max_len_q");
    check_offsets(sequences.cu_seqlens_kv, count, problem.len_kv, sequences.max_len_kv, "cu_seqlens_kv", "max_len_kv");
  }
  if (sequences.seqused_q != nullptr) {
    check_used(sequences.seqused_q, sequences.cu_seqlens_q, count, problem.len_q, "seqused_q");
  }
  if (sequences.seqused_kv != nullptr) {
    check_used(sequences.seqused_kv, sequences.cu_seqlens_kv, count, problem.len_kv, "seqused_kv");
  }
}

}  // namespace

VariantArgs check_variant_data(const Options& options, const Problem& problem, fa_device device, Backend& backend, AttentionRanges* ranges) {
  VariantArgs args;
  const fa_attention_options& basic = options.basic;
  const auto array = [&](const void* values, int64_t elements, const char* name) {
    check_array(values, name, backend, device.index);
    ranges->add(values, static_cast<uint64_t>(elements) * 4, name, false);
  };
  const auto pairs = [&](bool given, const fa_tensor& tensor, const char* name) {
    if (!given) {
      return PairTensor{};
    }
    check_data(tensor, name, backend, device.index);
    ranges->add(tensor, name, false);
    return to_pair_tensor(tensor);
  };
  const int64_t sequences_count = problem.num_sequences();
  if (basic.alibi_slopes != nullptr) {
    const int64_t last_batch = sequences_count > 0 ? (sequences_count - 1) * basic.alibi_batch_stride : 0;
    array(basic.alibi_slopes, last_batch + problem.heads_q, "alibi_slopes");
    args.alibi_slopes = basic.alibi_slopes;
    args.alibi_batch_stride = basic.alibi_batch_stride;
  }
  if (basic.sinks != nullptr) {
    array(basic.sinks, problem.heads_q, "sinks");
    args.sinks = basic.sinks;
  }
  args.bias = pairs(options.has_bias, options.bias, "bias");
  args.visible = pairs(options.has_visible, options.visible, "visible");
  args.block_mask = pairs(options.has_block_mask, options.block_mask, "block_mask");
  if (options.has_sequences) {
    const fa_sequences& sequences = options.sequences;
    array(sequences.cu_seqlens_q, sequences.count + 1, "sequences.cu_seqlens_q");
    array(sequences.cu_seqlens_kv, sequences.count + 1, "sequences.cu_seqlens_kv");
    array(sequences.seqused_q, sequences.count, "sequences.seqused_q");
    array(sequences.seqused_kv, sequences.count, "sequences.seqused_kv");
    if (device.type == FA_DEVICE_CPU) {
      check_lengths(sequences, problem);
    }
    args.cu_seqlens_q = sequences.cu_seqlens_q;
    args.cu_seqlens_kv = sequences.cu_seqlens_kv;
    args.seqused_q = sequences.seqused_q;
    args.seqused_kv = sequences.seqused_kv;
  }
  return args;
}

}  // namespace fa::api
