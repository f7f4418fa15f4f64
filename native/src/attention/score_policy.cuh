// What a kernel does to scores beyond scale and causal mask: a template parameter of the portable kernels. PlainScores is nothing and compiles to nothing;
// ModifiedScores is window, chunk, softcap, bias, ALiBi, boolean and block mask, sinks and dropout, whichever of them the call sets.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cmath>
#include <type_traits>

#include "attention/score_params.h"
#include "ptx/exp2.cuh"
#include "tile/warp_product.cuh"

namespace fa {

struct PlainScores {
  static constexpr bool kModified = false;
  template <class Element>
  struct Head {};
};

/// Row and key of an accumulator element.
struct Pair {
  int row, key;
};

/// The modifications for one query head.
template <class Element>
class ModifiedHead {
 public:
  /// range: that of params, with the lengths of a sequence, which batch then numbers.
  __device__ __forceinline__ ModifiedHead(const ScoreParams& params, const PairRange& range, int64_t batch, int64_t head)
      : p_(params),
        range_(range),
        head_index_(static_cast<uint32_t>(batch * params.heads_q + head)),
        slope_log2_(params.alibi_slopes != nullptr ? params.alibi_slopes[batch * params.alibi_batch_stride + head] * kScoreLog2E : 0.0f),
        bias_(batch * params.bias.batch_stride + head * params.bias.head_stride),
        visible_(batch * params.visible.batch_stride + head * params.visible.head_stride),
        blocks_(batch * params.block_mask.batch_stride + head * params.block_mask.head_stride) {}

  __device__ __forceinline__ bool drops() const { return p_.drop_below != 0; }

  /// One pair, for the rare paths.
  __device__ __forceinline__ bool sees(int row, int key) const {
    return range_.sees(row, key) && (p_.visible.data == nullptr || visible_at(row, key)) && (p_.block_mask.data == nullptr || block_at(row, key)) &&
           (p_.bias.data == nullptr || bias_at(row, key) != -INFINITY);
  }

  /// q k^T -> scores in base 2, -inf where hidden whatever they were. pair_of(m, n, i): the pair of an element. whole: the range hides none of them.
  template <int kM, int kN, class PairOf>
  __device__ __forceinline__ void modify(Accumulators<kM, kN>& s, bool whole, PairOf&& pair_of) const {
    if (p_.softcap_log2 > 0.0f) {
      for_each(s, [&](float& x, int, int, int) { x = p_.softcap_log2 * capped(x); });
    } else {
      for_each(s, [&](float& x, int, int, int) { x *= p_.scale_log2; });
    }
    add_and_hide(s, whole, pair_of);
  }

  /// s = q k^T -> what grad_v takes of a pair, dp = grad_o v^T -> dS, not yet scaled; both 0 where hidden. lse_of and delta_of(m, n, i): of the element's row.
  template <int kM, int kN, class PairOf, class LseOf, class DeltaOf>
  __device__ __forceinline__ void differentiate(Accumulators<kM, kN>& s, Accumulators<kM, kN>& dp, bool whole, PairOf&& pair_of, LseOf&& lse_of,
                                                DeltaOf&& delta_of) const {
    if (drops()) {
      for_each(dp, [&](float& x, int m, int n, int i) { x *= keep(pair_of(m, n, i)); });
    }
    for_each(dp, [&](float& x, int m, int n, int i) { x -= delta_of(m, n, i); });
    if (p_.softcap_log2 > 0.0f) {
      for_each(s, [&](float& x, int m, int n, int i) {
        const float t = capped(x);
        x = p_.softcap_log2 * t;
        dp[m][n][i] *= fmaf(-t, t, 1.0f);
      });
    } else {
      for_each(s, [&](float& x, int, int, int) { x *= p_.scale_log2; });
    }
    add_and_hide(s, whole, pair_of);
    for_each(s, [&](float& x, int m, int n, int i) {
      const bool hidden = x == -INFINITY;
      x = hidden ? 0.0f : ptx::exp2_approx(x - lse_of(m, n, i));
      dp[m][n][i] = hidden ? 0.0f : x * dp[m][n][i];
    });
    if (drops()) {
      for_each(s, [&](float& x, int m, int n, int i) { x *= keep(pair_of(m, n, i)); });
    }
  }

  /// What dropout multiplies a probability by. Philox4x32-10 (Salmon et al., 2011), as fa_attention_dropout_mask describes it.
  __device__ __forceinline__ float keep(Pair pair) const {
    uint32_t c0 = static_cast<uint32_t>(pair.key) / 4, c1 = static_cast<uint32_t>(pair.row), c2 = head_index_, c3 = p_.dropout_offset;
    uint32_t key0 = static_cast<uint32_t>(p_.dropout_seed), key1 = static_cast<uint32_t>(p_.dropout_seed >> 32);
#pragma unroll 1
    for (int round = 0; round < 10; ++round) {
      const uint64_t product0 = uint64_t{0xD2511F53u} * c0, product1 = uint64_t{0xCD9E8D57u} * c2;
      c0 = static_cast<uint32_t>(product1 >> 32) ^ c1 ^ key0;
      c1 = static_cast<uint32_t>(product1);
      c2 = static_cast<uint32_t>(product0 >> 32) ^ c3 ^ key1;
      c3 = static_cast<uint32_t>(product0);
      key0 += 0x9E3779B9u;
      key1 += 0xBB67AE85u;
    }
    const uint32_t low = pair.key & 1 ? c1 : c0, high = pair.key & 1 ? c3 : c2;
    return (pair.key & 2 ? high : low) >= p_.drop_below ? p_.keep_scale : 0.0f;
  }

 private:
  template <int kM, int kN, class Work>
  __device__ __forceinline__ static void for_each(Accumulators<kM, kN>& s, Work&& work) {
#pragma unroll
    for (int m = 0; m < kM; ++m) {
#pragma unroll
      for (int n = 0; n < kN; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) work(s[m][n][i], m, n, i);
      }
    }
  }

  /// tanh(scale x / softcap) as 1 - 2 / (1 + exp(2 …)): absolute error about 2^-22; exact at both ends, where the exponential is 0 or beyond all bounds.
  __device__ __forceinline__ float capped(float x) const {
    return 1.0f - __fdividef(2.0f, 1.0f + fminf_keep_nan(ptx::exp2_approx(x * p_.twice_inverse_softcap_log2)));
  }
  /// __fdividef gives NaN for an infinite divisor.
  __device__ __forceinline__ static float fminf_keep_nan(float x) {
    return x > 1e30f ? 1e30f : x;
  }

  template <int kM, int kN, class PairOf>
  __device__ __forceinline__ void add_and_hide(Accumulators<kM, kN>& s, bool whole, PairOf&& pair_of) const {
    if (p_.bias.data != nullptr) {
      for_each(s, [&](float& x, int m, int n, int i) {
        const Pair pair = pair_of(m, n, i);
        if (!exists(pair)) return;
        const float bias = bias_at(pair.row, pair.key);
        x = bias == -INFINITY ? bias : fmaf(bias, kScoreLog2E, x);
      });
    }
    if (p_.alibi_slopes != nullptr) {
      for_each(s, [&](float& x, int m, int n, int i) {
        const Pair pair = pair_of(m, n, i);
        // A hidden pair stays -inf, also beside a slope that is infinite or NaN.
        if (x != -INFINITY) x = fmaf(-slope_log2_, fabsf(static_cast<float>(pair.row + range_.offset - pair.key)), x);
      });
    }
    if (!whole) {
      for_each(s, [&](float& x, int m, int n, int i) {
        const Pair pair = pair_of(m, n, i);
        if (!range_.sees(pair.row, pair.key)) x = -INFINITY;
      });
    }
    if (p_.visible.data != nullptr) {
      for_each(s, [&](float& x, int m, int n, int i) {
        const Pair pair = pair_of(m, n, i);
        if (exists(pair) && !visible_at(pair.row, pair.key)) x = -INFINITY;
      });
    }
    if (p_.block_mask.data != nullptr) {
      for_each(s, [&](float& x, int m, int n, int i) {
        const Pair pair = pair_of(m, n, i);
        if (exists(pair) && !block_at(pair.row, pair.key)) x = -INFINITY;
      });
    }
  }

  __device__ __forceinline__ bool exists(Pair pair) const {
    return pair.row < range_.len_q && pair.key < range_.len_kv;
  }
  __device__ __forceinline__ float bias_at(int row, int key) const {
    const int64_t at = bias_ + row * p_.bias.row_stride + key;
    if (p_.bias_is_float) return static_cast<const float*>(p_.bias.data)[at];
    const uint16_t bits = static_cast<const uint16_t*>(p_.bias.data)[at];
    if constexpr (std::is_same_v<Element, __half>) {
      return __half2float(__ushort_as_half(bits));
    } else {
      return __uint_as_float(static_cast<uint32_t>(bits) << 16);
    }
  }
  __device__ __forceinline__ bool visible_at(int row, int key) const {
    return static_cast<const uint8_t*>(p_.visible.data)[visible_ + row * p_.visible.row_stride + key] != 0;
  }
  __device__ __forceinline__ bool block_at(int row, int key) const {
    const int64_t at = blocks_ + p_.by_block_q.quotient(row) * p_.block_mask.row_stride + p_.by_block_kv.quotient(key);
    return static_cast<const uint8_t*>(p_.block_mask.data)[at] != 0;
  }

  const ScoreParams& p_;
  const PairRange range_;
  const uint32_t head_index_;  ///< batch * heads_q + head
  const float slope_log2_;
  const int64_t bias_, visible_, blocks_;  ///< elements before those of this head
};

struct ModifiedScores {
  static constexpr bool kModified = true;
  template <class Element>
  using Head = ModifiedHead<Element>;
};

/// The sum of a row's exponentials with its sink: what to multiply o by, and the log-sum-exp.
struct SinkSum {
  float inverse, lse;
};

/// reference and sink in base 2; total: sum of exp2(score - reference), 0 if the row saw no key (reference is then -inf).
__device__ __forceinline__ SinkSum add_sink(float reference, float total, float sink) {
  if (sink == -INFINITY && total == 0.0f) return {0.0f, -INFINITY};
  constexpr float kLn2 = 0.6931471805599453f;
  const float top = fmaxf(reference, sink);
  const float factor = reference == top ? 1.0f : ptx::exp2_approx(reference - top);
  const float sum = fmaf(total, factor, ptx::exp2_approx(sink - top));
  return {factor / sum, fmaf(top, kLn2, logf(sum))};
}

}  // namespace fa
