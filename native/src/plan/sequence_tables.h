// Sizes of what the CUDA kernels keep of sequences of different lengths in the workspace. The lengths lie on the device and are not read here: all sizes are
// bounds from the tensors' extents and the number of sequences.
#pragma once

#include <algorithm>
#include <cstdint>

#include "plan/problem.h"

namespace fa {

/// Rows of the padded workspace (log-sum-exp, delta, accumulator of grad_q) that a sequence's part is rounded up to.
inline constexpr int kSequenceRowPadding = 128;
inline constexpr uint64_t kSequenceTileBytes = 32;
inline constexpr uint64_t kSequenceTableHeaderBytes = 16;

/// Most tiles of tile_rows rows that the sequences have together, of queries or of keys.
inline int64_t sequence_tiles(const Problem& problem, bool of_q, int tile_rows) {
  const auto tiles = [tile_rows](int64_t rows) { return (rows + tile_rows - 1) / tile_rows; };
  const int64_t length = of_q ? problem.len_q : problem.len_kv, count = problem.num_sequences();
  const int64_t of_longest = count * tiles(std::min(length, of_q ? problem.max_len_q() : problem.max_len_kv()));
  // A sequence of n > 0 rows has at most n / tile_rows + 1 tiles.
  return problem.variants.sequences.packed ? std::min(of_longest, length / tile_rows + std::min(count, length)) : of_longest;
}

/// Bytes of a table of so many tiles: a header, then a SequenceTile each (attention/sequence_schedule.h).
inline uint64_t sequence_table_bytes(int64_t tiles) {
  return kSequenceTableHeaderBytes + kSequenceTileBytes * static_cast<uint64_t>(tiles);
}

/// Rows per query head of the padded workspace; SequenceTile::row_begin says where a sequence's rows lie among them.
inline int64_t sequence_rows(const Problem& problem) {
  const int64_t count = problem.num_sequences();
  const int64_t blocks = problem.variants.sequences.packed ? problem.len_q / kSequenceRowPadding + count
                                                           : count * ((problem.len_q + kSequenceRowPadding - 1) / kSequenceRowPadding);
  return blocks * kSequenceRowPadding;
}

}  // namespace fa
