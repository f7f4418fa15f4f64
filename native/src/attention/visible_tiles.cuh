// Device code of the two kernels that write lists of visible tiles (visible_tiles.h).
#pragma once

#include "attention/visible_tiles.h"

namespace fa {

/// First kernel: a warp per unit, or a thread where a unit is one entry of a block mask.
struct VisibleUnitsConfig {
  static constexpr int kWarps = 8;
  static constexpr int kThreads = 32 * kWarps;
  /// Rows that are on their way to a warp together: 4 with each load.
  static constexpr int kLoads = 8;

  struct Shared {
    /// A unit's pairs, a bit each: 128 keys per row.
    uint32_t rows[kWarps][kVisibleUnitRows][kVisibleUnitKeys / 32];
  };
};

/// Blocks of the first kernel.
inline int64_t visible_unit_blocks(const VisibleTilesJob& job) {
  const int units = job.tiles.bits != nullptr ? VisibleUnitsConfig::kWarps : VisibleUnitsConfig::kThreads;
  return (job.num_units + units - 1) / units;
}

template <class Config>
class VisibleUnitsBlock {
  using Shared = typename Config::Shared;
  static constexpr unsigned kAllLanes = 0xFFFFFFFFu;
  /// Keys of a lane's piece of a row: 16 bytes of the boolean mask.
  static constexpr int kPiece = 16;

 public:
  __device__ __forceinline__ VisibleUnitsBlock(const VisibleTilesJob& job, Shared& shared)
      : job_(job), s_rows_(shared.rows[threadIdx.x / 32]), lane_(static_cast<int>(threadIdx.x) % 32) {}

  __device__ __forceinline__ void run() {
    const int thread = static_cast<int>(blockIdx.x * Config::kThreads + threadIdx.x);
    for (int group = thread; group < job_.tiles.num_groups; group += static_cast<int>(gridDim.x) * Config::kThreads) {
      job_.tiles.tickets[group] = 0;
    }
    const bool by_warps = job_.tiles.bits != nullptr;
    const int unit = by_warps ? static_cast<int>(blockIdx.x) * Config::kWarps + static_cast<int>(threadIdx.x) / 32 : thread;
    if (unit >= job_.num_units) {
      return;
    }
    const int row_of_units = job_.by_key_units.quotient(unit), plane = job_.by_row_units.quotient(row_of_units);
    first_row_ = job_.by_row_units.remainder(row_of_units, plane) * kVisibleUnitRows;
    first_key_ = job_.by_key_units.remainder(unit, row_of_units) * kVisibleUnitKeys;
    batch_ = plane / job_.tiles.heads;
    head_ = plane - batch_ * job_.tiles.heads;
    if (!by_warps) {
      job_.tiles.states[unit] = static_cast<uint8_t>(in_range() && block_at(first_row_, first_key_) ? kVisibleAll : kVisibleNone);
      return;
    }
    const int state = classify();
    if ((state & kVisibleStates) == kVisibleSome) {
      __syncwarp();
      write_bits(job_.tiles.bits + static_cast<int64_t>(unit) * VisibleTiles::kUnitWords);
    }
    if (lane_ == 0) {
      job_.tiles.states[unit] = static_cast<uint8_t>(state);
    }
  }

 private:
  /// Whether the range shows some pair of the unit.
  __device__ __forceinline__ bool in_range() const {
    const PairRange& range = job_.range;
    return range.sees_some(first_row_, min(first_row_ + kVisibleUnitRows, range.len_q) - 1, first_key_, min(first_key_ + kVisibleUnitKeys, range.len_kv) - 1);
  }

  /// State of the unit, and which halves of its keys are hidden; if kVisibleSome, its pairs are in shared memory.
  __device__ __forceinline__ int classify() {
    const PairRange& range = job_.range;
    if (!in_range()) {
      return kVisibleNone;
    }
    cut_ = job_.tiles.bits_know_range() && !range.sees_whole(first_row_, first_row_ + kVisibleUnitRows - 1, first_key_, first_key_ + kVisibleUnitKeys - 1);
    uint32_t shown = kAllLanes;  // bit 8 i + j: the block mask's word on 16 rows and keys, from row 16 i and key 16 j on
    if (job_.block_mask.data != nullptr) {
      const int row = first_row_ + lane_ / 8 * 16, key = first_key_ + lane_ % 8 * 16;
      const bool exists = row < range.len_q && key < range.len_kv;
      const bool entry = !exists || block_at(row, key);
      shown = __ballot_sync(kAllLanes, entry);
      if (__ballot_sync(kAllLanes, exists && entry) == 0) {
        return kVisibleNone;
      }
    }
    return job_.visible.data == nullptr && shown == kAllLanes && !cut_ ? kVisibleAll : read_pairs(shown);
  }

  __device__ __forceinline__ bool block_at(int row, int key) const {
    const PairTensor& blocks = job_.block_mask;
    const auto* g_blocks = static_cast<const uint8_t*>(blocks.data) + batch_ * blocks.batch_stride + head_ * blocks.head_stride;
    return g_blocks[job_.by_block_q.quotient(row) * blocks.row_stride + job_.by_block_kv.quotient(key)] != 0;
  }

  /// The lane's piece of 16 keys in row `row` of the unit.
  __device__ __forceinline__ void store_piece(int row, uint32_t bits) const {
    reinterpret_cast<uint16_t*>(s_rows_[row])[lane_ % 8] = static_cast<uint16_t>(bits);
  }
  __device__ __forceinline__ uint32_t shown_piece(uint32_t shown, int row) const { return (shown >> (row / 16 * 8 + lane_ % 8) & 1u) != 0 ? 0xFFFFu : 0u; }
  /// Which pairs of the lane's piece in row `row` of the unit the range shows.
  __device__ __forceinline__ uint32_t ranged_piece(int row) const {
    const int key = first_key_ + lane_ % 8 * kPiece;
    const auto below = [&](int end) { return (1u << max(0, min(end - key, kPiece))) - 1u; };
    return first_row_ + row < job_.range.len_q ? below(job_.range.end_key(first_row_ + row)) & ~below(job_.range.begin_key(first_row_ + row)) : 0u;
  }

  /// Reads the boolean mask, if there is one: lane l takes keys 16 (l % 8) … of rows 4 i + l / 8. Pairs outside of the tensors count as visible, but a unit is
  /// not seen for them; where bits know the range they are hidden.
  __device__ __forceinline__ int read_pairs(uint32_t shown) {
    const PairTensor& visible = job_.visible;
    const int key = first_key_ + lane_ % 8 * kPiece, rows = min(kVisibleUnitRows, job_.range.len_q - first_row_);
    const int keys = min(kPiece, job_.range.len_kv - key);  // may be negative
    const uint32_t inside = keys <= 0 ? 0u : (1u << keys) - 1u;
    const auto* g_keys = static_cast<const uint8_t*>(visible.data) + batch_ * visible.batch_stride + head_ * visible.head_stride + key;
    // One row for all queries is read once.
    const bool broadcast = visible.row_stride == 0 || visible.data == nullptr;
    const bool aligned = job_.visible_aligned && first_key_ + kVisibleUnitKeys <= job_.range.len_kv;
    uint32_t any = 0, all = 0xFFFFu;
    const auto take = [&](int row, uint32_t bits) {
      bits = row < rows ? (bits | ~inside) & shown_piece(shown, row) : 0xFFFFu;
      if (cut_) {
        bits &= ranged_piece(row);
      }
      any |= row < rows ? bits & inside : 0u;
      all &= bits;
      store_piece(row, bits);
    };
    if (broadcast) {
      const uint32_t bits = visible.data != nullptr ? piece_bits(g_keys, aligned, inside) : 0xFFFFu;
      for (int row = lane_ / 8; row < kVisibleUnitRows; row += 4) {
        take(row, bits);
      }
    } else if (aligned) {
#pragma unroll 1
      for (int first = 0; first < kVisibleUnitRows; first += 4 * Config::kLoads) {
        uint4 loaded[Config::kLoads];
#pragma unroll
        for (int i = 0; i < Config::kLoads; ++i) {
          const int row = min(first + 4 * i + lane_ / 8, rows - 1);
          loaded[i] = *reinterpret_cast<const uint4*>(g_keys + (first_row_ + row) * visible.row_stride);
        }
#pragma unroll
        for (int i = 0; i < Config::kLoads; ++i) {
          take(first + 4 * i + lane_ / 8, bits_of(loaded[i]));
        }
      }
    } else {
#pragma unroll 1
      for (int row = lane_ / 8; row < kVisibleUnitRows; row += 4) {
        take(row, row < rows ? piece_bits(g_keys + (first_row_ + row) * visible.row_stride, false, inside) : 0u);
      }
    }
    const uint32_t seeing = __ballot_sync(kAllLanes, any != 0);
    if (seeing == 0) {
      return kVisibleNone;
    }
    constexpr uint32_t kFirstHalf = 0x0F0F0F0Fu;  // lanes
    const int hidden = ((seeing & kFirstHalf) == 0 ? kHidesFirstHalf : 0) | ((seeing & ~kFirstHalf) == 0 ? kHidesSecondHalf : 0);
    return __any_sync(kAllLanes, (all & 0xFFFFu) != 0xFFFFu) ? kVisibleSome | hidden : kVisibleAll;
  }

  __device__ __forceinline__ static uint32_t piece_bits(const uint8_t* g_piece, bool aligned, uint32_t inside) {
    if (aligned) {
      return bits_of(*reinterpret_cast<const uint4*>(g_piece));
    }
    uint32_t bits = 0;
#pragma unroll
    for (int i = 0; i < kPiece; ++i) {
      bits |= (inside >> i & 1u) != 0 && g_piece[i] != 0 ? 1u << i : 0u;
    }
    return bits;
  }
  __device__ __forceinline__ static uint32_t bits_of(const uint4& bytes) {
    return bits_of(bytes.x) | bits_of(bytes.y) << 4 | bits_of(bytes.z) << 8 | bits_of(bytes.w) << 12;
  }
  /// Bit i: whether byte i is not 0.
  __device__ __forceinline__ static uint32_t bits_of(uint32_t bytes) {
    const uint32_t top = ((bytes & 0x7F7F7F7Fu) + 0x7F7F7F7Fu) | bytes;  // bit 7 of each byte
    return (top >> 7 & 0x01010101u) * 0x01020408u >> 24;                 // moves bits 0, 8, 16, 24 to 24 … 27
  }

  /// From rows of 128 keys to the order of accumulators (VisibleTiles::bits).
  __device__ __forceinline__ void write_bits(uint32_t* g_words) const {
    for (int word = lane_; word < VisibleTiles::kUnitWords; word += 32) {
      g_words[word] = job_.tiles.of_q ? query_word(word) : key_word(word);
    }
  }
  __device__ __forceinline__ uint32_t query_word(int word) const {
    const int quad_lane = word / 2 % 4, row = word / 64 * 16 + word / 8 % 8 + word % 2 * 8;
    uint32_t bits = 0;
#pragma unroll
    for (int i = 0; i < kVisibleUnitKeys / 32; ++i) {
      const uint32_t pairs = s_rows_[row][i] >> (2 * quad_lane) & 0x03030303u;
      bits |= ((pairs | pairs >> 6 | pairs >> 12 | pairs >> 18) & 0xFFu) << (8 * i);
    }
    return bits;
  }
  __device__ __forceinline__ uint32_t key_word(int word) const {
    const int quad_lane = word % 4, key = word / 32 * 16 + word / 4 % 8;
    uint32_t bits = 0;
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      const uint32_t keys = s_rows_[i / 2 * 8 + 2 * quad_lane + i % 2][key / 32] >> (key % 32);
      bits |= (keys & 1u) << i | (keys >> 8 & 1u) << (16 + i);
    }
    return bits;
  }

  const VisibleTilesJob& job_;
  uint32_t (&s_rows_)[kVisibleUnitRows][kVisibleUnitKeys / 32];
  const int lane_;
  int first_row_, first_key_, batch_, head_;
  bool cut_ = false;  ///< the range hides pairs of the unit, and bits know it
};

/// Second kernel: a warp per list; the last block of a group sorts its lists.
struct VisibleListsConfig {
  static constexpr int kWarps = 16;
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kBuckets = kThreads;

  struct Shared {
    int32_t scan[2][kBuckets];
  };
};

/// Blocks of a group.
inline int64_t visible_list_blocks(const VisibleTiles& tiles) {
  return (tiles.group_lists + VisibleListsConfig::kWarps - 1) / VisibleListsConfig::kWarps;
}

template <class Config>
class VisibleListsBlock {
  using Shared = typename Config::Shared;
  static constexpr unsigned kAllLanes = 0xFFFFFFFFu;

 public:
  __device__ __forceinline__ VisibleListsBlock(const VisibleTilesJob& job, Shared& shared)
      : job_(job), t_(job.tiles), s_(shared), thread_(static_cast<int>(threadIdx.x)) {}

  __device__ __forceinline__ void run() {
    const int blocks = (t_.group_lists + Config::kWarps - 1) / Config::kWarps;
    const int group = static_cast<int>(blockIdx.x) / blocks, first = (static_cast<int>(blockIdx.x) - group * blocks) * Config::kWarps;
    if (blockIdx.x == 0 && thread_ < 4) {
      t_.counter[thread_] = 0;
    }
    const int in_group = first + thread_ / 32;
    if (in_group < t_.group_lists) {
      write_list(group * t_.group_lists + in_group);
    }
    if (takes_last_ticket(group, blocks)) {
      sort_lists(group);
    }
  }

 private:
  /// Entry of the pair of tiles and where it goes.
  enum Kind { kUnseen, kFirstHalf, kSecondHalf, kMixed, kWhole };
  struct Looked {
    VisibleEntry entry;
    Kind kind;
  };

  __device__ __forceinline__ void write_list(int list) {
    const int lane = thread_ % 32, plane = job_.by_tiles.quotient(list), tile = job_.by_tiles.remainder(list, plane);
    VisibleEntry* const g_entries = t_.entries + static_cast<int64_t>(list) * t_.capacity;
    const auto look_at = [&](int other) {
      return other >= t_.capacity ? Looked{{0}, kUnseen} : t_.of_q ? look(plane, tile, other, other) : look(plane, other, tile, other);
    };
    const uint32_t below = (1u << lane) - 1u;
    // Where the next entry of a kind goes.
    int next_first_half = 0, next_second_half = 0, next_mixed = 0, next_whole = t_.capacity - 1;
    if (t_.halves != nullptr) {
      for (int first = 0; first < t_.capacity; first += 32) {
        const Kind kind = look_at(first + lane).kind;
        next_second_half += __popc(__ballot_sync(kAllLanes, kind == kFirstHalf));
        next_mixed += __popc(__ballot_sync(kAllLanes, kind == kSecondHalf));
      }
      next_mixed += next_second_half;
      if (lane == 0) {
        t_.halves[list] = {next_second_half, next_mixed};
      }
    }
    for (int first = 0; first < t_.capacity; first += 32) {
      const Looked looked = look_at(first + lane);
      const auto place = [&](Kind kind, int& next, int direction) {
        const uint32_t alike = __ballot_sync(kAllLanes, looked.kind == kind);
        if (looked.kind == kind) {
          g_entries[next + direction * __popc(alike & below)] = looked.entry;
        }
        next += direction * __popc(alike);
      };
      if (t_.halves != nullptr) {
        place(kFirstHalf, next_first_half, 1);
        place(kSecondHalf, next_second_half, 1);
      }
      place(kMixed, next_mixed, 1);
      place(kWhole, next_whole, -1);
    }
    if (lane == 0) {
      t_.counts[list] = {next_mixed, t_.capacity - 1 - next_whole};
    }
  }

  __device__ __forceinline__ Looked look(int plane, int q_tile, int key_tile, int other) const {
    const PairRange& range = job_.range;
    const int tile_rows = t_.tile_groups * kVisibleUnitRows, first_row = q_tile * tile_rows, first_key = key_tile * kVisibleUnitKeys;
    const int existing_row = min(first_row + tile_rows, range.len_q) - 1, last_key = first_key + kVisibleUnitKeys - 1;
    const bool ranged = !range.sees_whole(first_row, t_.of_q ? existing_row : first_row + tile_rows - 1, first_key, last_key);
    uint32_t packed = static_cast<uint32_t>(other) | (ranged ? 1u << VisibleEntry::kRangedBit : 0u);
    bool seen = false, whole = !ranged;
    int hidden_halves = kHidesFirstHalf | kHidesSecondHalf;
    for (int i = 0; i < t_.tile_groups; ++i) {
      const int row_unit = q_tile * t_.tile_groups + i;
      const bool exists = row_unit < t_.row_units;
      // Queries behind the end are like any that see everything, or nothing where bits know the range.
      const int unit = exists ? t_.states[(plane * t_.row_units + row_unit) * t_.key_units + key_tile] : t_.bits_know_range() ? kVisibleNone : kVisibleAll;
      const int state = unit & kVisibleStates;
      seen = seen || (state != kVisibleNone && exists);
      whole = whole && state == kVisibleAll;
      hidden_halves &= state == kVisibleNone ? hidden_halves : unit;
      packed |= static_cast<uint32_t>(state) << (VisibleEntry::kTileBits + 2 * i);
    }
    seen = seen && range.sees_some(first_row, existing_row, first_key, min(last_key, range.len_kv - 1));
    const Kind mixed = t_.halves == nullptr || hidden_halves == 0 ? kMixed : hidden_halves == kHidesSecondHalf ? kFirstHalf : kSecondHalf;
    return {{packed}, !seen ? kUnseen : whole ? kWhole : mixed};
  }

  /// True, in the whole block, in the last block of the group that comes here: what the others wrote is then visible.
  __device__ __forceinline__ bool takes_last_ticket(int group, int blocks) {
    __threadfence();
    __syncthreads();
    bool last = false;
    if (thread_ == 0) {
      last = atomicAdd(&t_.tickets[group], 1) == blocks - 1;
      __threadfence();
    }
    return __syncthreads_or(last ? 1 : 0) != 0;
  }

  /// The order of the group's lists by length, the longest first: by buckets, in any order within one.
  __device__ __forceinline__ void sort_lists(int group) {
    const int first = group * t_.group_lists;
    s_.scan[0][thread_] = 0;
    __syncthreads();
    for (int i = thread_; i < t_.group_lists; i += Config::kThreads) {
      atomicAdd(&s_.scan[0][bucket_of(first + i)], 1);
    }
    __syncthreads();
    int from = 0;
    for (int step = 1; step < Config::kBuckets; step *= 2, from ^= 1) {
      s_.scan[from ^ 1][thread_] = s_.scan[from][thread_] + (thread_ >= step ? s_.scan[from][thread_ - step] : 0);
      __syncthreads();
    }
    s_.scan[from ^ 1][thread_] = thread_ > 0 ? s_.scan[from][thread_ - 1] : 0;  // where each bucket begins
    __syncthreads();
    for (int i = thread_; i < t_.group_lists; i += Config::kThreads) {
      t_.order[first + atomicAdd(&s_.scan[from ^ 1][bucket_of(first + i)], 1)] = first + i;
    }
  }
  __device__ __forceinline__ int bucket_of(int list) const {
    const VisibleCounts counts = t_.counts[list];
    const int64_t length = counts.mixed + counts.whole;
    return Config::kBuckets - 1 - static_cast<int>(length * (Config::kBuckets - 1) / t_.capacity);
  }

  const VisibleTilesJob& job_;
  const VisibleTiles& t_;
  Shared& s_;
  const int thread_;
};

}  // namespace fa
