// Tiles of a 16-bit bias that travel to shared memory beside the tensors, ahead of their use: loads by element wait for device memory in the middle of the
// softmax. A kernel has them behind its own shared memory where ScoreParams::bias_staged says so.
#pragma once

#include <cstdint>

#include "attention/score_params.h"
#include "tile/copy_tile.cuh"
#include "tile/shared_tile.cuh"

namespace fa {

/// Queues the copy of rows first_row … by keys first_key … of the bias of a head; batch: sequence. Rows and keys that do not exist become 0.
template <int kThreads, class Tile>
__device__ __forceinline__ void copy_bias(Tile& s_tile, const ScoreParams& p, const PairRange& range, int64_t batch, int64_t head, int first_row, int first_key,
                                          int thread) {
  const uint16_t* g_head = static_cast<const uint16_t*>(p.bias.data) + batch * p.bias.batch_stride + head * p.bias.head_stride;
  const GlobalRows g_tile{g_head + first_key, p.bias.row_stride, range.len_q, min(Tile::kCols, range.len_kv - first_key), true};
  copy_to_shared<kThreads>(s_tile, g_tile, first_row, thread);
}

/// No tile: the kernel loads by element.
struct NoBiasTile {
  static constexpr bool kExists = false;
};

/// How a warp reads the tile for accumulators of S. load(words, m, pair): word 2 (n % 2) + i / 2 belongs to elements i, i + 1 of (m, n), n / 2 == pair.
template <class Tile>
class BiasByRows {
 public:
  static constexpr bool kExists = true;
  /// (row, key): the warp's place in the tile.
  __device__ __forceinline__ BiasByRows(Tile& s_tile, int row, int key, int lane) : s_tile_(s_tile), row_(row + (lane >> 2)), key_(key + 2 * (lane & 3)) {}

  __device__ __forceinline__ void load(uint32_t (&words)[4], int m, int pair) const {
#pragma unroll
    for (int j = 0; j < 4; ++j) words[j] = *reinterpret_cast<const uint32_t*>(s_tile_.at(row_ + 16 * m + 8 * (j & 1), key_ + 16 * pair + 8 * (j >> 1)));
  }

 private:
  Tile& s_tile_;
  const int row_, key_;
};

/// The same for accumulators of S^T, whose blocks of 16 keys and of 16 rows are kKeyStep and kRowStep blocks apart.
template <class Tile, int kRowStep, int kKeyStep>
class BiasByKeys {
 public:
  static constexpr bool kExists = true;
  /// (row16, key16): the warp's first blocks.
  __device__ __forceinline__ BiasByKeys(const Tile& s_tile, int row16, int key16, int lane) : operand_(s_tile, 0, 0, lane), row16_(row16), key16_(key16) {}

  __device__ __forceinline__ void load(uint32_t (&words)[4], int m, int pair) const { operand_.load(words, row16_ + pair * kRowStep, key16_ + m * kKeyStep); }

 private:
  const OperandATransposed<Tile> operand_;
  const int row16_, key16_;
};

}  // namespace fa
