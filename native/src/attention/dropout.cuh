// Which pairs dropout keeps, for the accumulators of a warp: Philox4x32-10 (Salmon et al., 2011) as fa_attention_dropout_mask describes it. One evaluation of
// the generator serves four neighbouring keys of a row. They lie in several lanes, so lanes share the evaluations out and exchange words.
#pragma once

#include <cstdint>

#include "attention/philox.cuh"
#include "attention/score_params.h"
#include "tile/warp_product.cuh"

namespace fa {

/// A bit for each of a thread's accumulators: whether the pair is kept.
template <int kM, int kN>
struct KeptPairs {
  static constexpr int kWords = (kM * kN * 4 + 31) / 32;
  uint32_t words[kWords];

  __device__ __forceinline__ bool kept(int m, int n, int i) const {
    const int bit = (m * kN + n) * 4 + i;
    return words[bit / 32] >> (bit % 32) & 1;
  }

  /// For rows by keys: the lanes of a pair hold two of four words each, for the same two rows; each evaluates one of the rows. Warp-wide.
  template <class PairOf>
  __device__ __forceinline__ void draw_rows_by_keys(const ScoreParams& p, uint32_t head_index, int lane, PairOf&& pair_of) {
    constexpr int kStep = kN < 4 ? kN : 4;
    const bool odd = lane & 1;
#pragma unroll
    for (int word = 0; word < kWords; ++word) words[word] = 0;
#pragma unroll
    for (int m = 0; m < kM; ++m) {
#pragma unroll
      for (int first = 0; first < kN; first += kStep) {
        uint32_t c[kStep][4];
#pragma unroll
        for (int n = 0; n < kStep; ++n) {
          const auto pair = pair_of(m, first + n, 0);
          set(c[n], p, head_index, odd ? pair.row + 8 : pair.row, pair.key);
        }
        philox(c, p.dropout_seed);
        uint32_t own = 0, for_other = 0;  // two bits per group of columns
#pragma unroll
        for (int n = 0; n < kStep; ++n) {
          const uint32_t lower = bits(p, c[n][0], c[n][1]), upper = bits(p, c[n][2], c[n][3]);
          own |= (odd ? upper : lower) << (4 * n);
          for_other |= (odd ? lower : upper) << (4 * n);
        }
        const uint32_t other = exchange(for_other, 1);
        const int bit = (m * kN + first) * 4;
        words[bit / 32] |= (odd ? other | own << 2 : own | other << 2) << (bit % 32);
      }
    }
  }

  /// For keys by rows: four lanes hold a word each, for the same rows of which every two groups of columns have four; each lane evaluates one of them.
  /// Warp-wide.
  template <class PairOf>
  __device__ __forceinline__ void draw_keys_by_rows(const ScoreParams& p, uint32_t head_index, int lane, PairOf&& pair_of) {
    static_assert(kN % 2 == 0, "rows are shared out by fours");
    const int mine = lane >> 2 & 3;  // the lane's word, and its row of four
#pragma unroll
    for (int word = 0; word < kWords; ++word) words[word] = 0;
#pragma unroll
    for (int m = 0; m < kM; ++m) {
#pragma unroll
      for (int n = 0; n < kN; n += 2) {
        uint32_t c[2][4];  // of keys 0 … 7 and 8 … 15 of the block
        const auto lower = pair_of(m, n, 0), upper = pair_of(m, n + 1, 2);
        const int row = (mine & 2 ? upper.row : lower.row) + (mine & 1);
        set(c[0], p, head_index, row, lower.key);
        set(c[1], p, head_index, row, upper.key);
        philox(c, p.dropout_seed);
        uint32_t flags = 0;  // of keys, by word; then those of the upper half
#pragma unroll
        for (int half = 0; half < 2; ++half) flags |= (bits(p, c[half][0], c[half][1]) | bits(p, c[half][2], c[half][3]) << 2) << (4 * half);
        const int bit = (m * kN + n) * 4;
#pragma unroll
        for (int distance = 0; distance < 4; ++distance) {
          const uint32_t received = (distance == 0 ? flags : exchange(flags, 4 * distance)) >> mine;
          const int row_of_four = mine ^ distance;
          words[bit / 32] |= ((received & 1) | (received >> 4 & 1) << 2) << (bit % 32 + 4 * (row_of_four >> 1) + (row_of_four & 1));
        }
      }
    }
  }

 private:
  __device__ __forceinline__ static uint32_t exchange(uint32_t value, int lane_mask) {
    return __shfl_xor_sync(0xffffffffu, value, lane_mask);
  }
  __device__ __forceinline__ static void set(uint32_t (&counter)[4], const ScoreParams& p, uint32_t head_index, int row, int key) {
    counter[0] = static_cast<uint32_t>(key) / 4;
    counter[1] = static_cast<uint32_t>(row);
    counter[2] = head_index;
    counter[3] = p.dropout_offset;
  }
  __device__ __forceinline__ static uint32_t bits(const ScoreParams& p, uint32_t first, uint32_t second) {
    return static_cast<uint32_t>(first >= p.drop_below) | static_cast<uint32_t>(second >= p.drop_below) << 1;
  }
};

}  // namespace fa
