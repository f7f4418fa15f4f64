#include "plan/variants.h"

#include <algorithm>
#include <iterator>

#include "plan/plan.h"

namespace fa {

namespace {

struct Named {
  uint32_t bit;
  const char* name;
};

constexpr Named kNames[] = {
    {kVariantWindow, "a sliding window"},
    {kVariantChunk, "attention chunks"},
    {kVariantSoftcap, "softcap"},
    {kVariantAlibi, "ALiBi slopes"},
    {kVariantBias, "an additive bias"},
    {kVariantGradBias, "the gradient of the bias"},
    {kVariantVisible, "a boolean mask"},
    {kVariantBlockMask, "a block mask"},
    {kVariantSinks, "attention sinks"},
    {kVariantDropout, "dropout"},
    {kVariantSequences, "sequences of different lengths"},
};

/// Sum over rows i in [0, rows) of clamp(i + offset + 1, 0, cols): how many of cols keys lie at or before i + offset.
double ramp(double rows, double offset, double cols) {
  const auto clamp_row = [&](double row) { return std::clamp(row, 0.0, rows); };
  const double first_visible = clamp_row(-offset), first_full = clamp_row(cols - 1 - offset);
  const double ramp_rows = std::max(first_full - first_visible, 0.0);
  const double on_ramp = ramp_rows * (first_visible + offset + 1) + ramp_rows * (ramp_rows - 1) / 2;
  return on_ramp + (rows - std::max(first_full, first_visible)) * cols;
}

struct Span {
  int64_t begin, end;
  double size() const { return end > begin ? static_cast<double>(end - begin) : 0.0; }
};

/// Pairs of a position p and a key j with p - left <= j <= p + right; left and right may be -1 for all.
double pairs_in_window(Span positions, Span keys, int64_t left, int64_t right) {
  if (positions.size() == 0 || keys.size() == 0) {
    return 0;
  }
  const auto up_to = [&](int64_t reach) { return ramp(positions.size(), static_cast<double>(positions.begin + reach - keys.begin), keys.size()); };
  const double ended = right < 0 ? positions.size() * keys.size() : up_to(right);
  return ended - (left < 0 ? 0.0 : up_to(-left - 1));
}

int64_t floor_div(int64_t dividend, int64_t divisor) {
  return dividend / divisor - (dividend % divisor < 0);
}

Span cut(Span span, int64_t chunk, int64_t index) {
  return {std::max(span.begin, chunk * index), std::min(span.end, chunk * (index + 1))};
}

}  // namespace

uint32_t variants_of(const Problem& problem) {
  const Variants& v = problem.variants;
  const bool window = problem.mask == Mask::kWindowTopLeft || problem.mask == Mask::kWindowBottomRight;
  return (window ? kVariantWindow : 0u) | (v.chunk > 0 ? kVariantChunk : 0u) | (v.softcap > 0 ? kVariantSoftcap : 0u) | (v.alibi ? kVariantAlibi : 0u) |
         (v.bias ? kVariantBias : 0u) | (v.grad_bias ? kVariantGradBias : 0u) | (v.visible ? kVariantVisible : 0u) | (v.block_mask ? kVariantBlockMask : 0u) |
         (v.sinks ? kVariantSinks : 0u) | (v.dropout.probability > 0 ? kVariantDropout : 0u) | (v.sequences.given ? kVariantSequences : 0u);
}

const char* first_variant_beyond(const Problem& problem, uint32_t computed) {
  const uint32_t missing = variants_of(problem) & ~computed;
  const Named* const found = std::find_if(std::begin(kNames), std::end(kNames), [&](const Named& each) { return (missing & each.bit) != 0; });
  return found == std::end(kNames) ? nullptr : found->name;
}

bool refuse_variants(const Problem& problem, uint32_t computed, Reason* why_not) {
  const char* const variant = first_variant_beyond(problem, computed);
  if (variant != nullptr) {
    why_not->set("it does not compute %s", variant);
  }
  return variant != nullptr;
}

double Problem::visible_pairs_per_head() const {
  const int64_t rows = max_len_q(), cols = max_len_kv();
  const int64_t first = bottom_right() ? cols - rows : 0;
  const bool window = mask == Mask::kWindowTopLeft || mask == Mask::kWindowBottomRight;
  const int64_t left = window ? variants.window_left : -1, right = is_causal() ? 0 : window ? variants.window_right : -1;
  const Span positions{first, first + rows}, keys{0, cols};
  if (variants.chunk <= 0) {
    return pairs_in_window(positions, keys, left, right);
  }
  const auto pairs_of = [&](int64_t index) { return pairs_in_window(cut(positions, variants.chunk, index), cut(keys, variants.chunk, index), left, right); };
  if (rows == 0 || cols == 0 || positions.end <= 0) {
    return 0;
  }
  // Chunks between the first and the last are full and all alike.
  const int64_t first_chunk = floor_div(std::max<int64_t>(first, 0), variants.chunk);
  const int64_t last_chunk = std::min(floor_div(positions.end - 1, variants.chunk), floor_div(cols - 1, variants.chunk));
  if (last_chunk < first_chunk) {
    return 0;
  }
  const double ends = pairs_of(first_chunk) + (last_chunk > first_chunk ? pairs_of(last_chunk) : 0.0);
  return ends + (last_chunk > first_chunk + 1 ? static_cast<double>(last_chunk - first_chunk - 1) * pairs_of(first_chunk + 1) : 0.0);
}

double Problem::full_sequences() const {
  if (!variants.sequences.packed) {
    return static_cast<double>(batch);
  }
  const auto fitting = [](int64_t total, int64_t longest) { return longest > 0 ? static_cast<double>(total) / static_cast<double>(longest) : 0.0; };
  return std::min({static_cast<double>(variants.sequences.count), fitting(len_q, max_len_q()), fitting(len_kv, max_len_kv())});
}

}  // namespace fa
