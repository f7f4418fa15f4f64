// Which query tiles a team of consumers works on, in which order, and which key tiles each needs.
//
// Without a mask every tile is the same work: the grid is one block per multiprocessor, tiles of one head follow each other so that its keys stay in L2; the
// last round may be shared along the keys (shared_round.cuh). With a window the order is the same, but for the first tiles of a head: those of all heads come
// at the end, longest first. With a causal mask the tiles of a head differ. Where the numbers allow it, they go out in pairs of equal work, tile i of n with
// tile n - 1 - i. Otherwise sections of heads whose keys and values fit L2 together are taken one after the other: long problems launch one block per tile,
// longest first, and leave the balance to the hardware's block scheduler; short ones run persistent blocks that go through the order back and forth, so that a
// block which had the longer tile of one round has the shorter one of the next. Within a section the longest tiles come first, or, for the shortest problems,
// which are limited by memory, the tiles of a head follow each other: blocks beside each other then read the same keys at the same time. Their last section,
// which need not be a whole number of rounds, is longest first again. The number of query rows need not be a multiple of the tile: with a causal mask it is the
// first tile that is not full, since it is the shortest.
#pragma once

#include "kernels/sm90/forward/params.h"
#include "ptx/reduce.cuh"
#include "ptx/shared_load.cuh"

namespace fa::sm90 {

struct WorkTile {
  int first_row;  ///< negative where a head's first tile is not full
  int head;
  int batch;
};

/// A sequence within its batch entry.
struct SequenceExtents {
  int len_q;
  int len_kv;
  int q_begin;   ///< place of the first query in the batch entry
  int kv_begin;  ///< of the first key
};

/// Key tiles of `rows` query rows from first_row on: [full_begin, full_end) are seen by every row, the others of [begin, end) need the mask, the rest is seen
/// by none. Without modified scores begin and full_begin are 0.
struct KeyTiles {
  int full_end;
  int end;
  int full_begin = 0;
  int begin = 0;
};

/// What a key tile needs.
enum class TileKind {
  kPlain,      ///< all rows see all keys
  kFollowing,  ///< so they do, and the reference follows the running maximum
  kLowerEdge,  ///< some rows do not see its first keys; only with modified scores
  kExact,      ///< any mask, and the exact step
};

/// What the producer works out for a warpgroup's 64 rows of a work tile with modified scores, besides their key tiles.
struct TileEdges {
  int block_begin;   ///< first key tile that some row of the block sees; the last is in the message
  bool masks_first;  ///< the first step (the last key tile) needs the mask
  bool trims_first;  ///< and no row sees the upper half of it
  bool trims_last;   ///< the last step's tile (begin) takes an optimistic step and no row sees the lower half of it
  int skipped;       ///< key tiles of the block behind the warpgroup's last one

  /// As it travels.
  __device__ __forceinline__ int4 message() const {
    return make_int4(block_begin, (masks_first ? 1 : 0) | (trims_first ? 2 : 0) | (trims_last ? 4 : 0), skipped, 0);
  }
};

/// What is needed at the beginning of a work tile, and at its end.
struct TileStart {
  KeyTiles keys;
  TileEdges edges;
};
struct TileIdentity {
  int head;
  int sequence;
  SequenceExtents extents;
};

/// A work tile with modified scores: of a sequence, which may be part of a batch entry. Rows and keys count within the sequence. All but the row is read from
/// shared memory when it is needed, since consumers have no registers to spare: the producer's message (work_message, with the sequence as the batch), the
/// extents, then two of each warpgroup: its key tiles, whose full_end is the end of those that need no exact step, and its edges.
struct SequenceWorkTile {
  int first_row;
  const int4* s_messages;

  static constexpr int num_messages(int warpgroups) { return 2 + 2 * warpgroups; }

  // The lane that releases q tiles reads for its warp, so that its arrival orders the read for all. The shuffles tell the compiler that these are the same in
  // the whole warp, which must be together here.
  __device__ __forceinline__ int head() const { return __shfl_sync(0xFFFFFFFF, ptx::load_shared_by_first_lane(&s_messages[0]).y, 0); }
  __device__ __forceinline__ int sequence() const { return __shfl_sync(0xFFFFFFFF, ptx::load_shared_by_first_lane(&s_messages[0]).z, 0); }
  __device__ __forceinline__ SequenceExtents extents() const { return as_extents(ptx::load_shared_by_first_lane(&s_messages[1])); }
  __device__ __forceinline__ KeyTiles key_tiles(int warpgroup) const { return as_keys(ptx::load_shared_by_first_lane(&s_messages[2 + 2 * warpgroup])); }
  __device__ __forceinline__ TileEdges edges(int warpgroup) const { return as_edges(ptx::load_shared_by_first_lane(&s_messages[3 + 2 * warpgroup])); }
  // Two messages at once, where nothing else hides the 100 clocks that one takes.
  __device__ __forceinline__ TileStart start(int warpgroup) const {
    const int4 keys = ptx::load_shared_by_first_lane(&s_messages[2 + 2 * warpgroup]), edges = ptx::load_shared_by_first_lane(&s_messages[3 + 2 * warpgroup]);
    return {as_keys(keys), as_edges(edges)};
  }
  __device__ __forceinline__ TileIdentity identity() const {
    const int4 work = ptx::load_shared_by_first_lane(&s_messages[0]), extents = ptx::load_shared_by_first_lane(&s_messages[1]);
    return {__shfl_sync(0xFFFFFFFF, work.y, 0), __shfl_sync(0xFFFFFFFF, work.z, 0), as_extents(extents)};
  }

 private:
  static __device__ __forceinline__ SequenceExtents as_extents(const int4& read) {
    return {__shfl_sync(0xFFFFFFFF, read.x, 0), __shfl_sync(0xFFFFFFFF, read.y, 0), __shfl_sync(0xFFFFFFFF, read.z, 0), __shfl_sync(0xFFFFFFFF, read.w, 0)};
  }
  static __device__ __forceinline__ KeyTiles as_keys(const int4& read) {
    return {__shfl_sync(0xFFFFFFFF, read.x, 0), __shfl_sync(0xFFFFFFFF, read.y, 0), __shfl_sync(0xFFFFFFFF, read.z, 0), __shfl_sync(0xFFFFFFFF, read.w, 0)};
  }
  static __device__ __forceinline__ TileEdges as_edges(const int4& read) {
    const int flags = __shfl_sync(0xFFFFFFFF, read.y, 0);
    return {__shfl_sync(0xFFFFFFFF, read.x, 0), (flags & 1) != 0, (flags & 2) != 0, (flags & 4) != 0, __shfl_sync(0xFFFFFFFF, read.z, 0)};
  }
};

/// Batch entry of what the producer works on.
__device__ __forceinline__ int batch_entry(const ModifiedForwardParams& params, const WorkTile& tile) {
  return params.packed ? 0 : tile.batch;
}

/// Where a work tile's rows and keys lie in the tensors.
struct TilePlace {
  int head;
  int batch;
  int first_query;  ///< of the sequence, in the batch entry
  int queries;      ///< of the sequence
  int first_key;
};
__device__ __forceinline__ TilePlace place_of(const ForwardParams& params, const WorkTile& tile) {
  return {tile.head, tile.batch, 0, params.len_q, 0};
}
__device__ __forceinline__ TilePlace place_of(const ModifiedForwardParams& params, const TileIdentity& identity) {
  const SequenceExtents& extents = identity.extents;
  return {identity.head, params.packed ? 0 : identity.sequence, extents.q_begin, extents.len_q, extents.kv_begin};
}
/// By whole warps.
__device__ __forceinline__ TilePlace place_of(const ModifiedForwardParams& params, const SequenceWorkTile& tile) {
  const TileIdentity identity = tile.identity();
  return place_of(params, identity);
}

/// Which keys a row of a sequence sees.
__device__ __forceinline__ PairRange range_of(const ModifiedForwardParams& params, const SequenceExtents& extents) {
  return params.scores.range.with_lengths(extents.len_q, extents.len_kv);
}
__device__ __forceinline__ PairRange range_of(const ModifiedForwardParams& params, const SequenceWorkTile& tile) {
  return range_of(params, tile.extents());
}

/// What the producer says of a work tile, through shared memory and the barrier of its q tile. block_end: the number of key tiles that some row of it sees, or
/// kNoMoreWork after the last work tile.
inline constexpr int kNoMoreWork = -1;
/// Set in block_end where tiles are shared (shared_round.cuh): it is the end of a part of the tile's keys, of which another message says more.
inline constexpr int kIsPart = 1 << 30;
__device__ __forceinline__ int4 work_message(const WorkTile& tile, int block_end) {
  return make_int4(tile.first_row, tile.head, tile.batch, block_end);
}

/// The tiles of this block, one after the other.
template <typename Config>
class WorkIterator {
 public:
  __device__ __forceinline__ WorkIterator(const ForwardParams& params, int team) : params_(params), team_(team) {}

  __device__ __forceinline__ bool done() const { return unit() >= params_.num_units; }
  __device__ __forceinline__ void advance() { ++count_; }

  __device__ __forceinline__ WorkTile tile() const { return tile_of(unit()); }

 protected:
  __device__ __forceinline__ WorkTile tile_of(int unit) const {
    int q_tile, flat_head;
    if (params_.sections) {
      const int section = min(params_.section_tiles.quotient(unit), params_.last_section);
      const int in_section = unit - section * static_cast<int>(params_.section_tiles.divisor);
      int head, step;
      if (params_.adjacent_tiles && section < params_.last_section) {
        head = params_.units_of_head.quotient(in_section);
        step = params_.units_of_head.remainder(in_section, head);
      } else {
        const FastDivisor& heads = section == params_.last_section ? params_.last_section_heads : params_.section_heads;
        step = heads.quotient(in_section);
        head = heads.remainder(in_section, step);
      }
      q_tile = params_.q_tiles - 1 - step;
      flat_head = section * static_cast<int>(params_.section_heads.divisor) + head;
    } else {
      flat_head = params_.units_of_head.quotient(unit);
      const int group = params_.units_of_head.remainder(unit, flat_head);
      const bool second_of_pair = (count_ & params_.unit_shift) != 0;
      q_tile = second_of_pair ? params_.q_tiles - 1 - group : group;
    }
    if constexpr (!Config::Scores::kModified) {
      flat_head = params_.last_head - flat_head;  // what was written last is still in L2
    }
    const int batch = params_.heads.quotient(flat_head);
    return {q_tile * Config::kTileQ + params_.first_row, params_.heads.remainder(flat_head, batch), batch};
  }

  /// Teams of the same number follow each other, so that a small problem takes all multiprocessors before it takes second teams.
  __device__ __forceinline__ int unit() const {
    const int workers = Config::kTeams * static_cast<int>(gridDim.x);
    const int worker = (Config::kTeams > 1 ? team_ * static_cast<int>(gridDim.x) : 0) + static_cast<int>(blockIdx.x);
    const int round = count_ >> params_.unit_shift;
    return round * workers + (round % 2 == 0 ? worker : workers - 1 - worker);
  }

  const ForwardParams& params_;
  const int team_;
  int count_ = 0;  ///< tiles gone by
};

/// The same with modified scores. Sequences: sections of heads as above, and within a section the tiles as the table lists them, the longest sequence first;
/// blocks take them by a counter, since they differ too much in length for any fixed share.
template <typename Config>
class ModifiedWorkIterator : WorkIterator<Config> {
  using Base = WorkIterator<Config>;

 public:
  __device__ __forceinline__ ModifiedWorkIterator(const ModifiedForwardParams& params, int team)
      : Base(params, team),
        modified_(params),
        num_tiles_(params.sequences.data != nullptr ? params.sequences.num_tiles() : 0),
        counted_((team - Config::kTeams) * static_cast<int>(gridDim.x) + static_cast<int>(blockIdx.x)) {}

  __device__ __forceinline__ bool done() const { return modified_.sequences.data != nullptr ? item() >= num_tiles_ * modified_.heads_q : Base::done(); }

  /// Once for each tile, between tile() and advance(): no other block can have the next one then.
  __device__ __forceinline__ void take() {
    if (modified_.sequences.data != nullptr) {
      counted_ = ptx::fetch_increment_relaxed(modified_.sequences.counter());
    }
  }
  __device__ __forceinline__ void advance() {
    if (modified_.sequences.data == nullptr) {
      Base::advance();
    }
  }

  __device__ __forceinline__ WorkTile tile(SequenceExtents& extents) const {
    if (modified_.sequences.data == nullptr) {
      extents = {modified_.len_q, modified_.scores.range.len_kv, 0, 0};
      if constexpr (!Config::Scores::kChangesScores && !Config::Scores::kMask) {
        const int in_last_section = Base::unit() - modified_.whole_units;
        if (in_last_section >= 0) {
          const int step = modified_.last_section_heads.quotient(in_last_section);
          const int flat_head = modified_.last_section_heads.remainder(in_last_section, step), batch = modified_.heads.quotient(flat_head);
          return {modified_.first_row - (step + 1) * Config::kTileQ, modified_.heads.remainder(flat_head, batch), batch};
        }
      }
      const WorkTile tile = Base::tile();
      return Config::Scores::kBias && modified_.batch_inside ? WorkTile{tile.first_row, tile.batch, tile.head} : tile;
    }
    const int section_heads = static_cast<int>(modified_.section_heads.divisor), section_items = section_heads * num_tiles_;
    const int section = min(item() / section_items, modified_.last_section), in_section = item() - section * section_items;
    const FastDivisor& heads = section == modified_.last_section ? modified_.last_section_heads : modified_.section_heads;
    const int place = heads.quotient(in_section);
    const SequenceTile record = modified_.sequences.tile(place);
    // Under a causal mask the last tiles are the longest.
    const int number = modified_.causal ? (record.len_q + Config::kTileQ - 1) / Config::kTileQ - 1 - record.tile : record.tile;
    extents = {record.len_q, record.len_kv, record.q_begin, record.kv_begin};
    return {number * Config::kTileQ, section * section_heads + heads.remainder(in_section, place), record.sequence};
  }

 private:
  /// Of the tiles of all sequences and heads. Every team begins with one, numbered as in unit(); the counter hands out the others.
  __device__ __forceinline__ int item() const { return Config::kTeams * static_cast<int>(gridDim.x) + counted_; }

  const ModifiedForwardParams& modified_;
  const int num_tiles_;
  int counted_;
};

/// Number of keys that rows [0, row] see at most, i.e. what query `row` sees.
__device__ __forceinline__ int visible_keys(const ForwardParams& params, int row) {
  return max(0, min(params.len_kv, row + params.causal_limit));
}

template <int kTileKv>
__device__ __forceinline__ KeyTiles key_tiles(const ForwardParams& params, int first_row, int rows) {
  const int last_row = min(first_row + rows, params.len_q) - 1;
  if (last_row < first_row) {
    return {0, 0};
  }
  return {visible_keys(params, first_row) / kTileKv, (visible_keys(params, last_row) + kTileKv - 1) / kTileKv};
}

/// first_row may be negative (WorkTile). Where no row sees a key, everything is 0.
template <int kTileKv>
__device__ __forceinline__ KeyTiles key_tiles(const PairRange& range, int first_row, int rows) {
  const int first = max(0, first_row), last = min(first_row + rows, range.len_q) - 1;
  if (last < first) {
    return {0, 0};
  }
  const KeyTiles tiles = {range.end_key(first) / kTileKv, (range.end_key(last) + kTileKv - 1) / kTileKv, (range.begin_key(last) + kTileKv - 1) / kTileKv,
                          range.begin_key(first) / kTileKv};
  return tiles.begin < tiles.end ? tiles : KeyTiles{0, 0};
}

/// Writes what SequenceWorkTile reads of a work tile. [block_begin, block_end): its key tiles.
template <typename Config>
__device__ __forceinline__ void write_messages(const ModifiedForwardParams& params, int4* s_messages, const WorkTile& tile, const SequenceExtents& extents,
                                               int block_end, int block_begin) {
  constexpr int kTileKv = Config::kTileKv;
  const PairRange range = range_of(params, extents);
  s_messages[0] = work_message(tile, block_end);
  s_messages[1] = make_int4(extents.len_q, extents.len_kv, extents.q_begin, extents.kv_begin);
#pragma unroll 1
  for (int warpgroup = 0; warpgroup < Config::kWarpgroups; ++warpgroup) {
    const int first_row = tile.first_row + 64 * warpgroup;
    const KeyTiles keys = first_row < 0 ? KeyTiles{0, 0} : key_tiles<kTileKv>(range, first_row, 64);
    // Below this, no key is behind what all rows see, and with ALiBi none behind a row's position.
    const int exact_end = Config::Scores::kAlibi ? min(keys.full_end, max(0, first_row + range.offset + 1) / kTileKv) : keys.full_end;
    const int last = keys.end - 1;
    const bool masks_first = last >= keys.full_end || last < keys.full_begin;
    const bool trims_first = Config::kTrimsFirst && masks_first && range.end_key(first_row + 63) - last * kTileKv <= kTileKv / 2;
    const bool trims_last = Config::kTrimsLast && keys.begin < min(last, exact_end) && range.begin_key(max(0, first_row)) - keys.begin * kTileKv >= kTileKv / 2;
    s_messages[2 + 2 * warpgroup] = make_int4(exact_end, keys.end, keys.full_begin, keys.begin);
    s_messages[3 + 2 * warpgroup] = TileEdges{block_begin, masks_first, trims_first, trims_last, keys.begin - block_begin}.message();
  }
}

/// What the producer itself needs of a work tile that it has written the messages of. Read back, so that it does not have to keep what went into them.
struct PreparedWork {
  WorkTile tile;
  SequenceExtents extents;
  int block_begin;
  int block_end;
};
__device__ __forceinline__ PreparedWork read_messages(const int4* s_messages) {
  const int4 work = ptx::load_shared_anew(&s_messages[0]), extents = ptx::load_shared_anew(&s_messages[1]), edges = ptx::load_shared_anew(&s_messages[3]);
  return {{work.x, work.y, work.z}, {extents.x, extents.y, extents.z, extents.w}, edges.x, work.w};
}

/// Position in a ring of kStages buffers, in one register: the number of buffers gone by.
template <int kStages>
class RingCursor {
  static_assert(kStages == 1 || kStages == 2 || kStages == 4, "a power of two");

 public:
  __device__ __forceinline__ int stage() const { return static_cast<int>(count_ % kStages); }
  /// Parity of the barrier phase that the ring's current round completes.
  __device__ __forceinline__ uint32_t phase() const { return count_ / kStages % 2; }
  __device__ __forceinline__ void advance() { ++count_; }
  /// Position in a ring of kSlots places beside it.
  template <int kSlots>
  __device__ __forceinline__ int slot() const {
    return static_cast<int>(count_ % kSlots);
  }

 private:
  uint32_t count_ = 0;
};

}  // namespace fa::sm90
