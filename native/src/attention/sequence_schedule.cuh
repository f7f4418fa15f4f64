// Device code of the kernel that reads the lengths of sequences: the first blocks write a table of tiles each, the others fill output rows that belong to no
// sequence.
#pragma once

#include <cmath>

#include "attention/sequence_schedule.h"

namespace fa {

/// Places and used positions of a sequence along the sequence dimension of q, or of k and v.
struct SequenceExtent {
  int place;
  int begin, len;
};

/// Values out of range are cut, so that nothing outside the tensors is touched whatever the arrays hold.
__device__ __forceinline__ SequenceExtent sequence_extent(const SequenceInputs& in, int sequence, bool of_q) {
  const int32_t* const offsets = of_q ? in.cu_seqlens_q : in.cu_seqlens_kv;
  const int32_t* const used = of_q ? in.seqused_q : in.seqused_kv;
  const int length = of_q ? in.len_q : in.len_kv;
  int place = 0, places = length;
  if (offsets != nullptr) {
    place = max(0, min(static_cast<int>(offsets[sequence]), length));
    places = max(place, min(static_cast<int>(offsets[sequence + 1]), length)) - place;
    places = min(places, of_q ? in.max_len_q : in.max_len_kv);
  }
  const int len = used == nullptr ? places : max(0, min(static_cast<int>(used[sequence]), places));
  return {place, in.left_padded ? place + places - len : place, len};
}

/// First row of a sequence whose places begin at `place`, in a head's part of the padded workspace. Parts of sequences do not overlap: floor(place / 128) grows
/// by at least floor(n / 128) over n places, and each sequence has a block more.
__device__ __forceinline__ int sequence_row_begin(const SequenceInputs& in, int sequence, int place) {
  constexpr int kRows = kSequenceRowPadding;
  return in.cu_seqlens_q != nullptr ? (place / kRows + sequence) * kRows : sequence * ((in.len_q + kRows - 1) / kRows * kRows);
}

struct SequenceScheduleConfig {
  static constexpr int kThreads = 512;
  /// Work is sorted by 16 steps per octave.
  static constexpr int kBuckets = kThreads;

  struct Shared {
    int32_t scan[2][kBuckets];
    SequenceTile pending[kThreads];  ///< tile: number of tiles of the sequence
    int32_t claimed[kThreads];       ///< place of its first tile
  };
};

/// Block b < kMaxSequenceTables writes table b; the others fill kThreads positions each, those of gaps[0] first (SequenceJob::lse with the first one of q).
template <class Config>
class SequenceScheduleBlock {
  using Shared = typename Config::Shared;
  static constexpr int kThreads = Config::kThreads;
  static constexpr int kBuckets = Config::kBuckets;

 public:
  __device__ __forceinline__ SequenceScheduleBlock(const SequenceJob& job, Shared& shared)
      : job_(job), s_(shared), thread_(static_cast<int>(threadIdx.x)), block_(static_cast<int>(blockIdx.x)) {}

  __device__ __forceinline__ void run() {
    if (block_ < kMaxSequenceTables) {
      if (job_.tables[block_].tile_rows > 0) write_table(job_.tables[block_]);
    } else {
      fill_gaps();
    }
  }

 private:
  /// The longest first: 0 for the most work.
  __device__ __forceinline__ static int bucket_of(int work) {
    int exponent = 0;
    while (work >> exponent >= 32) ++exponent;
    return kBuckets - 1 - (16 * exponent + (work >> exponent));
  }

  /// The record of a sequence, with its number of tiles in place of the tile, and where it is to be sorted.
  __device__ __forceinline__ int read_sequence(const SequenceTableJob& table, int sequence, SequenceTile* record) const {
    const SequenceExtent q = sequence_extent(job_.inputs, sequence, true), kv = sequence_extent(job_.inputs, sequence, false);
    const int rows = table.of_q ? q.len : kv.len;
    const int tiles = (rows + table.tile_rows - 1) / table.tile_rows;
    const bool packed = job_.inputs.cu_seqlens_q != nullptr;
    *record = {sequence, tiles, q.begin, q.len, kv.begin, kv.len, sequence_row_begin(job_.inputs, sequence, q.place), packed ? 0 : sequence};
    return bucket_of(table.of_q ? kv.len : q.len);
  }

  __device__ __forceinline__ void write_table(const SequenceTableJob& table) {
    const int count = job_.inputs.count;
    s_.scan[0][thread_] = 0;
    __syncthreads();
    SequenceTile record;
    for (int sequence = thread_; sequence < count; sequence += kThreads) {
      const int bucket = read_sequence(table, sequence, &record);
      if (record.tile > 0) atomicAdd(&s_.scan[0][bucket], record.tile);
      if (block_ == 0 && job_.by_number != nullptr) {
        record.tile = 0;
        job_.by_number[sequence] = record;
      }
    }
    __syncthreads();
    int32_t* const begins = scan_exclusive();
    if (thread_ == 0) {
      table.table.data[0] = min(total_, table.table.capacity);
      *table.table.counter() = 0;
    }
    SequenceTile* const tiles = reinterpret_cast<SequenceTile*>(table.table.data + kSequenceTableHeaderBytes / sizeof(int32_t));
    for (int first = 0; first < count; first += kThreads) {
      s_.pending[thread_].tile = 0;
      if (first + thread_ < count) {
        const int bucket = read_sequence(table, first + thread_, &record);
        s_.pending[thread_] = record;
        if (record.tile > 0) s_.claimed[thread_] = atomicAdd(&begins[bucket], record.tile);
      }
      __syncthreads();
      // A warp per sequence, a lane per tile.
      for (int each = thread_ / 32; each < min(kThreads, count - first); each += kThreads / 32) {
        SequenceTile tile = s_.pending[each];
        const int num_tiles = tile.tile, claimed = num_tiles > 0 ? s_.claimed[each] : 0;
        for (tile.tile = thread_ % 32; tile.tile < num_tiles && claimed + tile.tile < table.table.capacity; tile.tile += 32) {
          tiles[claimed + tile.tile] = tile;
        }
      }
      __syncthreads();
    }
  }

  /// Sums of scan[0] before each bucket, and total_. Returns where they lie.
  __device__ __forceinline__ int32_t* scan_exclusive() {
    const int mine = s_.scan[0][thread_];
    int from = 0;
    for (int distance = 1; distance < kBuckets; distance *= 2, from ^= 1) {
      s_.scan[from ^ 1][thread_] = s_.scan[from][thread_] + (thread_ >= distance ? s_.scan[from][thread_ - distance] : 0);
      __syncthreads();
    }
    total_ = s_.scan[from][kBuckets - 1];
    s_.scan[from ^ 1][thread_] = s_.scan[from][thread_] - mine;
    __syncthreads();
    return s_.scan[from ^ 1];
  }

  /// Whether a position of the tensors belongs to a sequence.
  __device__ __forceinline__ bool is_used(int batch, int position, bool of_q) const {
    const SequenceInputs& in = job_.inputs;
    int sequence = batch;
    if (in.cu_seqlens_q != nullptr) {
      const int32_t* const offsets = of_q ? in.cu_seqlens_q : in.cu_seqlens_kv;
      // The last sequence that begins at or before the position: first of those that begin behind it, less one.
      int low = 0, high = in.count;
      while (low < high) {
        const int middle = low + (high - low) / 2;
        if (offsets[middle] <= position) {
          low = middle + 1;
        } else {
          high = middle;
        }
      }
      sequence = low - 1;
    }
    if (sequence < 0 || sequence >= in.count) return false;
    const SequenceExtent extent = sequence_extent(in, sequence, of_q);
    return position >= extent.begin && position < extent.begin + extent.len;
  }

  __device__ __forceinline__ void fill_gaps() {
    int64_t chunk = block_ - kMaxSequenceTables;
    for (int side = 0; side < 2; ++side) {
      const bool of_q = side == 0;
      const int length = of_q ? job_.inputs.len_q : job_.inputs.len_kv;
      const int64_t chunks_per_batch = (length + kThreads - 1) / kThreads, chunks = chunks_per_batch * job_.batch;
      if (chunk < chunks) {
        const int batch = static_cast<int>(chunk / chunks_per_batch);
        fill(batch, static_cast<int>(chunk - batch * chunks_per_batch) * kThreads, length, of_q);
        return;
      }
      chunk -= chunks;
    }
  }

  /// Positions first … first + kThreads - 1 of a batch entry.
  __device__ __forceinline__ void fill(int batch, int first, int length, bool of_q) {
    const int mine = first + thread_;
    const bool gap = mine < length && !is_used(batch, mine, of_q);
    int32_t* const s_is_gap = s_.claimed;
    s_is_gap[thread_] = gap;
    if (!__syncthreads_or(gap)) return;
    if (of_q && job_.lse != nullptr && gap) {
      for (int head = 0; head < job_.heads_q; ++head) job_.lse[(static_cast<int64_t>(batch) * job_.heads_q + head) * length + mine] = -INFINITY;
    }
    const int positions = min(kThreads, length - first);
    for (int i = 0; i < kMaxSequenceGaps; ++i) {
      const SequenceGap& output = job_.gaps[i];
      if (output.data == nullptr || output.of_q != of_q) continue;
      // Neighbouring threads take neighbouring pieces of a row.
      const int piece_elements = job_.aligned ? 8 : 1, pieces = output.head_dim / piece_elements;
      const int64_t row_pieces = static_cast<int64_t>(pieces) * output.heads, items = row_pieces * positions;
      for (int64_t item = thread_; item < items; item += kThreads) {
        const int position = static_cast<int>(item / row_pieces), in_row = static_cast<int>(item - position * row_pieces);
        if (!s_is_gap[position]) continue;
        const int head = in_row / pieces, piece = in_row - head * pieces;
        uint16_t* const g_piece =
            output.data + batch * output.strides.batch + (first + position) * output.strides.seq + head * output.strides.head + piece * piece_elements;
        if (job_.aligned) {
          *reinterpret_cast<uint4*>(g_piece) = uint4{0, 0, 0, 0};
        } else {
          *g_piece = 0;
        }
      }
    }
  }

  const SequenceJob& job_;
  Shared& s_;
  const int thread_, block_;
  int total_ = 0;
};

/// Blocks of the kernel for a job.
inline int64_t sequence_schedule_blocks(const SequenceJob& job) {
  constexpr int kThreads = SequenceScheduleConfig::kThreads;
  bool of_q = job.lse != nullptr, of_kv = false;
  for (const SequenceGap& gap : job.gaps) {
    of_q |= gap.data != nullptr && gap.of_q;
    of_kv |= gap.data != nullptr && !gap.of_q;
  }
  const auto chunks = [&](int length) { return (int64_t{length} + kThreads - 1) / kThreads * job.batch; };
  // Chunks of k and v come after those of q.
  return kMaxSequenceTables + (of_q || of_kv ? chunks(job.inputs.len_q) : 0) + (of_kv ? chunks(job.inputs.len_kv) : 0);
}

}  // namespace fa
