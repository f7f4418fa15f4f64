// Validation of fa_attention_dropout_mask, fa_attention_merge and fa_attention_merge_backward.
#include <cstdio>
#include <cstring>

#include "api/checks.h"
#include "api/validate.h"
#include "plan/error.h"

namespace fa::api {

namespace {

/// parts of o, lse, grad_part_o, grad_part_lse each; o, lse, grad_o, grad_lse.
using MergeRanges = Ranges<4 * FA_MERGE_MAX_PARTS + 4>;

/// "part_o[3]"
struct Name {
  char text[32];
  Name(const char* array, int i) { std::snprintf(text, sizeof(text), "%s[%d]", array, i); }
};

/// What is not part of the pass or of the parts in use must not be set: the caller meant something else.
void require_unset(const fa_tensor& tensor, const char* name, const char* where) {
  constexpr fa_tensor kUnset{};
  if (std::memcmp(&tensor, &kUnset, sizeof(kUnset)) != 0) {
    fail(FA_STATUS_INVALID_ARGUMENT, "%s: expected an all-zero tensor %s", name, where);
  }
}

void require_null(const void* pointer, const char* name, const char* where) {
  if (pointer != nullptr) {
    fail(FA_STATUS_INVALID_ARGUMENT, "%s: expected NULL %s, got %p", name, where, pointer);
  }
}

void check_unused(const fa_merge_params& params, bool backward) {
  for (int i = backward ? params.parts : 0; i < FA_MERGE_MAX_PARTS; ++i) {
    const char* const where = backward ? "beyond params.parts" : "in the forward pass";
    require_unset(params.grad_part_o[i], Name("grad_part_o", i).text, where);
    require_null(params.grad_part_lse[i], Name("grad_part_lse", i).text, where);
  }
  for (int i = params.parts; i < FA_MERGE_MAX_PARTS; ++i) {
    require_unset(params.part_o[i], Name("part_o", i).text, "beyond params.parts");
    require_null(params.part_lse[i], Name("part_lse", i).text, "beyond params.parts");
  }
  if (!backward) {
    require_unset(params.grad_o, "grad_o", "in the forward pass");
    require_null(params.grad_lse, "grad_lse", "in the forward pass");
  }
}

/// A tensor of the merge: its shape and, unless it is the model, its dtype against another's; its address.
void check_merged(const fa_tensor& tensor, const char* name, const fa_tensor& model, const char* model_name, bool same_dtype) {
  check_tensor(tensor, name);
  check_shape(tensor, name, model, model_name);
  if (same_dtype && tensor.dtype != model.dtype) {
    fail(FA_STATUS_INVALID_ARGUMENT, "%s.dtype: expected the dtype of %s, %s, got %s", name, model_name, dtype_name(to_dtype(model.dtype)),
         dtype_name(to_dtype(tensor.dtype)));
  }
}

}  // namespace

DropoutMaskArgs validate_dropout_mask(const fa_dropout_mask_params* given) {
  fa_dropout_mask_params params;
  copy_sized_struct(&params, sizeof(params), sizeof(params), given, "params", "fa_dropout_mask_params");
  if (params.reserved != 0) {
    fail(FA_STATUS_INVALID_ARGUMENT, "params.reserved: expected 0, got %d", params.reserved);
  }
  if (!(params.dropout >= 0.0f && params.dropout < 1.0f)) {
    fail(FA_STATUS_INVALID_ARGUMENT, "params.dropout: expected a probability in [0, 1), got %g", static_cast<double>(params.dropout));
  }
  Backend& backend = backend_of(params.device, "device");
  if (params.out.dtype != FA_DTYPE_UINT8) {
    fail(FA_STATUS_INVALID_ARGUMENT, "out.dtype: expected FA_DTYPE_UINT8 (3), got %d", params.out.dtype);
  }
  check_layout(params.out, "out", kPairDimensions);
  if (params.out.sizes[0] > (int64_t{1} << 32) / params.out.sizes[1]) {
    fail(FA_STATUS_INVALID_ARGUMENT, "out.sizes: expected batch * heads of at most 2^32, got %lld * %lld", ll{params.out.sizes[0]}, ll{params.out.sizes[1]});
  }
  backend.caps(params.device.index);
  check_stream(params.device, params.stream);
  check_data(params.out, "out", backend, params.device.index);
  Ranges<1> ranges;
  ranges.add(params.out, "out", true);
  ranges.check();
  DropoutMaskArgs args;
  args.device = params.device;
  args.dropout = {params.dropout, params.seed, params.offset};
  for (int i = 0; i < FA_TENSOR_RANK; ++i) {
    args.sizes[i] = params.out.sizes[i];
  }
  args.out = to_pair_tensor(params.out);
  args.stream = params.stream;
  return args;
}

MergeArgs validate_merge(const fa_merge_params* given, bool backward) {
  fa_merge_params params;
  copy_sized_struct(&params, sizeof(params), sizeof(params), given, "params", "fa_merge_params");
  if (params.parts < 1 || params.parts > FA_MERGE_MAX_PARTS) {
    fail(FA_STATUS_INVALID_ARGUMENT, "params.parts: expected 1 … %d, got %d", FA_MERGE_MAX_PARTS, params.parts);
  }
  Backend& backend = backend_of(params.device, "device");
  const int index = params.device.index;
  check_unused(params, backward);
  check_tensor(params.o, "o");
  const fa_tensor& o = params.o;
  constexpr int64_t kMaxRows = int64_t{1} << 50;
  if (o.sizes[0] > 0 && o.sizes[2] > kMaxRows / o.sizes[0] / (o.sizes[1] > 0 ? o.sizes[1] : 1)) {
    fail(FA_STATUS_INVALID_ARGUMENT, "o.sizes: expected batch * sequence * heads below 2^50, got (%lld, %lld, %lld)", ll{o.sizes[0]}, ll{o.sizes[1]},
         ll{o.sizes[2]});
  }
  backend.caps(index);
  check_stream(params.device, params.stream);

  const uint64_t rows = static_cast<uint64_t>(o.sizes[0]) * static_cast<uint64_t>(o.sizes[1]) * static_cast<uint64_t>(o.sizes[2]);
  MergeRanges ranges;
  const auto tensor = [&](const fa_tensor& each, const char* name, const fa_tensor& model, const char* model_name, bool same_dtype, bool output) {
    check_merged(each, name, model, model_name, same_dtype);
    check_data(each, name, backend, index);
    ranges.add(each, name, output);
    return to_tensor(each);
  };
  const auto array = [&](const float* values, const char* name, bool output) {
    require_array(values, rows, name, backend, index);
    ranges.add(values, rows * sizeof(float), name, output);
  };
  MergeArgs args;
  args.device = params.device;
  args.parts = params.parts;
  args.part_dtype = to_dtype(params.part_o[0].dtype);
  args.dtype = to_dtype(o.dtype);
  args.batch = o.sizes[0];
  args.len_q = o.sizes[1];
  args.heads_q = o.sizes[2];
  args.head_dim_v = o.sizes[3];
  args.stream = params.stream;
  args.o = tensor(o, "o", o, "o", true, !backward);
  array(params.lse, "lse", !backward);
  args.lse = params.lse;
  if (backward) {
    args.grad_o = tensor(params.grad_o, "grad_o", o, "o", true, false);
    check_array(params.grad_lse, "grad_lse", backend, index);
    ranges.add(params.grad_lse, rows * sizeof(float), "grad_lse", false);
    args.grad_lse = params.grad_lse;
  }
  // The ranges keep the names until they are checked.
  const auto names_of = [](const char* array_name) {
    struct Names {
      char text[FA_MERGE_MAX_PARTS][32];
    } names;
    for (int i = 0; i < FA_MERGE_MAX_PARTS; ++i) {
      std::snprintf(names.text[i], sizeof(names.text[i]), "%s[%d]", array_name, i);
    }
    return names;
  };
  const auto part_o = names_of("part_o"), part_lse = names_of("part_lse"), grad_part_o = names_of("grad_part_o"), grad_part_lse = names_of("grad_part_lse");
  for (int i = 0; i < params.parts; ++i) {
    check_merged(params.part_o[i], part_o.text[i], params.part_o[0], "part_o[0]", true);
    args.part_o[i] = tensor(params.part_o[i], part_o.text[i], o, "o", false, false);
    array(params.part_lse[i], part_lse.text[i], false);
    args.part_lse[i] = params.part_lse[i];
    if (backward) {
      args.grad_part_o[i] = tensor(params.grad_part_o[i], grad_part_o.text[i], params.part_o[i], part_o.text[i], true, true);
      array(params.grad_part_lse[i], grad_part_lse.text[i], true);
      args.grad_part_lse[i] = params.grad_part_lse[i];
    }
  }
  ranges.check();
  return args;
}

}  // namespace fa::api
