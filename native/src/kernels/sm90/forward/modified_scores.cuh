// Scores beyond scale and causal mask, on the accumulator fragment of a 64-row warpgroup tile: what Config::Scores (attention/hopper_scores.cuh) says.
//
// Where scores themselves change, they are kept in base 2, so that the softmax multiplies them with 1; otherwise they stay as the product left them.
#pragma once

#include "attention/hopper_scores.cuh"
#include "kernels/sm90/forward/schedule.cuh"
#include "kernels/sm90/forward/softmax.cuh"
#include "ptx/ldmatrix.cuh"
#include "ptx/special_registers.cuh"
#include "tile/wgmma_descriptor.cuh"

namespace fa::sm90 {

/// Whether the boolean mask or the block mask hides a pair, for the rare paths. key: of any pair that the range shows.
__device__ __forceinline__ bool mask_hides(const ScoreParams& params, int batch, int head, int query, int key) {
  const auto zero_at = [&](const PairTensor& mask, int row, int column) {
    const auto* g_mask = static_cast<const uint8_t*>(mask.data) + batch * mask.batch_stride + head * mask.head_stride;
    return g_mask[row * mask.row_stride + column] == 0;
  };
  const int column = min(key, params.range.len_kv - 1);
  return (params.visible.data != nullptr && zero_at(params.visible, query, column)) ||
         (params.block_mask.data != nullptr && zero_at(params.block_mask, params.by_block_q.quotient(query), params.by_block_kv.quotient(column)));
}

/// Sets the scores of keys in front of the first visible one to -infinity. hidden[r]: such keys of the tile, counted from this thread's first column.
template <int kNum>
__device__ __forceinline__ void hide_first(float (&s)[kNum], const int (&hidden)[2]) {
#pragma unroll
  for (int i = 0; i < kNum; ++i) {
    s[i] = (i >> 2) * 8 + (i & 1) >= hidden[fragment_row(i)] ? s[i] : kMinusInfinity;
  }
}

/// The optimistic step (softmax.cuh) where the exponent is another function of the score: exponent(x, i) for accumulator i, relative to the reference. redo()
/// must bring back S in base 2, masked.
template <int kNum, typename Exponent, typename Redo>
__device__ __forceinline__ void optimistic_modified_step(float (&s)[kNum], RowState& rows, Rescale& rescale, const Exponent& exponent, const Redo& redo) {
  float tile_sum[2] = {0.0f, 0.0f};
#pragma unroll
  for (int i = 0; i < kNum; ++i) {
    s[i] = ptx::exp2_approx(exponent(s[i], i));
    tile_sum[fragment_row(i)] += s[i];
  }
  settle_tile(s, rows, rescale, 1.0f, tile_sum, [&](float(&scores)[kNum]) {
    redo(scores);
    exact_step(scores, rows, rescale, 1.0f);
  });
}

/// The bias of a key tile on a thread's accumulators, two of the element type in a word; empty in kernels without one.
template <typename Config, bool kBias = Config::Scores::kBias>
struct BiasFragment {
  /// Reads it from the tile in shared memory. By the whole warp.
  __device__ __forceinline__ void load(const void*) {}
  /// Reads the same tile again.
  __device__ __forceinline__ BiasFragment again() const { return {}; }
};
template <typename Config>
struct BiasFragment<Config, true> {
  uint32_t words[Config::kScores / 2];
  const void* s_tile;

  /// ldmatrix deals 8 x 8 blocks out as the accumulators lie.
  __device__ __forceinline__ void load(const void* s_bias) {
    s_tile = s_bias;
    const auto thread = static_cast<uint32_t>(ptx::thread_index_anew());
    const auto row = static_cast<int>(thread / 32 * 16 + thread % 16), half = static_cast<int>(thread / 16 % 2);  // the consumers are the block's first warps
    const uint32_t address = ptx::shared_address(s_bias) + tile::swizzled_offset_bytes(row, half);
#pragma unroll
    for (int block = 0; block < Config::kScores / 8; ++block) {  // of 16 keys: rows, rows + 8 at the first eight, then at the others
      // The chunk is in bits 4 to 6 of an address in a tile of aligned rows.
      ptx::ldmatrix_x4(reinterpret_cast<uint32_t(&)[4]>(words[4 * block]), (address ^ (block % 4 * 32)) + block / 4 * (Config::kTileQ * tile::kPanelRowBytes));
    }
  }
  /// What is needed only in rare cases should not take registers until then.
  __device__ __forceinline__ BiasFragment again() const {
    BiasFragment same;
    same.load(s_tile);
    return same;
  }
};

/// The bias that came with the k tile in a stage. It is read in front of the products: a warp that issues them is held up until they are nearly done, and the
/// 300 clocks of the reads would come on top.
template <typename Config>
__device__ __forceinline__ BiasFragment<Config> read_bias(const typename Config::SharedStorage& smem, int stage) {
  BiasFragment<Config> bias;
  if constexpr (Config::Scores::kBias) {
    bias.load(smem.bias.tiles[stage]);
  }
  return bias;
}

/// Keys of a tile that the range hides from a thread's two rows, counted from its first column.
struct HiddenKeys {
  bool at_end;  ///< whether some row of the warpgroup does not see the last ones, or the first ones
  bool at_begin;
  int visible[2];  ///< keys in front of the first hidden one at the end
  int hidden[2];   ///< keys in front of the first visible one
};

/// The modifications for a warpgroup's rows of a work tile. Arguments of the functions: s, the scores of key tile n, its first key, and row, the thread's first
/// query (the second is 8 further on).
template <typename Config>
class ScoreModifier {
  using Scores = typename Config::Scores;
  using Params = ModifiedForwardParams;

 public:
  /// slope: slope_of(), which reads memory, once per work tile. bias: of the key tile, from the first key of s on.
  __device__ __forceinline__ ScoreModifier(const Params& params, const SequenceWorkTile& tile, float slope, BiasFragment<Config> bias = {})
      : params_(params), range_(range_of(params, tile)), slope_(slope), bias_(bias) {}

  /// ALiBi slope of the work tile's head in base 2.
  static __device__ __forceinline__ float slope_of(const Params& params, const SequenceWorkTile& tile) {
    return Scores::kAlibi ? alibi_slope_log2(params.scores, tile.sequence(), tile.head()) : 0.0f;
  }

  /// Factor from scores, as they are after modify(), to base 2.
  static __device__ __forceinline__ float unit_log2(const Params& params) { return Scores::kChangesScores ? 1.0f : params.scale_log2; }

  /// The bias of one pair, from global memory. Keys behind the bias's last one, which no row sees, take that one's.
  static __device__ __forceinline__ float pair_bias(const Params& params, const SequenceWorkTile& tile, int query, int key) {
    const PairTensor& bias = params.scores.bias;
    const auto* g_bias = static_cast<const typename Config::Element*>(bias.data) + tile.sequence() * bias.batch_stride + tile.head() * bias.head_stride;
    return static_cast<float>(g_bias[query * bias.row_stride + min(key, params.scores.pair_columns - 1)]);
  }
  /// Whether a pair that the range shows is hidden all the same.
  static __device__ __forceinline__ bool hides(const Params& params, const SequenceWorkTile& tile, int query, int key) {
    if constexpr (Scores::kBias) {
      return pair_bias(params, tile, query, key) == kMinusInfinity;
    } else if constexpr (Scores::kMask) {
      return mask_hides(params.scores, tile.sequence(), tile.head(), query, key);
    } else {
      return false;
    }
  }

  /// The modified score of one pair in base 2. distance: of the query's position from the key.
  static __device__ __forceinline__ float pair_score(const Params& params, const SequenceWorkTile& tile, float slope, int query, int key, int distance,
                                                     float score) {
    if constexpr (Scores::kBias) {
      const float value = pair_bias(params, tile, query, key);
      return value == kMinusInfinity ? value : fmaf(value, kScoreLog2E, score * params.scale_log2);
    } else if constexpr (Scores::kSoftcap) {
      return softcap_score(params.scores, score);
    } else {
      return fmaf(-slope, Scores::kAlibi ? fabsf(static_cast<float>(distance)) : 0.0f, score * params.scale_log2);
    }
  }

  /// S = Q K^T becomes the modified score of each pair. Not yet masked.
  template <int kNum>
  __device__ __forceinline__ void modify(float (&s)[kNum], int row, int first_key) const {
    modify(s, row, first_key, bias_);
  }
  template <int kNum>
  __device__ __forceinline__ void modify(float (&s)[kNum], int row, int first_key, const BiasFragment<Config>& tile_bias) const {
    if constexpr (Scores::kSoftcap) {
#pragma unroll
      for (int i = 0; i < kNum; ++i) {
        s[i] = softcap_score(params_.scores, s[i]);
      }
    } else if constexpr (Scores::kBias) {
      // -infinity hides a pair whatever its score.
      for_bias<kNum>(tile_bias, [&](int i, float bias) { s[i] = bias == kMinusInfinity ? bias : fmaf(bias, kScoreLog2E, s[i] * params_.scale_log2); });
    } else if constexpr (Scores::kAlibi) {
      float distance[2];
      thread_distances(row, first_key, distance);
#pragma unroll
      for (int i = 0; i < kNum; ++i) {
        s[i] = fmaf(-slope_, fabsf(distance[fragment_row(i)] - column(i)), s[i] * params_.scale_log2);
      }
    }
  }

  /// What the range hides of a tile of kNum / 32 · 64 keys. first_row: the warpgroup's.
  template <int kNum>
  __device__ __forceinline__ HiddenKeys hidden_keys(int first_row, int row, int first_key) const {
    const int thread_key = first_key + ptx::thread_index_anew() % 4 * 2;
    const auto of = [&](const PairRange& range) {
      return HiddenKeys{range.end_key(first_row) < first_key + 2 * kNum,
                        range.begin_key(first_row + 63) > first_key,
                        {range.end_key(row) - thread_key, range.end_key(row + 8) - thread_key},
                        {range.begin_key(row) - thread_key, range.begin_key(row + 8) - thread_key}};
    };
    // One branch instead of one for each of the six.
    return range_.chunk == 0 ? of(range_.without_chunk()) : of(range_);
  }
  /// Hides what the range hides.
  template <int kNum>
  __device__ __forceinline__ void mask(float (&s)[kNum], int first_row, int row, int first_key) const {
    mask(s, hidden_keys<kNum>(first_row, row, first_key));
  }
  template <int kNum>
  static __device__ __forceinline__ void mask(float (&s)[kNum], const HiddenKeys& keys) {
    if (keys.at_end) {
      apply_mask<0, kNum>(s, keys.visible);
    }
    if (keys.at_begin) {
      hide_first(s, keys.hidden);
    }
  }

  /// The step without a look at the maximum, for tiles whose keys are not behind the position of any row (ALiBi). masked: with the range's mask, which must
  /// then not hide by softcap's leave.
  template <bool kMasked, int kNum, typename Recompute>
  __device__ __forceinline__ void optimistic(float (&s)[kNum], RowState& rows, Rescale& rescale, int first_row, int row, int first_key,
                                             const Recompute& recompute) const {
    static_assert(!(kMasked && Scores::kSoftcap), "a hidden score is -infinity only behind the softcap");
    if constexpr (kMasked) {
      mask(s, first_row, row, first_key);
    }
    const auto redo = [&](float(&scores)[kNum]) {
      recompute(scores);
      modify(scores, row, first_key, bias_.again());
      if constexpr (kMasked) {
        mask(scores, first_row, row, first_key);
      }
    };
    if constexpr (Scores::kSoftcap) {
      const float cap = params_.scores.softcap_log2, twice_inverse = params_.scores.twice_inverse_softcap_log2;
      const float offset[2] = {cap - rows.reference[0], cap - rows.reference[1]};
      const auto exponent = [&](float x, int i) { return fmaf(softcap_complement(x, twice_inverse), -2.0f * cap, offset[fragment_row(i)]); };
      optimistic_modified_step(s, rows, rescale, exponent, redo);
    } else if constexpr (Scores::kBias) {
      // A bias of -infinity leaves 0, but NaN with a score of +infinity or NaN: then the exact way is taken.
      const float offset[2] = {-rows.reference[0], -rows.reference[1]};
      float tile_sum[2] = {0.0f, 0.0f};
      for_bias<kNum>(bias_, [&](int i, float bias) {
        s[i] = ptx::exp2_approx(fmaf(bias, kScoreLog2E, fmaf(s[i], params_.scale_log2, offset[fragment_row(i)])));
        tile_sum[fragment_row(i)] += s[i];
      });
      settle_tile(s, rows, rescale, 1.0f, tile_sum, [&](float(&scores)[kNum]) {
        redo(scores);
        exact_step(scores, rows, rescale, 1.0f);
      });
    } else if constexpr (Scores::kAlibi) {
      float distance[2];
      thread_distances(row, first_key, distance);
      const float offset[2] = {fmaf(-slope_, distance[0], -rows.reference[0]), fmaf(-slope_, distance[1], -rows.reference[1])};
      const auto exponent = [&](float x, int i) { return fmaf(x, params_.scale_log2, fmaf(slope_, column(i), offset[fragment_row(i)])); };
      optimistic_modified_step(s, rows, rescale, exponent, redo);
    } else {
      optimistic_step(s, rows, rescale, params_.scale_log2, redo);
    }
  }

 private:
  /// use(i, bias of accumulator i) for all i.
  template <int kNum, typename Use>
  static __device__ __forceinline__ void for_bias(const BiasFragment<Config>& tile_bias, const Use& use) {
#pragma unroll
    for (int i = 0; i < kNum; i += 2) {
      const float2 pair = unpack_pair<typename Config::Element>(tile_bias.words[i / 2]);
      use(i, pair.x);
      use(i + 1, pair.y);
    }
  }
  template <typename Element>
  static __device__ __forceinline__ float2 unpack_pair(uint32_t word) {
    if constexpr (std::is_same_v<Element, __half>) {
      return __half22float2(*reinterpret_cast<const __half2*>(&word));
    } else {
      return make_float2(__uint_as_float(word << 16), __uint_as_float(word & 0xFFFF0000u));
    }
  }

  /// Column of accumulator i, counted from the thread's first.
  static __device__ __forceinline__ constexpr float column(int i) {
    return static_cast<float>((i >> 2) * 8 + (i & 1));
  }

  /// Positions of the thread's two queries, counted from its first column.
  __device__ __forceinline__ void thread_distances(int row, int first_key, float (&distance)[2]) const {
    const int first = row + range_.offset - first_key - ptx::thread_index_anew() % 4 * 2;
    distance[0] = static_cast<float>(first);
    distance[1] = static_cast<float>(first + 8);
  }

  const Params& params_;
  const PairRange range_;
  const float slope_;
  const BiasFragment<Config> bias_;
};

/// What a row's sums come to with the sink of its head: what O is multiplied with, and the log-sum-exp. Without branches on the row.
template <typename Config>
__device__ __forceinline__ void modified_results(const typename Config::Params& params, const TileIdentity& tile, int row, const RowState& rows,
                                                 float (&inverse_sum)[2], float (&lse)[2]) {
  const ScoreParams& scores = params.scores;
  const PairRange range = range_of(params, tile.extents);
  constexpr float kLn2 = 0.6931471805599453f;
  const float sink = scores.sinks != nullptr ? scores.sinks[tile.head] : kMinusInfinity;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float sum = rows.sum[r];
    sum += __shfl_xor_sync(0xFFFFFFFF, sum, 1);
    sum += __shfl_xor_sync(0xFFFFFFFF, sum, 2);
    const float reference = rows.reference[r] * ScoreModifier<Config>::unit_log2(params);
    const float sink_log2 = sink * kScoreLog2E, top = fmaxf(reference, sink_log2), finite_top = top == kMinusInfinity ? 0.0f : top;
    const float factor = ptx::exp2_approx(reference - finite_top);
    const float with_sink = fmaf(sum, factor, ptx::exp2_approx(sink_log2 - finite_top));
    // Nothing seen: 0. Only scores of -infinity: NaN, since that is 0 / 0 in the unfused form; but a bias and masks hide with them.
    const bool sees_keys = !Config::Scores::kBias && !Config::Scores::kMask && range.begin_key(row + 8 * r) < range.end_key(row + 8 * r);
    inverse_sum[r] = with_sink == 0.0f ? (sees_keys ? NAN : 0.0f) : __fdividef(factor, with_sink);
    lse[r] = sum == 0.0f ? sink : fmaf(finite_top, kLn2, __logf(with_sink));
  }
}

}  // namespace fa::sm90
