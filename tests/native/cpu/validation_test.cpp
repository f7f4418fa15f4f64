// Every field of the options has a message of its own, and callers of version 0.1 are understood.
#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <limits>

#include "host_tensor.h"

namespace fa_test {
namespace {

/// A small backward call with everything set that options can hold.
struct Call {
  HostTensor q{FA_DTYPE_FLOAT16, {2, 20, 4, 8}, Layout::kBshd}, k{FA_DTYPE_FLOAT16, {2, 30, 2, 8}, Layout::kBshd},
      v{FA_DTYPE_FLOAT16, {2, 30, 2, 8}, Layout::kBshd};
  HostTensor o = q, grad_o = q, grad_q = q, grad_k = k, grad_v = v;
  HostTensor bias_data{FA_DTYPE_FLOAT32, {2, 4, 20, 30}, Layout::kBshd}, grad_bias_data = bias_data;
  std::vector<uint8_t> visible_data = std::vector<uint8_t>(30, 1), block_data = std::vector<uint8_t>(4 * 2 * 2, 1);
  std::vector<float> lse = std::vector<float>(160), slopes = std::vector<float>(8, 0.1f), sinks = std::vector<float>(4), grad_sinks = sinks;
  std::vector<int32_t> used = {20, 10};
  std::vector<unsigned char> workspace;
  fa_tensor bias = bias_data.view(), visible{visible_data.data(), {1, 1, 1, 30}, {0, 0, 0, 1}, FA_DTYPE_UINT8, 0};
  fa_tensor blocks{block_data.data(), {1, 4, 2, 2}, {0, 4, 2, 1}, FA_DTYPE_UINT8, 0};
  fa_sequences sequences{};
  fa_attention_options options{};
  fa_backward_params params{};

  Call() {
    for (HostTensor* tensor : {&q, &k, &v, &o, &grad_o, &bias_data}) tensor->fill_normal(3);
    sequences.struct_size = sizeof(sequences);
    sequences.count = 2;
    sequences.seqused_kv = used.data();
    options.struct_size = sizeof(options);
    options.mask = FA_MASK_WINDOW_TOP_LEFT;
    options.window_left = 5;
    options.chunk = 16;
    options.softcap = 2.0f;
    options.dropout = 0.1f;
    options.block_q = options.block_kv = 16;
    options.alibi_slopes = slopes.data();
    options.alibi_batch_stride = 4;
    options.sinks = sinks.data();
    options.bias = &bias;
    options.visible = &visible;
    options.block_mask = &blocks;
    options.sequences = &sequences;
    params.struct_size = sizeof(params);
    params.q = q.view(), params.k = k.view(), params.v = v.view(), params.o = o.view(), params.grad_o = grad_o.view();
    params.grad_q = grad_q.view(), params.grad_k = grad_k.view(), params.grad_v = grad_v.view();
    params.grad_bias = grad_bias_data.view();
    params.grad_sinks = grad_sinks.data();
    params.lse = lse.data();
    params.options = &options;
  }

  fa_status run() {
    const fa_status status = fa_attention_backward_workspace_size(&params, &params.workspace_bytes);
    if (status != FA_STATUS_OK) return status;
    workspace.assign(params.workspace_bytes + 16, 0);
    params.workspace = workspace.data() + (16 - reinterpret_cast<uintptr_t>(workspace.data()) % 16) % 16;
    return fa_attention_backward(&params);
  }
};

TEST(Validation, EverythingAtOnceIsAccepted) {
  Call call;
  EXPECT_EQ(FA_STATUS_OK, call.run()) << fa_last_error_message();
}

template <class Change>
void refused(const char* expected, const Change& change) {
  Call call;
  change(call);
  EXPECT_EQ(FA_STATUS_INVALID_ARGUMENT, call.run()) << expected;
  EXPECT_NE(nullptr, std::strstr(fa_last_error_message(), expected)) << "expected: " << expected << "\ngot: " << fa_last_error_message();
}

TEST(Validation, OptionsAreNamed) {
  refused("options.mask: expected", [](Call& c) { c.options.mask = 5; });
  refused("options.window_left: expected -1 (all keys) or more, got -2", [](Call& c) { c.options.window_left = -2; });
  refused("options.window_right: expected -1 (all keys) or more, got -9", [](Call& c) { c.options.window_right = -9; });
  refused("options.window_left: expected 0 with a mask that is no window, got 5", [](Call& c) { c.options.mask = FA_MASK_NONE; });
  refused("options.chunk: expected 0", [](Call& c) { c.options.chunk = -1; });
  refused("options.softcap: expected a finite number", [](Call& c) { c.options.softcap = std::numeric_limits<float>::quiet_NaN(); });
  refused("options.dropout: expected a probability in [0, 1), got 1", [](Call& c) { c.options.dropout = 1.0f; });
  refused("options.dropout: expected a probability", [](Call& c) { c.options.dropout = std::numeric_limits<float>::quiet_NaN(); });
  refused("options.block_q: expected a positive multiple of 16, got 24", [](Call& c) { c.options.block_q = 24; });
  refused("options.block_kv: expected a positive multiple of 16, got 0", [](Call& c) { c.options.block_kv = 0; });
  refused("options.block_q: expected 0 without block_mask, got 16", [](Call& c) { c.options.block_mask = nullptr; });
  refused("options.reserved2: expected 0", [](Call& c) { c.options.reserved2 = 1; });
  refused("options.alibi_batch_stride: expected 0 without alibi_slopes", [](Call& c) { c.options.alibi_slopes = nullptr; });
  refused("options.alibi_batch_stride: expected 0 …", [](Call& c) { c.options.alibi_batch_stride = -4; });
  refused("alibi_slopes: expected an address aligned to 4 bytes",
          [](Call& c) { c.options.alibi_slopes = reinterpret_cast<const float*>(reinterpret_cast<const char*>(c.slopes.data()) + 2); });
  refused("sinks: expected an address aligned to 4 bytes",
          [](Call& c) { c.options.sinks = reinterpret_cast<const float*>(reinterpret_cast<const char*>(c.sinks.data()) + 1); });
}

TEST(Validation, TensorsOfPairsAreNamed) {
  refused("bias.dtype: expected FA_DTYPE_FLOAT32 (0) or the dtype of q, 1, got 2", [](Call& c) { c.bias.dtype = FA_DTYPE_BFLOAT16; });
  refused("bias.sizes[2] (queries): expected 20 or 1, got 19", [](Call& c) { c.bias.sizes[2] = 19; });
  refused("bias.sizes[3] (keys): expected 30, got 1", [](Call& c) { c.bias.sizes[3] = 1; });
  refused("bias.strides[3] (keys): expected 1", [](Call& c) { c.bias.strides[3] = 2; });
  refused("bias.data: expected the address", [](Call& c) { c.bias.data = nullptr; });
  refused("visible.dtype: expected FA_DTYPE_UINT8 (3), got 0", [](Call& c) { c.visible.dtype = FA_DTYPE_FLOAT32; });
  refused("visible.sizes[1] (heads): expected 4 or 1, got 2", [](Call& c) { c.visible.sizes[1] = 2; });
  refused("block_mask.dtype: expected FA_DTYPE_UINT8 (3), got 1", [](Call& c) { c.blocks.dtype = FA_DTYPE_FLOAT16; });
  refused("block_mask.sizes[2] (queries): expected 2, got 1", [](Call& c) { c.blocks.sizes[2] = 1; });
  refused("grad_bias.dtype: expected the dtype of bias, 0, got 1", [](Call& c) { c.params.grad_bias.dtype = FA_DTYPE_FLOAT16; });
  refused("grad_bias.sizes[1] (heads): expected that of bias, 4, got 1", [](Call& c) { c.params.grad_bias.sizes[1] = 1; });
  refused("grad_bias: expected an all-zero tensor without options.bias", [](Call& c) { c.options.bias = nullptr; });
  refused("grad_sinks: expected NULL without options.sinks", [](Call& c) { c.options.sinks = nullptr; });
  refused("grad_bias: expected memory apart from bias", [](Call& c) { c.params.grad_bias.data = c.bias.data; });
  refused("grad_bias.strides: expected distinct elements", [](Call& c) { c.params.grad_bias.strides[1] = 0; });
  refused("grad_sinks: expected memory apart from sinks", [](Call& c) { c.params.grad_sinks = c.sinks.data(); });
  refused("grad_q: expected memory apart from visible", [](Call& c) { c.visible.data = c.params.grad_q.data; });
}

TEST(Validation, SequencesAreNamed) {
  refused("sequences.struct_size: expected sizeof(fa_sequences), 64, got 8", [](Call& c) { c.sequences.struct_size = 8; });
  refused("sequences.left_padded: expected 0 or 1, got 2", [](Call& c) { c.sequences.left_padded = 2; });
  refused("sequences.count: expected the batch of q, 2, got 3", [](Call& c) { c.sequences.count = 3; });
  refused("sequences.cu_seqlens_kv: expected an address", [](Call& c) { c.sequences.cu_seqlens_q = c.used.data(); });
  refused("sequences.seqused_kv[1]: expected 0 … 30, the places of the sequence, got 31", [](Call& c) { c.used[1] = 31; });
  refused("q.sizes[0] (batch): expected 1 with packed sequences, got 2", [](Call& c) { c.sequences.cu_seqlens_q = c.sequences.cu_seqlens_kv = c.used.data(); });
}

TEST(Validation, PackedOffsetsAreChecked) {
  HostTensor q(FA_DTYPE_FLOAT32, {1, 12, 1, 8}, Layout::kBshd), o = q;
  q.fill_normal(1);
  std::vector<int32_t> offsets;
  fa_sequences sequences{};
  sequences.struct_size = sizeof(sequences);
  sequences.count = 2;
  sequences.max_len_q = sequences.max_len_kv = 8;
  fa_attention_options options{};
  options.struct_size = sizeof(options);
  options.sequences = &sequences;
  const auto status = [&](std::vector<int32_t> given) {
    offsets = given;
    sequences.cu_seqlens_q = sequences.cu_seqlens_kv = offsets.data();
    fa_forward_params params{};
    params.struct_size = sizeof(params);
    params.q = params.k = params.v = q.view(), params.o = o.view();
    params.options = &options;
    EXPECT_EQ(FA_STATUS_OK, fa_attention_forward_workspace_size(&params, &params.workspace_bytes)) << fa_last_error_message();
    std::vector<unsigned char> workspace(params.workspace_bytes + 16);
    params.workspace = workspace.data() + (16 - reinterpret_cast<uintptr_t>(workspace.data()) % 16) % 16;
    return fa_attention_forward(&params);
  };
  EXPECT_EQ(FA_STATUS_OK, status({0, 5, 12}));
  for (const auto& [given, message] : {std::pair<std::vector<int32_t>, const char*>({1, 5, 12}, "cu_seqlens_q[0]: expected 0 … 0, got 1"),
                                       {{0, 5, 13}, "cu_seqlens_q[2]: expected 5 … 12, got 13"},
                                       {{0, 5, 4}, "cu_seqlens_q[2]: expected 5 … 12, got 4"},
                                       {{0, 3, 12}, "max_len_q: expected at least 9, the length of sequence 1, got 8"}}) {
    EXPECT_EQ(FA_STATUS_INVALID_ARGUMENT, status(given));
    EXPECT_NE(nullptr, std::strstr(fa_last_error_message(), message)) << fa_last_error_message();
  }
}

/// Structs as version 0.1 knew them: fields after their end are not looked at.
TEST(Validation, OlderCallersAreUnderstood) {
  Call call;
  call.options = {};
  call.options.struct_size = 24;
  call.options.mask = FA_MASK_CAUSAL_TOP_LEFT;
  std::memset(&call.options.window_left, 0xff, sizeof(call.options) - offsetof(fa_attention_options, window_left));
  call.params.struct_size = offsetof(fa_backward_params, grad_bias);
  std::memset(&call.params.grad_bias, 0xff, sizeof(call.params) - offsetof(fa_backward_params, grad_bias));
  EXPECT_EQ(FA_STATUS_OK, call.run()) << fa_last_error_message();
  call.options.struct_size = 20;
  EXPECT_EQ(FA_STATUS_INVALID_ARGUMENT, call.run());
}

/// Plans for absent GPUs: the portable kernels compute every variant, and a family that is insisted on names the first one that it does not.
TEST(Validation, CudaFamiliesNameTheVariant) {
  Call call;
  fa_describe_params params{};
  params.struct_size = sizeof(params);
  params.device = {FA_DEVICE_CUDA, 0};
  params.assumed_compute_capability = 90;
  params.q = call.q.view(), params.k = call.k.view(), params.v = call.v.view();
  params.options = &call.options;
  fa_plan_description description{};
  description.struct_size = sizeof(description);
  EXPECT_EQ(FA_STATUS_OK, fa_attention_describe(&params, &description)) << fa_last_error_message();
  EXPECT_EQ(FA_KERNEL_SM80, description.kernel);
  call.options.kernel = FA_KERNEL_SM90;
  EXPECT_EQ(FA_STATUS_UNSUPPORTED, fa_attention_describe(&params, &description));
  EXPECT_NE(nullptr, std::strstr(fa_last_error_message(), "it does not compute")) << fa_last_error_message();
}

}  // namespace
}  // namespace fa_test
