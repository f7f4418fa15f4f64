// NaN and infinity in v at keys that only some rows of a tile see. The tensor core multiplies them with the zero weights of the other rows, and 0 * NaN is NaN.
// A row must not be touched by keys that it does not see, so where an output is not finite and such a value lies in the partly visible keys, the warp computes
// its rows again by ordinary arithmetic. Milliseconds for a long sequence, but only the few warps beside such a key come here, and none without one.
#pragma once

#include "kernels/sm90/forward/modified_scores.cuh"
#include "kernels/sm90/forward/schedule.cuh"
#include "kernels/sm90/forward/softmax.cuh"
#include "ptx/exp2.cuh"
#include "ptx/mma_sync.cuh"
#include "ptx/special_registers.cuh"

namespace fa::sm90 {

namespace detail {

__device__ __forceinline__ float2 unpack2(__half2 pair) {
  return __half22float2(pair);
}
__device__ __forceinline__ float2 unpack2(__nv_bfloat162 pair) {
  return __bfloat1622float2(pair);
}
template <typename Element>
struct PairOf;
template <>
struct PairOf<__half> {
  using Type = __half2;
};
template <>
struct PairOf<__nv_bfloat16> {
  using Type = __nv_bfloat162;
};

/// Two neighbouring elements of a row.
template <typename Element>
__device__ __forceinline__ float2 load_pair(const GlobalView& view, int batch, int row, int head, int column) {
  const auto* g_row = static_cast<const Element*>(view.data) + batch * view.batch_stride + row * view.seq_stride + head * view.head_stride;
  return unpack2(*reinterpret_cast<const typename PairOf<Element>::Type*>(g_row + column));
}

}  // namespace detail

/// True, in the whole warp, if some accumulator is NaN or infinite.
template <int kNum>
__device__ __forceinline__ bool any_nonfinite(const float (&o)[kNum]) {
  float probe[4] = {0.0f, 0.0f, 0.0f, 0.0f};  // four short chains instead of a long one
#pragma unroll
  for (int i = 0; i < kNum; ++i) {
    probe[i % 4] = fmaf(o[i], 0.0f, probe[i % 4]);
  }
  return __any_sync(0xFFFFFFFF, !((probe[0] + probe[1]) + (probe[2] + probe[3]) == 0.0f));
}

/// True if v has NaN or infinity at one of keys `begin` to `end`, as far as this lane looks: the warp shares the work. Of them `num` count from `first` on, all
/// further ones from `other` on.
template <typename Element>
__device__ __forceinline__ bool lane_finds_nonfinite(const ForwardParams& params, const TilePlace& place, int first, int num, int other, int begin, int end) {
  const int kv_head = params.group_size.quotient(place.head), pairs = params.head_dim_v / 2;
  bool found = false;
  for (int i = ptx::thread_index_anew() % 32; i < (end - begin) * pairs; i += 32) {
    const int index = begin + i / pairs, key = index < num ? first + index : other + index - num;
    const float2 value = detail::load_pair<Element>(params.v, place.batch, place.first_key + key, kv_head, i % pairs * 2);
    found = found || !(value.x * 0.0f + value.y * 0.0f == 0.0f);
  }
  return found;
}

/// True if v has anything but NaN at keys [first, end), as far as this lane looks.
template <typename Element>
__device__ __forceinline__ bool lane_finds_number(const ForwardParams& params, const TilePlace& place, int first, int end) {
  const int kv_head = params.group_size.quotient(place.head), pairs = params.head_dim_v / 2;
  bool found = false;
  for (int i = ptx::thread_index_anew() % 32; i < (end - first) * pairs; i += 32) {
    const float2 value = detail::load_pair<Element>(params.v, place.batch, place.first_key + first + i / pairs, kv_head, i % pairs * 2);
    found = found || !(isnan(value.x) & isnan(value.y));
  }
  return found;
}

/// find(first, end) over parts of [begin, end): whether it is true of one. The searches above count elements in 32 bits; parts are short enough for any
/// head_dim.
template <typename Find>
__device__ __forceinline__ bool lane_finds_in_parts(int begin, int end, const Find& find) {
  constexpr int kPart = 1 << 22;
  bool found = false;
#pragma unroll 1
  for (int first = begin; first < end; first += kPart) {
    found = found | find(first, first + min(end - first, kPart));
  }
  return found;
}

/// True, in the whole warp, if v has NaN or infinity at keys [first, end).
template <typename Element>
__device__ __forceinline__ bool nonfinite_values(const ForwardParams& params, const TilePlace& place, int first, int end) {
  return __any_sync(0xFFFFFFFF, lane_finds_nonfinite<Element>(params, place, first, 0, first, 0, end - first));
}

/// True, in the whole warp, if v at this key is NaN in every column.
template <typename Element>
__device__ __forceinline__ bool all_nan(const ForwardParams& params, const TilePlace& place, int key) {
  const int kv_head = params.group_size.quotient(place.head);
  bool all = true;
  for (int column = ptx::thread_index_anew() % 32 * 2; column < params.head_dim_v; column += 64) {
    const float2 value = detail::load_pair<Element>(params.v, place.batch, place.first_key + key, kv_head, column);
    all = all && isnan(value.x) && isnan(value.y);
  }
  return __all_sync(0xFFFFFFFF, all);
}

/// o: the thread's two rows of O before the division by the row sums, from the definition: each key of [begin, end) only where it is visible. begin and end are
/// the same in the whole warp, since the lanes of a row exchange partial products. weigh(r, score, key): weight of a score of query r; sees(r, key): whether
/// that query sees the key.
template <typename Element, int kOutputs, typename Weigh, typename Sees>
__device__ __forceinline__ void recompute_output(const ForwardParams& params, const TilePlace& place, const int (&query)[2], int begin, int end,
                                                 const Weigh& weigh, const Sees& sees, float (&o)[kOutputs]) {
  const int kv_head = params.group_size.quotient(place.head), quad_column = ptx::thread_index_anew() % 4 * 2;
#pragma unroll
  for (int i = 0; i < kOutputs; ++i) {
    o[i] = 0.0f;
  }
#pragma unroll 1
  for (int key = begin; key < end; ++key) {
    float score[2] = {0.0f, 0.0f};
#pragma unroll 1
    for (int column = quad_column; column < params.head_dim; column += 8) {
      const float2 k = detail::load_pair<Element>(params.k, place.batch, place.first_key + key, kv_head, column);
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const float2 q = detail::load_pair<Element>(params.q, place.batch, place.first_query + query[r], place.head, column);
        score[r] = fmaf(q.x, k.x, fmaf(q.y, k.y, score[r]));
      }
    }
    float weight[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      score[r] += __shfl_xor_sync(0xFFFFFFFF, score[r], 1);
      score[r] += __shfl_xor_sync(0xFFFFFFFF, score[r], 2);
      weight[r] = static_cast<float>(static_cast<Element>(weigh(r, score[r], key)));
    }
#pragma unroll
    for (int group = 0; group < kOutputs / 4; ++group) {
      const int column = 8 * group + quad_column;
      if (column < params.head_dim_v) {
        const float2 v = detail::load_pair<Element>(params.v, place.batch, place.first_key + key, kv_head, column);
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          if (sees(r, key)) {
            o[4 * group + 2 * r] = fmaf(weight[r], v.x, o[4 * group + 2 * r]);
            o[4 * group + 2 * r + 1] = fmaf(weight[r], v.y, o[4 * group + 2 * r + 1]);
          }
        }
      }
    }
  }
}

/// Hides from the thread's two rows (row and row + 8 of the query) what they do not see of the keys from first_key on. first_row: of the warpgroup.
template <int kScores>
__device__ __forceinline__ void hide_keys(const ForwardParams& params, float (&s)[kScores], int first_row, int row, int first_key) {
  const int first_column = first_key + ptx::thread_index_anew() % 4 * 2;
  const int visible[2] = {visible_keys(params, row) - first_column, visible_keys(params, row + 8) - first_column};
  // Seen by every row of the warpgroup in an aligned causal tile: the lower half.
  constexpr int kHalf = kScores / 2;
  if (visible_keys(params, first_row) - first_key < kScores) {
    apply_mask<0, kHalf>(s, visible);
  }
  apply_mask<kHalf, kScores>(s, visible);
}

/// Repairs O where values at invisible keys may have reached it. first_row: the warp's first query; end: keys below it took part in the products.
template <typename Element, int kOutputs>
__device__ __forceinline__ void remove_masked_values(const ForwardParams& params, const TilePlace& place, int first_row, int row, int end, const RowState& rows,
                                                     float (&o)[kOutputs]) {
  const int common_keys = visible_keys(params, first_row);
  if (!any_nonfinite(o) || !nonfinite_values<Element>(params, place, common_keys, min(end, params.len_kv))) {
    return;
  }
  // Where v is NaN altogether (a training run that diverged), nothing can be repaired, and every warp would try.
  if (common_keys == 0 || !all_nan<Element>(params, place, 0)) {
    const int query[2] = {min(row, params.len_q - 1), min(row + 8, params.len_q - 1)};
    const int visible[2] = {visible_keys(params, query[0]), visible_keys(params, query[1])};
    float offset[2];
    guarded_offsets(rows, params.scale_log2, offset);
    const auto weigh = [&](int r, float score, int) { return ptx::exp2_approx(fmaf(score, params.scale_log2, offset[r])); };
    const auto sees = [&](int r, int key) { return key < visible[r]; };
    recompute_output<Element>(params, place, query, 0, __reduce_max_sync(0xFFFFFFFF, visible[1]), weigh, sees, o);
  }
}

/// The same with modified scores. first_row: the warpgroup's. Votes and shuffles must lie behind no branch that the compiler takes for divergent: it would no
/// longer keep descriptors in uniform registers, not even in loops far away (48 R2UR per step).
template <typename Config, int kOutputs>
__device__ __forceinline__ void remove_masked_values(const ModifiedForwardParams& params, const SequenceWorkTile& tile, int first_row, int row,
                                                     const RowState& rows, float (&o)[kOutputs]) {
  using Element = typename Config::Element;
  if (!any_nonfinite(o)) {
    return;
  }
  const TilePlace place = place_of(params, tile);
  const PairRange range = range_of(params, tile);
  const KeyTiles keys = key_tiles<Config::kTileKv>(range, first_row, 64);
  // A warpgroup goes through all tiles of the block's list, also through those that its own rows' range hides.
  const int begin = Config::Scores::kMask ? 0 : keys.begin * Config::kTileKv, end = Config::Scores::kMask ? params.len_kv : keys.end * Config::kTileKv;
  const int warp_row = __shfl_sync(0xFFFFFFFF, row, 0), last_key = min(end, params.len_kv - place.first_key);
  // Non-finite values among the keys before and behind those that all rows of the warp see.
  const int common_begin = range.begin_key(warp_row + 15), common_end = range.end_key(warp_row);
  const bool common = common_begin < common_end;
  bool found;
  if constexpr (Config::Scores::kBias || Config::Scores::kMask) {  // which may hide any key
    found = lane_finds_in_parts(begin, last_key,
                                [&](int first, int part_end) { return lane_finds_nonfinite<Element>(params, place, first, 0, first, 0, part_end - first); });
  } else {
    const int hidden_before = common ? common_begin - begin : last_key - begin, hidden_end = common ? max(common_end, common_begin) : last_key;
    // Rows of two long chunks see no common key.
    found = lane_finds_in_parts(0, hidden_before + last_key - hidden_end, [&](int first, int part_end) {
      return lane_finds_nonfinite<Element>(params, place, begin, hidden_before, hidden_end, first, part_end);
    });
  }
  // Where v is NaN altogether, nothing can be repaired, and every warp would try. One key that all rows see tells; where a bias or a mask may hide any key,
  // all keys must be NaN, and each row must see one: otherwise it is 0.
  bool nan = common;
  if constexpr (Config::Scores::kBias || Config::Scores::kMask) {
    const auto finds_number = [&](int first, int part_end) { return lane_finds_number<Element>(params, place, first, part_end); };
    nan = !lane_finds_in_parts(begin, last_key, finds_number) & (rows.sum[0] != 0.0f) & (rows.sum[1] != 0.0f);
  } else {
#pragma unroll
    for (int part = 0; part < Config::kHeadDim / 64; ++part) {
      const int column = min(64 * part + ptx::thread_index_anew() % 32 * 2, params.head_dim_v - 2);
      const float2 value =
          detail::load_pair<Element>(params.v, place.batch, place.first_key + min(common_begin, last_key - 1), params.group_size.quotient(place.head), column);
      nan = nan & isnan(value.x) & isnan(value.y);
    }
  }
  // One vote for both: with one more, ptxas took everything here for divergent.
  if (__reduce_or_sync(0xFFFFFFFF, (found ? 1u : 0u) | (nan ? 0u : 2u)) != 3) {
    return;
  }
  const int query[2] = {min(row, place.queries - 1), min(row + 8, place.queries - 1)};
  const float to_log2 = Config::Scores::kChangesScores ? 1.0f : params.scale_log2;
  float offset[2];
  guarded_offsets(rows, to_log2, offset);
  const int first_seen[2] = {range.begin_key(query[0]), range.begin_key(query[1])}, end_seen[2] = {range.end_key(query[0]), range.end_key(query[1])};
  const float slope = ScoreModifier<Config>::slope_of(params, tile);
  const auto weigh = [&](int r, float score, int key) {
    return ptx::exp2_approx(ScoreModifier<Config>::pair_score(params, tile, slope, query[r], key, query[r] + range.offset - key, score) + offset[r]);
  };
  const auto sees = [&](int r, int key) {
    // In front of the range's condition, which lanes do not share: it reads of the tile what the whole warp must read together.
    const bool hidden = ScoreModifier<Config>::hides(params, tile, query[r], key);
    return (key >= first_seen[r]) & (key < end_seen[r]) & !hidden;
  };
  recompute_output<Element>(params, place, query, begin, last_key, weigh, sees, o);
}

}  // namespace fa::sm90
