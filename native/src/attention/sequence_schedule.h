// The work list of attention over sequences of different lengths (fa_sequences), shared by the portable and the Hopper kernels.
//
// The lengths lie in device memory and the host never waits for them. So before the main kernel a small one (kernels/sm80/sequences/prepare.h) reads them and
// writes tables of tiles into the workspace: every tile of every sequence, one 32-byte record each, which says all that a block must know. Tiles of one
// sequence follow each other, the sequence whose tiles are the most work comes first. A block looks its record up by its place in the list (one load of two
// int4), does the tile for one head, and leaves at once where the place is not below the number of tiles.
//
// How a kernel uses it
//   plan     workspace: sequence_table_bytes(sequence_tiles(problem, of_q, tile_rows)) per table, 16-byte aligned, plus what the pass needs per padded row,
//            heads_q * sequence_rows(problem) (plan/sequence_tables.h). blocks: sequence_tiles(…) * heads, or fewer that go through the list (persistent).
//   launch   fill a SequenceJob: sequence_inputs_of(problem, variants), up to kMaxSequenceTables tables, and the outputs whose rows outside of all sequences
//            must be filled; then prepare_sequences(job, device, stream), then the main kernel on the same stream.
//   kernel   TileOrder with num_tiles = capacity of the table and num_heads = heads (there is one "batch": the tile's record has it), or any other order over
//            (place, head), or whatever table.counter() hands out. Then, with t = table.tile(place):
//              rows of q    [t.q_begin + t.tile * tile_rows, t.q_begin + t.len_q) of batch entry t.batch; keys [t.kv_begin, t.kv_begin + t.len_kv)
//              masks        positions count within the sequence: lengths t.len_q and t.len_kv, bottom-right offset t.len_kv - t.len_q
//              t.sequence   is the "batch" of alibi_slopes, bias, visible, block_mask and of dropout's counter
//              workspace    row head * sequence_rows(problem) + t.row_begin + i is that of query i; every sequence has a multiple of 128 rows there
//              lse          position t.q_begin + i of batch entry t.batch, (batch, heads_q, len_q of the tensor), as without sequences
//            Rows behind a sequence's end belong to other sequences or to none: they may be loaded, must count for nothing even if they hold NaN, and must not
//            be written. Every output row of a sequence must be written, also where it sees no key (or no query).
// Tables of query tiles list sequences by the number of keys, tables of key tiles by the number of queries; a sequence without rows on the table's side has no
// tile, one without rows on the other side does. Within a sequence tiles go up; a kernel whose later tiles are the longer ones (queries under a causal mask)
// may turn them round with ceil(length / tile_rows) - 1 - t.tile. Sequences that take nearly equally long (6 %) may stand in any order, from call to call.
#pragma once

#include <cstdint>

#include "plan/problem.h"
#include "plan/sequence_tables.h"

namespace fa {

/// A tile of rows of one sequence.
struct alignas(16) SequenceTile {
  int32_t sequence;   ///< its number, 0 … count - 1
  int32_t tile;       ///< number of the tile within the sequence
  int32_t q_begin;    ///< first query, a position along the sequence dimension of the tensors
  int32_t len_q;      ///< used queries
  int32_t kv_begin;   ///< first key
  int32_t len_kv;     ///< used keys
  int32_t row_begin;  ///< first row of the sequence in a head's part of the padded workspace, a multiple of kSequenceRowPadding
  int32_t batch;      ///< batch entry of the tensors: 0 if packed, else the sequence
};
static_assert(sizeof(SequenceTile) == kSequenceTileBytes, "two int4");

/// A list of tiles in the workspace: the number of tiles, a counter, padding to 16 bytes, the tiles.
struct SequenceTable {
  int32_t* data = nullptr;  ///< null: no sequences
  int32_t capacity = 0;     ///< places; those from num_tiles() on hold nothing

#if defined(__CUDACC__) || defined(FA_EMULATOR)
  __device__ __forceinline__ int num_tiles() const {
    return data[0];
  }
  /// 0 when the main kernel begins, whose blocks may take work by it.
  __device__ __forceinline__ int32_t* counter() const {
    return data + 1;
  }
  __device__ __forceinline__ SequenceTile tile(int place) const {
    return reinterpret_cast<const SequenceTile*>(data + kSequenceTableHeaderBytes / sizeof(int32_t))[place];
  }
#endif
};

#if defined(__CUDACC__) || defined(FA_EMULATOR)
/// The tile of a block by its place in an order of work: of the table, or where there is none that tile of a batch entry whose rows are all used. tile is -1 if
/// the table has none there.
__device__ __forceinline__ SequenceTile block_tile(const SequenceTable& table, int place, int batch, int len_q, int len_kv) {
  if (table.data == nullptr) return {batch, place, 0, len_q, 0, len_kv, 0, batch};
  if (place >= table.num_tiles()) return {0, -1, 0, 0, 0, 0, 0, 0};
  return table.tile(place);
}
#endif

/// Where the lengths lie, and what bounds them.
struct SequenceInputs {
  const int32_t* cu_seqlens_q = nullptr;  ///< (count + 1), or null if not packed
  const int32_t* cu_seqlens_kv = nullptr;
  const int32_t* seqused_q = nullptr;  ///< (count), or null
  const int32_t* seqused_kv = nullptr;
  int32_t count = 0;
  int32_t len_q = 0, len_kv = 0;          ///< of the tensors
  int32_t max_len_q = 0, max_len_kv = 0;  ///< of a sequence
  bool left_padded = false;
};

inline SequenceInputs sequence_inputs_of(const Problem& problem, const VariantArgs& args) {
  SequenceInputs inputs;
  inputs.cu_seqlens_q = args.cu_seqlens_q;
  inputs.cu_seqlens_kv = args.cu_seqlens_kv;
  inputs.seqused_q = args.seqused_q;
  inputs.seqused_kv = args.seqused_kv;
  inputs.count = static_cast<int32_t>(problem.num_sequences());
  inputs.len_q = static_cast<int32_t>(problem.len_q);
  inputs.len_kv = static_cast<int32_t>(problem.len_kv);
  inputs.max_len_q = static_cast<int32_t>(problem.max_len_q());
  inputs.max_len_kv = static_cast<int32_t>(problem.max_len_kv());
  inputs.left_padded = problem.variants.sequences.left_padded;
  return inputs;
}

/// A table to write: tiles of `tile_rows` queries or keys.
struct SequenceTableJob {
  SequenceTable table;
  int32_t tile_rows = 0;
  bool of_q = true;
};

/// An output whose rows outside of all sequences become 0: (batch, sequence, heads, head_dim) of 16-bit elements. data null: none.
struct SequenceGap {
  uint16_t* data = nullptr;
  Strides strides;
  int32_t heads = 0;
  int32_t head_dim = 0;
  bool of_q = true;
};

inline constexpr int kMaxSequenceTables = 2;
inline constexpr int kMaxSequenceGaps = 3;

/// What the kernel before the main one does.
struct SequenceJob {
  SequenceInputs inputs;
  SequenceTableJob tables[kMaxSequenceTables];  ///< those with tile_rows 0 are none
  /// (count) by number, with tile 0, for kernels that go through all sequences; null: not written. With tables[0] only.
  SequenceTile* by_number = nullptr;
  SequenceGap gaps[kMaxSequenceGaps];
  float* lse = nullptr;  ///< (batch, heads_q, len_q): -infinity outside of all sequences; null: not written
  int32_t heads_q = 0;   ///< of lse
  int32_t batch = 0;     ///< of the tensors
  bool aligned = false;  ///< rows of the outputs can be written in pieces of 16 bytes
};

/// A table in the workspace at `at`.
inline SequenceTableJob sequence_table_at(void* at, const Problem& problem, bool of_q, int tile_rows) {
  return {{static_cast<int32_t*>(at), static_cast<int32_t>(sequence_tiles(problem, of_q, tile_rows))}, tile_rows, of_q};
}

/// The part of a job that does not depend on the pass.
inline SequenceJob sequence_job_of(const Problem& problem, const VariantArgs& args) {
  SequenceJob job;
  job.inputs = sequence_inputs_of(problem, args);
  job.batch = static_cast<int32_t>(problem.batch);
  job.heads_q = static_cast<int32_t>(problem.heads_q);
  job.aligned = problem.aligned_16_bytes;
  return job;
}

}  // namespace fa
