// fa_attention_options and what it points to, read once and checked.
#pragma once

#include "api/checks.h"

namespace fa::api {

/// Copies of the caller's structs; all-zero where nothing is given.
struct Options {
  fa_attention_options basic{};
  fa_tensor bias{};
  fa_tensor visible{};
  fa_tensor block_mask{};
  fa_sequences sequences{};
  bool has_bias = false;
  bool has_visible = false;
  bool has_block_mask = false;
  bool has_sequences = false;
};

/// Copies the options, null for the defaults, and checks every value that needs no shape.
Options read_options(const fa_attention_options* given);

/// Applies the options to a problem whose shapes are set, and checks them against those. q_dtype: what the bias may have besides fp32.
void apply_options(const Options& options, fa_dtype q_dtype, Problem* problem);

/// Addresses, alignment and, on the CPU, the lengths of the sequences; adds the inputs to the call's ranges.
VariantArgs check_variant_data(const Options& options, const Problem& problem, fa_device device, Backend& backend, AttentionRanges* ranges);

}  // namespace fa::api
