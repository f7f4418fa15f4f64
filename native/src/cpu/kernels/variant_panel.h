// What variants do to the scores of a panel of queries: which keys it sees, what is added, softcap, dropout.
#pragma once

#include "cpu/kernels/variant_tile.h"
#include "cpu/kernels/vec.h"

namespace fa::cpu::FA_CPU_TARGET {

/// True if the block mask leaves a pair of the tile's queries and these keys; without a block mask true.
bool blocks_visible(const VariantTile& v, KeyTile keys, int num_queries);

/// Which of the keys the `lanes` queries from first_lane on see, and what is added to their scores: rows of `extra`, ld_extra floats apart, one lane per query.
PanelView prepare_panel(const VariantTile& v, KeyTile keys, int first_lane, int lanes, float* extra, int ld_extra);

/// Dropout's factors of rows [begin, end) of the key tile into scratch.keep, 0 for dropped pairs.
void prepare_keep(const VariantTile& v, KeyTile keys, int first_lane, PanelView view);

/// tanh within about 2 ulp; NaN stays NaN. With e = exp(2x) - 1: e / (e + 2). 2x = n ln2 + f, e = 2^n p(f) + (2^n - 1) with p(f) = exp(f) - 1, which keeps the
/// small arguments' digits.
FA_INLINE Vec tanh_vec(Vec x) {
  const Vec magic = set1(12582912.0f + 127.0f);  // as in exp_vec
  Vec y = min_keep_nan(add(x, x), set1(40.0f));
  y = max_keep_nan(y, set1(-40.0f));
  const Vec shifted = fma(y, set1(1.44269504089f), magic);
  const Vec n = sub(shifted, magic);
  Vec f = fnma(n, set1(0.693359375f), y);
  f = fnma(n, set1(-2.12194440e-4f), f);
  Vec r = fma(f, set1(0.00139263761f), set1(0.00836333353f));
  r = fma(r, f, set1(0.0416665524f));
  r = fma(r, f, set1(0.166665763f));
  r = fma(r, f, set1(0.5f));
  r = fma(r, f, set1(1.0f));
  const Vec power = exponent_from_low_bits(shifted);
  const Vec e = fma(power, mul(r, f), sub(power, set1(1.0f)));
  return div(e, add(e, set1(2.0f)));
}

}  // namespace fa::cpu::FA_CPU_TARGET
