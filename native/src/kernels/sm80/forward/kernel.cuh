// Fused attention, forward, for sm_80 and newer. README.md beside this file has the resource arithmetic and the schedule.
#pragma once

#include "attention/nonfinite.cuh"
#include "attention/online_softmax.cuh"
#include "attention/score_policy.cuh"
#include "attention/visibility.cuh"
#include "kernels/sm80/forward/config.h"
#include "kernels/sm80/forward/params.h"
#include "ptx/likely.h"
#include "ptx/mma_sync.cuh"
#include "ptx/named_barrier.cuh"
#include "ptx/special_registers.cuh"
#include "tile/copy_tile.cuh"
#include "tile/warp_product.cuh"

namespace fa::sm80 {

/// What the plain kernel knows of dropout.
struct Nothing {};

/// One block's work: a tile of query rows of one head against all keys they see. Config::Policy says what happens to scores beyond scale and causal mask.
template <class Config>
class ForwardBlock {
  using Element = typename Config::Element;
  using Shared = typename Config::Shared;
  using Params = typename Config::Params;
  using Policy = typename Config::Policy;
  static constexpr bool kModified = Policy::kModified;
  static constexpr int kM = Config::kM;
  static constexpr int kThreads = Config::kThreads;
  using Kept = std::conditional_t<kModified, KeptPairs<kM, Config::kScoreN>, Nothing>;
  static constexpr int kAhead = 0;  ///< loading fragments ahead was slower at every head_dim (README.md)

 public:
  __device__ __forceinline__ ForwardBlock(const Params& params, Shared& shared)
      : p_(params),
        s_(shared),
        visibility_{params.shape.len_kv, params.shape.causal_offset, params.shape.causal},
        warp_row_(static_cast<int>(threadIdx.x) / 32 / Config::kSlices * 16 * kM),
        q_operand_(shared.q, warp_row_, 0),
        k_operand_(shared.k[0], first_key_of_warp(), 0),
        v_operand_(shared.v[0], 0, first_column()) {
    const BlockOrder::Work work = params.order.work(blockIdx.x);
    if constexpr (kModified) {
      start_modified(work);
      return;
    }
    const int64_t batch = work.batch, head = work.head;
    first_row_ = work.tile * Config::kTileQ;
    const int last_row = min(first_row_ + Config::kTileQ, params.shape.len_q) - 1;
    num_kv_tiles_ = (visibility_.visible_keys(last_row) + Config::kTileKV - 1) / Config::kTileKV;
    const int64_t kv_head = params.shape.by_group_size.quotient(work.head);
    if (threadIdx.x == 0) {
      shared.base.k = params.k + batch * params.k_strides.batch + kv_head * params.k_strides.head;
      shared.base.v = params.v + batch * params.v_strides.batch + kv_head * params.v_strides.head;
      if (Config::kPairs) shared.base.outgrown_tile = -1;
    }
    __syncthreads();
    const GlobalRows g_q{params.q + batch * params.q_strides.batch + head * params.q_strides.head, params.q_strides.seq, params.shape.len_q,
                         params.shape.head_dim, params.shape.aligned};
    copy_to_shared<kThreads>(s_.q, g_q, first_row_, threadIdx.x);
  }

  __device__ __forceinline__ void run() {
    if (kModified && num_kv_tiles_ < 0) return;
    // A masked NaN or infinity in v may have poisoned rows that do not see it. Then once more, with care.
    bool careful = false;
#pragma unroll 1
    do {
      attend(careful);
      careful = (kModified || p_.shape.causal) && !careful && __syncthreads_or(any_nonfinite(o_));
    } while (careful);
    write_out();
  }

 private:
  /// The constructor's work in the modified kernels: where the block's tile and its keys lie. A place without a tile has num_kv_tiles_ < 0.
  __device__ __forceinline__ void start_modified(const BlockOrder::Work& work) {
    if constexpr (kModified) {
      const SequenceTile at = block_tile(p_.sequences, work.tile, work.batch, p_.shape.len_q, p_.shape.len_kv);
      num_kv_tiles_ = -1;
      if (at.tile < 0) return;
      const int head = work.head;
      const int tile = p_.long_tiles_last ? (at.len_q - 1) / Config::kTileQ - at.tile : at.tile;
      first_row_ = tile * Config::kTileQ;
      const PairRange range = p_.scores.range.with_lengths(at.len_q, at.len_kv);
      num_kv_tiles_ = (range.end_key(min(first_row_ + Config::kTileQ, at.len_q) - 1) + Config::kTileKV - 1) / Config::kTileKV;
      if (threadIdx.x == 0) {
        const int64_t kv_head = p_.shape.by_group_size.quotient(head);
        s_.base.k = p_.k + at.batch * p_.k_strides.batch + at.kv_begin * p_.k_strides.seq + kv_head * p_.k_strides.head;
        s_.base.v = p_.v + at.batch * p_.v_strides.batch + at.kv_begin * p_.v_strides.seq + kv_head * p_.v_strides.head;
        s_.base.first_kv_tile = range.begin_key(first_row_) / Config::kTileKV;
        s_.base.head = head;
        s_.base.at = at;
      }
      __syncthreads();
      const GlobalRows g_q{p_.q + at.batch * p_.q_strides.batch + at.q_begin * p_.q_strides.seq + head * p_.q_strides.head, p_.q_strides.seq, at.len_q,
                           p_.shape.head_dim, p_.shape.aligned};
      copy_to_shared<kThreads>(s_.q, g_q, first_row_, threadIdx.x);
    }
  }

  /// All key tiles, last first, so that the masked ones come first. With kStages == 2 one barrier per tile: k and v of the next tile travel during this one.
  /// With kStages == 1 two: v travels during the product with k, the next k during softmax and the product with v.
  __device__ __forceinline__ void attend(bool careful) {
    constexpr bool kTwoStages = Config::kStages == 2;
    softmax_.reset();
    clear(o_);
    const int first_tile = first_kv_tile();
    if constexpr (kModified) num_kv_tiles_ = tile_before(num_kv_tiles_) + 1;
    if (num_kv_tiles_ > first_tile) copy_k(num_kv_tiles_ - 1);
    if (kTwoStages && num_kv_tiles_ > first_tile) copy_v(num_kv_tiles_ - 1);
    if constexpr (Policy::kBiasTiles) {
      if (num_kv_tiles_ > first_tile) copy_bias(num_kv_tiles_ - 1);
    }
    ptx::cp_async_commit();
    if constexpr (Config::kQStepsKept > 0) {
      ptx::cp_async_wait<0>();
      __syncthreads();
#pragma unroll
      for (int k = 0; k < Config::kQStepsKept; ++k) {
#pragma unroll
        for (int m = 0; m < kM; ++m) q_operand_.load(q_fragments_[k][m], m, k);
      }
    }
#pragma unroll 1
    for (int tile = num_kv_tiles_ - 1, shown = 0; tile >= first_tile; tile = kModified ? shown : tile - 1) {
      if constexpr (kModified) shown = tile_before(tile);
      // The tile that comes next, and whether there is one. Written so that nothing of it stays in a register of the plain kernel.
      const auto next = [&] { return kModified ? shown : tile - 1; };
      const auto has_next = [&] { return kModified ? shown >= first_tile : tile > first_tile; };
      ptx::cp_async_wait<0>();
      __syncthreads();
      if (!kTwoStages) {
        copy_v(tile);
      } else if (has_next()) {
        copy_k(next());
        copy_v(next());
      }
      ptx::cp_async_commit();
      if (kTwoStages && FA_UNLIKELY(careful)) set_aside_nonfinite(tile);
      // A warp none of whose rows sees the tile sits it out: half of the warps on the diagonal.
      const bool seen = !Config::kSitsOut || is_seen(tile);
      Accumulators<kM, Config::kScoreN> s;
      Kept kept;
      if (seen) {
        score(s, tile);
        if constexpr (kModified) {
          modify(s, kept, tile * Config::kTileKV);
        } else {
          mask(s, tile);
        }
      }
      float top[2 * kM];
      bool outgrown = false;
      if (Config::kPairs && seen) {
        softmax_.find_tops(top, s);
        outgrown = softmax_.is_outgrown(top, to_log2());
      }
      if (!kTwoStages) ptx::cp_async_wait<0>();
      if (Config::kPairs && FA_UNLIKELY(outgrown)) s_.base.outgrown_tile = tile;
      if (Config::kPairs || !kTwoStages) __syncthreads();
      if constexpr (Config::kPairs) {
        if (FA_UNLIKELY(s_.base.outgrown_tile == tile)) follow_both(top, seen);
      }
      if (!kTwoStages) {
        if (has_next()) copy_k(next());
        if constexpr (Policy::kBiasTiles) {
          if (has_next()) copy_bias(next());
        }
        ptx::cp_async_commit();
      }
      if (!kTwoStages && FA_UNLIKELY(careful)) set_aside_nonfinite(tile);
      if (seen) accumulate(s, kept, tile);
    }
    // Blocks that see no key wait here for q: o takes its place.
    ptx::cp_async_wait<0>();
    __syncthreads();
  }

  /// The last tile before this one, or before num_kv_tiles_, that the block mask does not hide; below first_kv_tile() if there is none. Warp-wide.
  __device__ __forceinline__ int tile_before(int tile) {
    if constexpr (kModified) {
      if (p_.scores.block_mask.data != nullptr) return shown_tile_before(tile);
    }
    return tile - 1;
  }
  /// Which of 32 tiles the block mask shows is found out by the lanes of a warp when the first of them is reached, and kept in shared memory.
  __device__ __forceinline__ int shown_tile_before(int tile) {
    if constexpr (kModified) {
      const int thread = ptx::thread_index_anew(), lane = thread & 31;
      uint32_t& s_shown = s_.base.shown_tiles[static_cast<unsigned>(thread) / 32];
      bool entered = tile == num_kv_tiles_;
      for (int last = tile - 1; last >= first_kv_tile(); last = (last & ~31) - 1, entered = true) {
        const int first_of_32 = last & ~31;
        if (entered || last % 32 == 31) {
          const int mine = first_of_32 + lane, first_key = mine * Config::kTileKV;
          const bool shown =
              mine < num_kv_tiles_ && modified_head().block_mask_shows(first_row_, first_row_ + Config::kTileQ - 1, first_key, first_key + Config::kTileKV - 1);
          const uint32_t all = __ballot_sync(0xffffffffu, shown);
          __syncwarp();
          if (lane == 0) s_shown = all;
          __syncwarp();
        }
        const uint32_t shown = s_shown & ((2u << last % 32) - 1);
        if (shown != 0) return first_of_32 + 31 - __clz(shown);
      }
    }
    return -1;
  }
  /// First of the tiles that some row sees; the last one is num_kv_tiles_ - 1.
  __device__ __forceinline__ int first_kv_tile() const {
    if constexpr (kModified) return s_.base.first_kv_tile;
    return 0;
  }
  /// Whether some row of the warp sees the tile.
  __device__ __forceinline__ bool is_seen(int tile) const {
    const int first_row = first_row_ + warp_row_, first_key = tile * Config::kTileKV;
    if constexpr (kModified) return range().sees_some(first_row, first_row + 16 * kM - 1, first_key, first_key + Config::kTileKV - 1);
    return first_key < visibility_.visible_keys(first_row + 16 * kM - 1);
  }
  /// Which pairs the mask shows, of the modified kernels.
  __device__ __forceinline__ PairRange range() const {
    return p_.scores.range.with_lengths(s_.base.at.len_q, s_.base.at.len_kv);
  }
  __device__ __forceinline__ int len_kv() const {
    return kModified ? s_.base.at.len_kv : p_.shape.len_kv;
  }
  /// The modifications for the block's head.
  __device__ __forceinline__ typename Policy::template Head<Element, ScoreLayout::kRowsByKeys> modified_head() const {
    return {p_.scores, range(), s_.base.at.sequence, s_.base.head};
  }
  /// Factor from scores as they are kept to base 2.
  __device__ __forceinline__ float to_log2() const {
    return kModified ? 1.0f : p_.shape.scale_log2;
  }

  __device__ __forceinline__ int stage(int tile) const {
    return Config::kStages == 2 ? tile & 1 : 0;
  }
  __device__ __forceinline__ int stage_bytes(int tile) const {
    return stage(tile) * static_cast<int>(sizeof(typename Config::KVTile));
  }
  __device__ __forceinline__ void copy_k(int tile) {
    const GlobalRows g_k{s_.base.k, p_.k_strides.seq, len_kv(), p_.shape.head_dim, p_.shape.aligned};
    copy_to_shared<kThreads>(s_.k[stage(tile)], g_k, tile * Config::kTileKV, ptx::thread_index_anew());
  }
  __device__ __forceinline__ void copy_v(int tile) {
    const GlobalRows g_v{s_.base.v, p_.v_strides.seq, len_kv(), p_.shape.head_dim_v, p_.shape.aligned};
    copy_to_shared<kThreads>(s_.v[stage(tile)], g_v, tile * Config::kTileKV, ptx::thread_index_anew());
  }

  /// The bias of a tile, behind the rest of shared memory; it travels with k.
  __device__ __forceinline__ typename Config::BiasTile& bias_tile() const {
    return *reinterpret_cast<typename Config::BiasTile*>(&s_ + 1);
  }
  __device__ __forceinline__ void copy_bias(int tile) {
    static_assert(!kModified || Config::kStages == 1, "one tile of the bias at a time");
    if (!p_.scores.bias_staged) return;
    fa::copy_bias<kThreads>(bias_tile(), p_.scores, range(), s_.base.at.sequence, s_.base.head, first_row_, tile * Config::kTileKV, ptx::thread_index_anew());
  }
  __device__ __forceinline__ auto staged_bias() const {
    if constexpr (Policy::kBiasTiles) {
      return BiasByRows<typename Config::BiasTile>(bias_tile(), warp_row_, 0, ptx::thread_index_anew() & 31);
    } else {
      return NoBiasTile{};
    }
  }

  /// Which of the warps that share rows.
  __device__ __forceinline__ static int slice() {
    if constexpr (Config::kSlices == 1) return 0;
    return static_cast<int>(static_cast<unsigned>(ptx::thread_index_anew()) / 32 % Config::kSlices);
  }
  /// First of the keys of a tile whose scores the warp computes.
  __device__ __forceinline__ static int first_key_of_warp() {
    return slice() * Config::kKeys;
  }
  /// First of the columns of v and O that are the warp's.
  __device__ __forceinline__ static int first_column() {
    return slice() * (Config::kDim / Config::kSlices);
  }

  /// s = q k^T, not yet scaled.
  __device__ __forceinline__ void score(Accumulators<kM, Config::kScoreN>& s, int tile) {
    clear(s);
    const int offset = stage_bytes(tile);
    multiply<Element, Config::kScoreSteps, kAhead>(
        [&](int) -> auto& { return s; },
        [&](uint32_t(&a)[4], int m, int k) {
          if (k < Config::kQStepsKept) {
#pragma unroll
            for (int i = 0; i < 4; ++i) a[i] = q_fragments_[k < Config::kQStepsKept ? k : 0][m][i];
          } else {
            q_operand_.load(a, m, k);
          }
        },
        [&](uint32_t(&b)[4], int pair, int k) { k_operand_.load(b, pair, k, offset); });
  }

  /// Scores that a row does not see become -inf (whatever they were). Only in tiles that some row of the warp does not see whole.
  __device__ __forceinline__ void mask(Accumulators<kM, Config::kScoreN>& s, int tile) {
    const int first_key = tile * Config::kTileKV + first_key_of_warp();
    if (FA_LIKELY(first_key + Config::kKeys <= visibility_.visible_keys(first_row_ + warp_row_))) return;
    const int lane = ptx::thread_index_anew() & 31;
#pragma unroll
    for (int m = 0; m < kM; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = first_row_ + warp_row_ + 16 * m + 8 * half + (lane >> 2);
        const int visible = visibility_.visible_keys(row) - first_key - 2 * (lane & 3);
#pragma unroll
        for (int n = 0; n < Config::kScoreN; ++n) {
          if (8 * n >= visible) s[m][n][2 * half] = -INFINITY;
          if (8 * n + 1 >= visible) s[m][n][2 * half + 1] = -INFINITY;
        }
      }
    }
  }

  /// s becomes what the modifications make of it, in base 2; which of the pairs dropout keeps.
  __device__ __forceinline__ void modify(Accumulators<kM, Config::kScoreN>& s, Kept& kept, int first_key) {
    const int first_row = first_row_ + warp_row_;
    const bool whole = range().sees_whole(first_row, first_row + 16 * kM - 1, first_key, first_key + Config::kTileKV - 1);
    const auto head = modified_head();
    const auto pair_of_element = [&](int m, int n, int i) { return pair_of(first_key, m, n, i); };
    head.modify(s, whole, staged_bias(), pair_of_element);
    if (head.drops()) head.draw(kept, ptx::thread_index_anew() & 31, pair_of_element);
  }
  __device__ __forceinline__ Pair pair_of(int first_key, int m, int n, int i) const {
    const int lane = ptx::thread_index_anew() & 31;
    return {first_row_ + warp_row_ + 16 * m + 8 * (i >> 1) + (lane >> 2), first_key + 8 * n + 2 * (lane & 3) + (i & 1)};
  }
  /// Dropout of columns 16 k … 16 k + 15 of the probabilities of row block m, whose sums are already taken.
  __device__ __forceinline__ void drop(Accumulators<kM, Config::kScoreN>& s, const Kept& kept, int m, int k) const {
    if constexpr (kModified) {
      if (p_.scores.drop_below == 0) return;
#pragma unroll
      for (int n = 2 * k; n < 2 * k + 2; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) s[m][n][i] *= kept.kept(m, n, i) ? p_.scores.keep_scale : 0.0f;
      }
    }
  }

  /// o += softmax(s) v, step by step of 16 keys so that exponentials and products interleave.
  __device__ __forceinline__ void accumulate(Accumulators<kM, Config::kScoreN>& s, const Kept& kept, int tile) {
    if constexpr (!Config::kPairs) softmax_.raise_reference(s, o_, to_log2());
    float shifts[2 * kM];
#pragma unroll
    for (int r = 0; r < 2 * kM; ++r) shifts[r] = softmax_.shift(r, to_log2());
    const int offset = stage_bytes(tile) + slice() * kKeyBytes;
    multiply<Element, Config::kOutSteps, kAhead>(
        [&](int) -> auto& { return o_; },
        [&](uint32_t(&a)[4], int m, int k) {
          if (m == 0) softmax_.exponentiate(s, k, shifts, to_log2());
          drop(s, kept, m, k);
          round_to_a<Element>(a, s, m, k);
          if constexpr (Config::kPairs) give(a, m, k);
        },
        [&](uint32_t(&b)[4], int pair, int k) { v_operand_.load(b, k, pair, offset); });
    if constexpr (Config::kPairs) accumulate_other_half(stage_bytes(tile));
  }

  /// Bytes of the keys of a tile that are a warp's.
  static constexpr int kKeyBytes = Config::kKeys * Config::KVTile::kRowBytes;

  /// For the warp that has the other columns of O: a fragment of this warp's probabilities.
  __device__ __forceinline__ void give(const uint32_t (&a)[4], int m, int k) {
    const int thread = ptx::thread_index_anew();
    s_.probabilities[static_cast<unsigned>(thread) / 32][k][m][thread & 31] = make_uint4(a[0], a[1], a[2], a[3]);
  }
  /// Waits for the other warp of the rows. Warps that share rows see the same tiles.
  __device__ __forceinline__ static void meet_other_warp() {
    const int pair = static_cast<int>(static_cast<unsigned>(ptx::thread_index_anew()) / 64);
    if constexpr (Config::kWarps == 4) {
      // Numbers that the compiler knows: 1 % faster with two pairs, slower with four.
      if (pair == 0) {
        ptx::named_barrier_sync(1, 64);
      } else {
        ptx::named_barrier_sync(2, 64);
      }
    } else {
      ptx::named_barrier_sync(1 + pair, 64);
    }
  }
  /// o += softmax(s) v over the keys whose probabilities the other warp of the rows has computed.
  __device__ __forceinline__ void accumulate_other_half(int tile_offset) {
    const int thread = ptx::thread_index_anew(), other = static_cast<int>(static_cast<unsigned>(thread) / 32 ^ 1), lane = thread & 31;
    meet_other_warp();
    const int offset = tile_offset + (slice() ^ 1) * kKeyBytes;
    multiply<Element, Config::kOutSteps, kAhead>(
        [&](int) -> auto& { return o_; },
        [&](uint32_t(&a)[4], int m, int k) {
          const uint4 fragment = s_.probabilities[other][k][m][lane];
          a[0] = fragment.x, a[1] = fragment.y, a[2] = fragment.z, a[3] = fragment.w;
        },
        [&](uint32_t(&b)[4], int pair, int k) { v_operand_.load(b, k, pair, offset); });
  }

  /// A number per row of this warp becomes that of both warps of the row: what combine makes of the two. Block-wide.
  template <class Combine>
  __device__ __forceinline__ void exchange(float (&values)[2 * kM], Combine&& combine) {
    const int lane = ptx::thread_index_anew() & 31;
    const auto row = [&](int r) { return warp_row_ + 8 * r + (lane >> 2); };
#pragma unroll
    for (int r = 0; r < 2 * kM; ++r) {
      if ((lane & 3) == 0) s_.rows[slice()][row(r)] = values[r];
    }
    __syncthreads();
#pragma unroll
    for (int r = 0; r < 2 * kM; ++r) values[r] = combine(values[r], s_.rows[slice() ^ 1][row(r)]);
  }
  /// Rare path, block-wide: the references of rows that two warps share follow the maxima of both halves of the keys.
  __device__ __forceinline__ void follow_both(float (&top)[2 * kM], bool seen) {
    exchange(top, [](float a, float b) { return fmaxf(a, b); });
    if (seen) softmax_.follow(top, o_, to_log2());
  }

  /// Rare path, block-wide: adds non-finite elements of v to the rows that see them and zeroes them in the tile.
  __device__ __forceinline__ void set_aside_nonfinite(int tile) {
    const int first_key = tile * Config::kTileKV;
    const int first_col = first_column();
    if constexpr (kModified) {
      const auto head = modified_head();
      add_nonfinite_asking_once<Element>(
          o_, s_.v[stage(tile)], [&](int n) { return first_col + 8 * n; },
          [&](int row, int key) { return head.sees(first_row_ + warp_row_ + row, first_key + key); });
    } else {
      if (first_key + Config::kTileKV <= visibility_.visible_keys(first_row_)) return;
      add_nonfinite<Element>(
          o_, s_.v[stage(tile)], [&](int n) { return first_col + 8 * n; },
          [&](int row, int key) { return first_key + key < visibility_.visible_keys(first_row_ + warp_row_ + row); });
    }
    __syncthreads();
    zero_nonfinite<Element, kThreads>(s_.v[stage(tile)], threadIdx.x);
    __syncthreads();
  }

  /// The sum of row r with the sink of the block's head, if there are modifications.
  __device__ __forceinline__ SinkSum add_sink(int r, float total) const {
    if constexpr (kModified) {
      return fa::add_sink(softmax_.reference[r], total, p_.scores.sinks != nullptr ? p_.scores.sinks[s_.base.head] : -INFINITY);
    }
    return {};
  }

  /// Where the block's rows of o and of the log-sum-exp lie.
  struct Rows {
    int batch, head;
    int begin;  ///< position of row 0
    int len_q;  ///< rows that exist
  };
  __device__ __forceinline__ Rows rows_written() const {
    if constexpr (kModified) return {s_.base.at.batch, s_.base.head, s_.base.at.q_begin, s_.base.at.len_q};
    const BlockOrder::Work work = p_.order.work(ptx::block_index_anew());
    return {work.batch, work.head, 0, p_.shape.len_q};
  }

  /// Divides by the sums, writes o and the log-sum-exp. Rows that see no key get 0 and -inf.
  __device__ __forceinline__ void write_out() {
    const int lane = ptx::thread_index_anew() & 31, first_col = first_column();
    const Rows rows = rows_written();
    const int64_t batch = rows.batch, head = rows.head;
    float totals[2 * kM];
    if constexpr (Config::kPairs) {
#pragma unroll
      for (int r = 0; r < 2 * kM; ++r) totals[r] = softmax_.total(r);
      exchange(totals, [](float a, float b) { return a + b; });
    }
#pragma unroll
    for (int r = 0; r < 2 * kM; ++r) {
      const int m = r / 2, half = r % 2 * 2;
      const int tile_row = warp_row_ + 16 * m + 4 * half + (lane >> 2);
      const int row = first_row_ + tile_row;
      const bool sees_keys = kModified || visibility_.visible_keys(row) > 0;
      const float total = Config::kPairs ? totals[r] : softmax_.total(r);
      const SinkSum with_sink = add_sink(r, total);
      const float inverse = kModified ? with_sink.inverse : sees_keys ? 1.0f / total : 0.0f;
      if ((lane & 3) == 0 && first_col == 0 && row < rows.len_q && p_.lse != nullptr) {
        p_.lse[(batch * p_.shape.heads_q + head) * p_.shape.len_q + rows.begin + row] = kModified   ? with_sink.lse
                                                                                        : sees_keys ? softmax_.reference[r] * p_.shape.scale + logf(total)
                                                                                                    : -INFINITY;
      }
#pragma unroll
      for (int n = 0; n < Config::kOutN; ++n) {
        *reinterpret_cast<uint32_t*>(s_.q.at(tile_row, first_col + 8 * n + 2 * (lane & 3))) =
            ptx::pack2<Element>(o_[m][n][half] * inverse, o_[m][n][half + 1] * inverse);
      }
    }
    if constexpr (Config::kSlices == 1) __syncwarp();
    const GlobalRows g_o{p_.o + batch * p_.o_strides.batch + head * p_.o_strides.head + rows.begin * p_.o_strides.seq, p_.o_strides.seq, rows.len_q,
                         p_.shape.head_dim_v, p_.shape.aligned};
    if constexpr (Config::kSlices == 1) {
      copy_to_global<16 * kM, 32>(s_.q, g_o, first_row_, warp_row_, lane);
    } else {
      __syncthreads();
      copy_to_global<Config::kTileQ, kThreads>(s_.q, g_o, first_row_, 0, ptx::thread_index_anew());
    }
  }

  const Params& p_;
  Shared& s_;
  const Visibility visibility_;
  const int warp_row_;  ///< first row of the warp within the tile
  OperandA<typename Config::QTile> q_operand_;
  OperandB<typename Config::KVTile> k_operand_;
  OperandBTransposed<typename Config::KVTile> v_operand_;
  int first_row_, num_kv_tiles_;
  uint32_t q_fragments_[Config::kQStepsKept > 0 ? Config::kQStepsKept : 1][kM][4];
  OnlineSoftmax<kM> softmax_;
  Accumulators<kM, Config::kOutN> o_;
};

template <class Config>
__global__ void __launch_bounds__(Config::kThreads, Config::kBlocksPerSm) forward_kernel(const __grid_constant__ typename Config::Params params) {
  extern __shared__ __align__(128) unsigned char s_memory[];
  ForwardBlock<Config> block(params, *reinterpret_cast<typename Config::Shared*>(s_memory));
  block.run();
}

}  // namespace fa::sm80
