// What a kernel does to scores beyond scale and causal mask: a template parameter of the portable kernels. PlainScores is nothing and compiles to nothing;
// ModifiedScores is window, chunk, softcap, bias, ALiBi, boolean and block mask, sinks and dropout, whichever of them the call sets.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cmath>
#include <type_traits>

#include "attention/bias_tile.cuh"
#include "attention/dropout.cuh"
#include "attention/score_params.h"
#include "ptx/exp2.cuh"
#include "ptx/reciprocal.cuh"
#include "tile/warp_product.cuh"

namespace fa {

/// How the accumulators of a warp lie: those of S = q k^T, or of its transpose. Both are Accumulators<kM, kN>, and pair_of(m, n, i) is the pair of an element:
/// in S its row depends on m and i / 2 and its key on n and i % 2, in S^T the other way round.
enum class ScoreLayout { kRowsByKeys, kKeysByRows };

/// What of the backward pass is wanted: S^T of the main kernel gives P and dS; S of the grad_q kernel dS alone; that of the grad_bias kernel the gradient of
/// what is added to the scores, to which softcap's derivative does not belong.
enum class ScoreGradient { kWithProbability, kAlone, kOfBias };

struct PlainScores {
  static constexpr bool kModified = false, kBiasTiles = false;
  template <class Element, ScoreLayout kLayout>
  struct Head {};
};

/// Row and key of an accumulator element.
struct Pair {
  int row, key;
};

/// The modifications for one query head. Loads of bias and mask come in batches, so that they travel together; their addresses are clamped to pairs that exist,
/// and what was read for other pairs is then hidden like any pair outside the range.
template <class Element, ScoreLayout kLayout>
class ModifiedHead {
  static constexpr bool kRowsByKeys = kLayout == ScoreLayout::kRowsByKeys;

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

  /// Whether the block mask shows some of these pairs.
  __device__ __forceinline__ bool block_mask_shows(int first_row, int last_row, int first_key, int last_key) const {
    const int end_q = p_.by_block_q.quotient(min(last_row, range_.len_q - 1)), end_kv = p_.by_block_kv.quotient(min(last_key, range_.len_kv - 1));
    const int begin_kv = p_.by_block_kv.quotient(first_key);
    for (int block_q = p_.by_block_q.quotient(first_row); block_q <= end_q; ++block_q) {
      for (int block_kv = begin_kv; block_kv <= end_kv; ++block_kv) {
        if (blocks()[block_q * p_.block_mask.row_stride + block_kv] != 0) return true;
      }
    }
    return false;
  }

  /// q k^T -> scores in base 2, -inf where hidden whatever they were. whole: the range hides none of them. staged: the bias in shared memory, if it is there.
  template <class Staged, int kM, int kN, class PairOf>
  __device__ __forceinline__ void modify(Accumulators<kM, kN>& s, bool whole, const Staged& staged, PairOf&& pair_of) const {
    if (p_.softcap_log2 > 0.0f) {
      for_each(s, [&](float& x, int, int, int) { x = fmaf(complement(x), -2.0f * p_.softcap_log2, p_.softcap_log2); });
    } else {
      for_each(s, [&](float& x, int, int, int) { x *= p_.scale_log2; });
    }
    add_and_hide(s, whole, staged, pair_of);
  }

  /// Which of the pairs dropout keeps; to be called if drops(). Warp-wide.
  template <int kM, int kN, class PairOf>
  __device__ __forceinline__ void draw(KeptPairs<kM, kN>& kept, int lane, PairOf&& pair_of) const {
    if constexpr (kRowsByKeys) {
      kept.draw_rows_by_keys(p_, head_index_, lane, pair_of);
    } else {
      kept.draw_keys_by_rows(p_, head_index_, lane, pair_of);
    }
  }
  __device__ __forceinline__ float keep_scale() const { return p_.keep_scale; }

  /// s = q k^T -> P as grad_v takes it (if wanted), dp = grad_o v^T -> dS, not yet scaled; both 0 where hidden. lse_of and delta_of(m, n, i): of the element's
  /// row. Warp-wide.
  template <ScoreGradient kWanted, class Staged, int kM, int kN, class PairOf, class LseOf, class DeltaOf>
  __device__ __forceinline__ void differentiate(Accumulators<kM, kN>& s, Accumulators<kM, kN>& dp, bool whole, const Staged& staged, int lane, PairOf&& pair_of,
                                                LseOf&& lse_of, DeltaOf&& delta_of) const {
    KeptPairs<kM, kN> kept;
    if (drops()) {
      draw(kept, lane, pair_of);
      for_each(dp, [&](float& x, int m, int n, int i) { x *= kept.kept(m, n, i) ? p_.keep_scale : 0.0f; });
    }
    for_each(dp, [&](float& x, int m, int n, int i) { x -= delta_of(m, n, i); });
    if (p_.softcap_log2 > 0.0f) {
      for_each(s, [&](float& x, int m, int n, int i) {
        const float c = complement(x);
        x = fmaf(c, -2.0f * p_.softcap_log2, p_.softcap_log2);
        // 1 - tanh^2 = 4 c (1 - c)
        if (kWanted != ScoreGradient::kOfBias) dp[m][n][i] *= 4.0f * fmaf(-c, c, c);
      });
    } else {
      for_each(s, [&](float& x, int, int, int) { x *= p_.scale_log2; });
    }
    add_and_hide(s, whole, staged, pair_of);
    for_each(s, [&](float& x, int m, int n, int i) {
      const bool hidden = x == -INFINITY;
      x = hidden ? 0.0f : ptx::exp2_approx(x - lse_of(m, n, i));
      dp[m][n][i] = hidden ? 0.0f : x * dp[m][n][i];
    });
    if (kWanted == ScoreGradient::kWithProbability && drops()) {
      for_each(s, [&](float& x, int m, int n, int i) { x *= kept.kept(m, n, i) ? p_.keep_scale : 0.0f; });
    }
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

  /// 1 / (1 + exp(2 scale x / softcap)) = (1 - tanh(scale x / softcap)) / 2, to about 2^-23; exact at both ends, where the exponential is 0 or infinite.
  __device__ __forceinline__ float complement(float x) const {
    return ptx::reciprocal_approx(1.0f + ptx::exp2_approx(x * p_.twice_inverse_softcap_log2));
  }

  template <class Staged, int kM, int kN, class PairOf>
  __device__ __forceinline__ void add_and_hide(Accumulators<kM, kN>& s, bool whole, const Staged& staged, PairOf&& pair_of) const {
    if (p_.alibi_slopes != nullptr) add_alibi(s, pair_of);
    if (p_.bias.data != nullptr) add_bias(s, staged, pair_of);
    if (!whole) hide_outside(s, pair_of);
    if (p_.visible.data != nullptr) {
      const uint8_t* g_head = static_cast<const uint8_t*>(p_.visible.data) + visible_;
      const auto hide = [](float& x, uint32_t flags, int e) {
        if ((flags >> (8 * e) & 0xff) == 0) x = -INFINITY;
      };
      if (kRowsByKeys && p_.visible_in_pairs) {
        with_loaded<uint16_t>(s, g_head, p_.visible.row_stride, pair_of, hide);
      } else {
        with_loaded<uint8_t>(s, g_head, p_.visible.row_stride, pair_of, hide);
      }
    }
    if (p_.block_mask.data != nullptr) hide_blocks(s, pair_of);
  }

  /// The distance of an element's pair is that of the first one plus a number known when this is compiled: one conversion of an integer for all.
  template <int kM, int kN, class PairOf>
  __device__ __forceinline__ void add_alibi(Accumulators<kM, kN>& s, PairOf&& pair_of) const {
    const Pair first = pair_of(0, 0, 0);
    const float distance = static_cast<float>(first.row + range_.offset - first.key);
    for_each(s, [&](float& x, int m, int n, int i) {
      const Pair pair = pair_of(m, n, i);
      x = fmaf(-slope_log2_, fabsf(distance + static_cast<float>((pair.row - first.row) - (pair.key - first.key))), x);
    });
  }

  template <class Staged, int kM, int kN, class PairOf>
  __device__ __forceinline__ void add_bias(Accumulators<kM, kN>& s, const Staged& staged, PairOf&& pair_of) const {
    const auto add = [](float& x, float bias) { x = bias == -INFINITY ? bias : fmaf(bias, kScoreLog2E, x); };
    if (p_.bias_is_float) {
      with_loaded<float>(s, static_cast<const float*>(p_.bias.data) + bias_, p_.bias.row_stride, pair_of, [&](float& x, float bias, int) { add(x, bias); });
      return;
    }
    const uint16_t* g_head = static_cast<const uint16_t*>(p_.bias.data) + bias_;
    const auto add16 = [&](float& x, uint32_t bits, int e) { add(x, to_float(static_cast<uint16_t>(bits >> (16 * e)))); };
    if constexpr (Staged::kExists) {
      if (p_.bias_staged) {
#pragma unroll
        for (int m = 0; m < kM; ++m) {
#pragma unroll
          for (int pair = 0; pair < kN / 2; ++pair) {
            uint32_t words[4];
            staged.load(words, m, pair);
#pragma unroll
            for (int j = 0; j < 8; ++j) add16(s[m][2 * pair + j / 4][j % 4], words[j / 2], j % 2);
          }
        }
        return;
      }
    }
    if (kRowsByKeys && p_.bias_in_pairs) {
      with_loaded<uint32_t>(s, g_head, p_.bias.row_stride, pair_of, add16);
    } else {
      with_loaded<uint16_t>(s, g_head, p_.bias.row_stride, pair_of, add16);
    }
  }

  /// work(x, word, e) for all elements, 16 words at a time: the word holds what lies at the element's pair, or (of twice the width) at two neighbouring keys,
  /// of which this is number e.
  template <class Word, class T, int kM, int kN, class PairOf, class Work>
  __device__ __forceinline__ void with_loaded(Accumulators<kM, kN>& s, const T* g_head, int64_t row_stride, PairOf&& pair_of, Work&& work) const {
    constexpr int kWide = sizeof(Word) / sizeof(T);
    constexpr int kStep = kN < 4 * kWide ? kN : 4 * kWide;
#pragma unroll
    for (int m = 0; m < kM; ++m) {
#pragma unroll
      for (int first = 0; first < kN; first += kStep) {
        Word words[kStep][4 / kWide];
#pragma unroll
        for (int n = 0; n < kStep; ++n) {
#pragma unroll
          for (int i = 0; i < 4; i += kWide) {
            const Pair pair = pair_of(m, first + n, i);
            const T* g_row = g_head + min(pair.row, p_.pair_rows - 1) * row_stride;
            words[n][i / kWide] = *reinterpret_cast<const Word*>(g_row + min(pair.key, p_.pair_columns - kWide));
          }
        }
#pragma unroll
        for (int n = 0; n < kStep; ++n) {
#pragma unroll
          for (int i = 0; i < 4; ++i) work(s[m][first + n][i], words[n][i / kWide], i % kWide);
        }
      }
    }
  }

  template <int kM, int kN, class PairOf>
  __device__ __forceinline__ void hide_outside(Accumulators<kM, kN>& s, PairOf&& pair_of) const {
    // Row by row, since the ends of a row's range are worth computing once.
#pragma unroll
    for (int a = 0; a < (kRowsByKeys ? kM : kN); ++a) {
#pragma unroll
      for (int b = 0; b < 2; ++b) {
        const int row = (kRowsByKeys ? pair_of(a, 0, 2 * b) : pair_of(0, a, b)).row;
        const int begin = range_.begin_key(row), end = row < range_.len_q ? range_.end_key(row) : 0;
#pragma unroll
        for (int c = 0; c < (kRowsByKeys ? kN : kM); ++c) {
#pragma unroll
          for (int d = 0; d < 2; ++d) {
            const int m = kRowsByKeys ? a : c, n = kRowsByKeys ? c : a, i = kRowsByKeys ? 2 * b + d : 2 * d + b;
            const int key = pair_of(m, n, i).key;
            if (key < begin || key >= end) s[m][n][i] = -INFINITY;
          }
        }
      }
    }
  }

  /// Blocks are multiples of 16 rows and keys, as are the places of 16 x 16 accumulators: one entry tells of all of them.
  template <int kM, int kN, class PairOf>
  __device__ __forceinline__ void hide_blocks(Accumulators<kM, kN>& s, PairOf&& pair_of) const {
    static_assert(kN % 2 == 0, "whole 16 x 16 accumulators");
#pragma unroll
    for (int m = 0; m < kM; ++m) {
#pragma unroll
      for (int n = 0; n < kN; n += 2) {
        const Pair pair = pair_of(m, n, 0);
        if (block_at(min(pair.row, range_.len_q - 1), min(pair.key, range_.len_kv - 1))) continue;
#pragma unroll
        for (int i = 0; i < 4; ++i) s[m][n][i] = s[m][n + 1][i] = -INFINITY;
      }
    }
  }

  __device__ __forceinline__ static float to_float(uint16_t bits) {
    if constexpr (std::is_same_v<Element, __half>) {
      return __half2float(__ushort_as_half(bits));
    } else {
      return __uint_as_float(static_cast<uint32_t>(bits) << 16);
    }
  }
  __device__ __forceinline__ float bias_at(int row, int key) const {
    const int64_t at = bias_ + row * p_.bias.row_stride + key;
    if (p_.bias_is_float) return static_cast<const float*>(p_.bias.data)[at];
    return to_float(static_cast<const uint16_t*>(p_.bias.data)[at]);
  }
  __device__ __forceinline__ bool visible_at(int row, int key) const {
    return static_cast<const uint8_t*>(p_.visible.data)[visible_ + row * p_.visible.row_stride + key] != 0;
  }
  __device__ __forceinline__ const uint8_t* blocks() const {
    return static_cast<const uint8_t*>(p_.block_mask.data) + blocks_;
  }
  __device__ __forceinline__ bool block_at(int row, int key) const {
    return blocks()[p_.by_block_q.quotient(row) * p_.block_mask.row_stride + p_.by_block_kv.quotient(key)] != 0;
  }

  const ScoreParams& p_;
  const PairRange range_;
  const uint32_t head_index_;  ///< batch * heads_q + head
  const float slope_log2_;
  const int64_t bias_, visible_, blocks_;  ///< elements before those of this head
};

struct ModifiedScores {
  static constexpr bool kModified = true, kBiasTiles = true;
  template <class Element, ScoreLayout kLayout>
  using Head = ModifiedHead<Element, kLayout>;
};

/// The sum of a row's exponentials with its sink: what to multiply o by, and the log-sum-exp.
struct SinkSum {
  float inverse, lse;
};

/// reference in base 2; total: sum of exp2(score - reference), 0 if the row saw no key (reference is then -inf). sink: as it is given, -inf for none.
__device__ __forceinline__ SinkSum add_sink(float reference, float total, float sink) {
  if (total == 0.0f) return {0.0f, sink};  // the sink alone, to the last bit
  constexpr float kLn2 = 0.6931471805599453f;
  const float sink_log2 = sink * kScoreLog2E;
  const float top = fmaxf(reference, sink_log2);
  const float factor = reference == top ? 1.0f : ptx::exp2_approx(reference - top);
  const float sum = fmaf(total, factor, ptx::exp2_approx(sink_log2 - top));
  return {factor / sum, fmaf(top, kLn2, logf(sum))};
}

}  // namespace fa
