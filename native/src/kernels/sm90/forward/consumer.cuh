// A consumer warpgroup: 64 query rows against the key tiles they see, from the last to the first or the other way round (Config::kAscending).
#pragma once

#include "kernels/sm90/forward/consumer_rings.cuh"
#include "kernels/sm90/forward/epilogue.cuh"
#include "kernels/sm90/forward/listed_pairs.cuh"
#include "kernels/sm90/forward/masked_values.cuh"
#include "kernels/sm90/forward/modified_scores.cuh"
#include "kernels/sm90/forward/recompute_scores.cuh"
#include "kernels/sm90/forward/schedule.cuh"
#include "kernels/sm90/forward/softmax.cuh"
#include "ptx/mbarrier.cuh"
#include "ptx/special_registers.cuh"
#include "ptx/wgmma.cuh"

namespace fa::sm90 {

template <typename Config>
class Consumer : ConsumerRings<Config> {
  using Rings = ConsumerRings<Config>;
  using Element = typename Config::Element;
  using Params = typename Config::Params;
  using Scores = typename Config::Scores;
  using Tile = typename Config::Tile;
  using SharedStorage = typename Config::SharedStorage;
  static constexpr bool kModified = Scores::kModified;
  using Rings::await_turn, Rings::pass_turn, Rings::skip_turn, Rings::skip_buffers, Rings::skip_tile;
  using Rings::release_k, Rings::release_v, Rings::release_q, Rings::release_staged_q;
  using Rings::smem_, Rings::warpgroup_, Rings::staged_, Rings::q_cursor_, Rings::k_cursor_, Rings::v_cursor_;

 public:
  __device__ __forceinline__ Consumer(const Params& params, SharedStorage& smem, int warpgroup, int first_turn)
      : Rings(smem, warpgroup, first_turn),
        params_(params),
        desc_q_(tile::k_major_descriptor(smem.q(0)[0][64 * warpgroup])),
        desc_k_(tile::k_major_descriptor(smem.k[0])),
        desc_v_(tile::mn_major_descriptor(smem.v[0], Config::kTileKv)) {}

  __device__ __forceinline__ void run() {
    if (warpgroup_ == Config::kWarpgroups - 1) {
      pass_turn();  // to the first
    }
    Tile tile;
#pragma unroll 1
    for (int block_end = next_tile(tile); block_end != kNoMoreWork; block_end = next_tile(tile)) {
      if constexpr (kModified) {
        const TileStart start = tile.start(warpgroup_);
        go_through(tile, start.keys, start.edges, block_end, max(start.keys.end, start.edges.block_begin));
      } else {
        KeyTiles keys = first_row(tile) < 0 ? KeyTiles{0, 0} : key_tiles_of(tile);
        if constexpr (Config::kSharesTiles) {
          keys.begin = part_of(block_end).begin;
          block_end &= ~kIsPart;
          keys.end = min(keys.end, block_end);
        }
        go_through(tile, keys, TileEdges{}, block_end, Config::kSharesTiles ? max(keys.begin, keys.end) : keys.end);
      }
    }
    if (Config::kStoresByTma && threadIdx.x % 32 == 0) {
      ptx::tma_store_wait_read();  // shared memory must outlive the stores
    }
  }

 private:
  /// First query of this warpgroup, and of this thread; the thread's second query is 8 further on.
  __device__ __forceinline__ int first_row(const Tile& tile) const {
    return tile.first_row + 64 * warpgroup_;
  }
  __device__ __forceinline__ int thread_row(const Tile& tile) const {
    const int thread = ptx::thread_index_anew();
    return first_row(tile) + thread % 128 / 32 * 16 + thread % 32 / 4;
  }

  /// Key tiles of this warpgroup's rows; with modified scores full_end is that of the tiles that need no exact step.
  __device__ __forceinline__ KeyTiles key_tiles_of(const Tile& tile) const {
    if constexpr (kModified) {
      return tile.key_tiles(warpgroup_);
    } else {
      return key_tiles<Config::kTileKv>(params_, first_row(tile), 64);
    }
  }

  /// Waits for the next q tile and what the producer says of it; returns the number of key tiles that the block goes through (with kIsPart), or kNoMoreWork.
  __device__ __forceinline__ int next_tile(Tile& tile) {
    ptx::mbarrier_wait(&smem_.q_full[q_cursor_.stage()], q_cursor_.phase());
    return read_message(tile);
  }

  /// Read by the lane that releases the q tile, so that its arrival orders the read for all. The shuffles tell the compiler that the warp's lanes agree.
  __device__ __forceinline__ int read_message(Tile& tile) const {
    int4 message = make_int4(0, 0, 0, 0);
    if constexpr (kModified) {
      tile.s_messages = smem_.sequence_work[q_cursor_.template slot<Config::kWorkSlots>()];
      message = ptx::load_shared_by_first_lane(&tile.s_messages[0]);
    } else {
      if (threadIdx.x % 32 == 0) {
        message = smem_.work[q_cursor_.stage()];
      }
      tile.head = __shfl_sync(0xFFFFFFFF, message.y, 0);
      tile.batch = __shfl_sync(0xFFFFFFFF, message.z, 0);
    }
    tile.first_row = __shfl_sync(0xFFFFFFFF, message.x, 0);
    return __shfl_sync(0xFFFFFFFF, message.w, 0);
  }

  /// Which part of the query tile this is, where tiles are shared.
  __device__ __forceinline__ TilePart part_of(int block_end) const {
    if constexpr (Config::kSharesTiles) {
      return (block_end & kIsPart) != 0 ? TilePart::read(smem_.parts.messages[q_cursor_.stage()]) : TilePart{};
    }
    return {};
  }

  /// A query tile, whose block goes through key tiles from block_end - 1 on; this warpgroup skips those from skipped_begin on.
  __device__ __forceinline__ void go_through(const Tile& tile, const KeyTiles& keys, const TileEdges& edges, int block_end, int skipped_begin) {
    if (!Config::kAscending || keys.end == 0) {
#pragma unroll 1
      for (int n = block_end - 1; n >= skipped_begin; --n) {
        skip_tile();
      }
    }
    if (keys.end > 0) {
      process(tile, keys, edges);
    } else {
      store_rows_without_keys<Config>(params_, place_of(params_, tile), tile.first_row, warpgroup_);
      release_staged_q();
      release_q();
    }
  }

  /// All key tiles of a query tile: keys.end - 1 … keys.begin, keys.end >= 1.
  __device__ __forceinline__ void process(const Tile& tile, const KeyTiles& keys, const TileEdges& edges) {
    using namespace ptx;
    float s[Config::kScores];
    float o[Config::kOutputs];
    uint32_t p[Config::kScores / 2];
    RowState rows;
    rows.counts_all_tiles = Scores::kBias;
    if constexpr (kModified) {
      slope_ = ScoreModifier<Config>::slope_of(params_, tile);
    }
    int n = Config::kAscending ? 0 : keys.end - 1;
    bool masks_first = n >= keys.full_end;
    if constexpr (kModified) {
      masks_first = edges.masks_first;
    }
    first_key_tile(s, rows, tile, n, masks_first, edges.trims_first);
    release_staged_q();
    to_operand<Element>(p, s);
    clear(o);
    if constexpr (kModified) {
      weighs_nothing_ = false;
      remaining_tiles(s, p, o, rows, tile, keys, n - 1);
    } else if constexpr (Config::kAscending) {
      remaining_ascending(s, p, o, rows, tile, keys, n + 1);
    } else {
#pragma unroll 1
      for (--n; n >= keys.full_end; --n) {
        step<TileKind::kExact>(s, p, o, rows, tile, n);
      }
      if constexpr (Config::kSharesTiles) {
        n -= keys.begin;  // steps without a mask need no number, and a bound no register
      }
      if constexpr (Config::kMayFollow) {
        plain_tiles(s, p, o, rows, tile, n + 1, masks_first);
      } else {
#pragma unroll 1
        for (; n >= 0; --n) {
          step<TileKind::kPlain>(s, p, o, rows, tile, n);
        }
      }
    }
    Tile same_tile;  // read again, so that it takes no registers in the loops
    const int same_end = read_message(same_tile);
    const TilePart part = part_of(same_end);
    if constexpr (!Config::kStagesInQ) {
      release_q();
    }
    mbarrier_wait(&smem_.v_full[v_cursor_.stage()], v_cursor_.phase());
    wgmma_fence();
    TileEdges same_edges{};
    if constexpr (kModified) {
      same_edges = same_tile.edges(warpgroup_);
    }
    if (Config::kTrimsLast && same_edges.trims_last) {
      multiply_values<Config::kTileKv / 2>(o, p);
    } else {
      multiply_values<Config::kTileKv>(o, p);
    }
    float inverse_sum[2], sum[2];
    if constexpr (kModified) {
      // Beside the product.
      const TileIdentity identity = same_tile.identity();
      modified_results<Config>(params_, identity, thread_row(same_tile), rows, inverse_sum, sum);
      wgmma_wait_group<0>();
      pin_registers(o);
      release_v();
#pragma unroll 1
      for (n = 0; n < same_edges.skipped; ++n) {
        skip_tile();
      }
      finish(identity, same_tile, part, rows, o, inverse_sum, sum);
    } else {
      wgmma_wait_group<0>();
      pin_registers(o);
      release_v();
      if constexpr (Config::kAscending) {
        const int skipped = same_end - key_tiles_of(same_tile).end;
#pragma unroll 1
        for (n = 0; Config::kPingPong && n < skipped; ++n) {
          skip_turn();
        }
        finish(same_tile, same_tile, part, rows, o, inverse_sum, sum);
#pragma unroll 1
        for (n = 0; n < skipped; ++n) {
          skip_buffers();
        }
      } else {
        finish(same_tile, same_tile, part, rows, o, inverse_sum, sum);
      }
    }
  }

  /// So many tiles that all rows see. The warpgroup, whose four warps must issue the same products, chooses behind the first of them whether the reference is
  /// to follow the maximum from there on (README, "Choice"). behind_mask: whether these tiles come behind a masked one.
  __device__ __forceinline__ void plain_tiles(float (&s)[Config::kScores], uint32_t (&p)[Config::kScores / 2], float (&o)[Config::kOutputs], RowState& rows,
                                              const Tile& tile, int count, bool behind_mask) {
    const bool is_long = count >= Config::kTilesOfLongRow;
    const int before = is_long ? Config::kTilesBeforeChoice : behind_mask ? 1 : 0;
    const bool chooses = is_long || (Config::kShortRowsChoose && count >= before + 2 * Config::kTilesOfShortChoice);
    int later = chooses ? count - before : 0;
    count -= later;
    int to_count = is_long ? Config::kTilesOfChoice : Config::kTilesOfShortChoice;  // 0 - so many, once they are being counted
#pragma unroll 1
    while (true) {
#pragma unroll 1
      for (; count > 0; --count) {
        step<TileKind::kPlain>(s, p, o, rows, tile, 0);
      }
      if (later == 0) {
        return;
      }
      if (to_count > 0) {
        rows.raised = 0;
        count = to_count;
        later -= count;
        to_count = -count;
        continue;
      }
      const int bound = to_count == -Config::kTilesOfChoice ? Config::kRaisedOfFollowers : Config::kRaisedOfShortFollowers;
      count = later;
      later = 0;
      const int raised = ptx::named_barrier_count(Config::kBarrierChoice - Config::kBarrierTurn + Rings::first_turn_ + warpgroup_, 128,
                                                  static_cast<int>(threadIdx.x % 32) < rows.raised);
      if (__any_sync(0xFFFFFFFF, raised >= bound)) {  // a vote, or descriptors lose their uniform registers
        break;
      }
    }
#pragma unroll 1
    for (; count > 0; --count) {
      step<TileKind::kFollowing>(s, p, o, rows, tile, 0);
    }
  }

  /// All tiles but the first, from the first to the last: from n on.
  __device__ __forceinline__ void remaining_ascending(float (&s)[Config::kScores], uint32_t (&p)[Config::kScores / 2], float (&o)[Config::kOutputs],
                                                      RowState& rows, const Tile& tile, const KeyTiles& keys, int n) {
    const int full_end = min(keys.full_end, keys.end);
    if constexpr (Config::kMayFollow) {
      plain_tiles(s, p, o, rows, tile, full_end - n, false);
      n = max(n, full_end);
    } else {
#pragma unroll 1
      for (; n < full_end; ++n) {
        step<TileKind::kPlain>(s, p, o, rows, tile, n);
      }
    }
#pragma unroll 1
    for (; n < keys.end; ++n) {
      step<TileKind::kExact>(s, p, o, rows, tile, n);
    }
  }

  /// All tiles but the first, with modified scores: from n on.
  __device__ __forceinline__ void remaining_tiles(float (&s)[Config::kScores], uint32_t (&p)[Config::kScores / 2], float (&o)[Config::kOutputs], RowState& rows,
                                                  const Tile& tile, const KeyTiles& keys, int n) {
    if constexpr (Scores::kSoftcap) {  // the lower edge is rare beside what softcap costs: it needs no code of its own
#pragma unroll 1
      for (; n >= keys.begin; --n) {
        if (n >= keys.full_end || n < keys.full_begin) {
          step<TileKind::kExact>(s, p, o, rows, tile, n);
        } else {
          step<TileKind::kPlain>(s, p, o, rows, tile, n);
        }
      }
    } else {
      // Bounds are read anew where a loop needs them, since there are no registers to keep them in.
#pragma unroll 1
      for (; n >= keys.full_end && n >= keys.begin; --n) {
        step<TileKind::kExact>(s, p, o, rows, tile, n);
      }
      const int plain_begin = key_tiles_of(tile).full_begin;
      if constexpr (Config::kMayFollow) {
        plain_tiles(s, p, o, rows, tile, n + 1 - plain_begin, true);
        n = min(n, plain_begin - 1);
      } else {
#pragma unroll 1
        for (; n >= plain_begin; --n) {
          step<TileKind::kPlain>(s, p, o, rows, tile, n);
        }
      }
      if constexpr (Scores::kMask) {
        return;  // lists have no lower edge
      }
      bool trims_last = false;
      if constexpr (Config::kTrimsLast) {
        trims_last = tile.edges(warpgroup_).trims_last;
      }
      const int edge_begin = key_tiles_of(tile).begin + (trims_last ? 1 : 0);
#pragma unroll 1
      for (; n >= edge_begin; --n) {
        step<TileKind::kLowerEdge>(s, p, o, rows, tile, n);
      }
      if constexpr (Config::kTrimsLast) {
        if (trims_last) {
          last_half_step(s, p, o, rows, tile, n);
        }
      }
    }
  }

  /// trims: with modified scores, that no row sees the upper half.
  __device__ __forceinline__ void first_key_tile(float (&s)[Config::kScores], RowState& rows, const Tile& tile, int n, bool masked, bool trims) {
    if constexpr (Config::kTrimsFirst && kModified) {
      if (masked && trims) {
        first_step<Config::kTileKv / 2>(s, rows, tile, n, true);
        return;
      }
    } else if constexpr (Config::kTrimsFirst) {
      if (masked && visible_keys(params_, first_row(tile) + 63) - n * Config::kTileKv <= Config::kTileKv / 2) {
        first_step<Config::kTileKv / 2>(s, rows, tile, n, true);
        return;
      }
    }
    first_step<Config::kTileKv>(s, rows, tile, n, masked);
  }

  /// S of the first key tile and its exponentials, with nothing to overlap.
  template <int kKeys>
  __device__ __forceinline__ void first_step(float (&scores)[Config::kScores], RowState& rows, const Tile& tile, int n, bool masked) {
    using namespace ptx;
    float(&s)[kKeys / 2] = reinterpret_cast<float(&)[kKeys / 2]>(scores);
    ListedPairs<Config> pairs;
    mbarrier_wait(&smem_.k_full[k_cursor_.stage()], k_cursor_.phase());
    const BiasFragment<Config> bias = read_bias<Config>(smem_, k_cursor_.stage());
    pairs.read(params_, smem_, k_cursor_.stage(), warpgroup_, masked);
    HiddenKeys hidden{};
    if constexpr (kModified && !Scores::kMask) {
      if (masked) {  // in front of the product, which hides how long this takes
        hidden = ScoreModifier<Config>(params_, tile, slope_).template hidden_keys<kKeys / 2>(first_row(tile), thread_row(tile), n * Config::kTileKv);
      }
    }
    await_turn();
    wgmma_fence();
    multiply_keys(s);
    pass_turn();
    wgmma_wait_group<0>();
    pin_registers(s);
    if constexpr (!Scores::kBias) {
      release_k();
    }
    Rescale unused;  // O is still empty
    if constexpr (Scores::kMask) {
      if (masked) {
        pairs.hide(s, params_, tile, first_row(tile), thread_row(tile));
      }
      exact_step(s, rows, unused, params_.scale_log2);
    } else if constexpr (kModified) {
      exact_modified_step(s, rows, unused, tile, n, hidden, bias);
      if (masked) {
        // Rows that see a few keys of this tile have seen next to nothing: the next tile outweighs it, and nothing is gained by following that.
        rows.bound[0] = fmaxf(rows.bound[0], kBoundAfterMask);
        rows.bound[1] = fmaxf(rows.bound[1], kBoundAfterMask);
      }
    } else {
      if (masked) {
        hide_keys(params_, s, first_row(tile), thread_row(tile), n * Config::kTileKv);
      }
      exact_step(s, rows, unused, params_.scale_log2);
    }
    if constexpr (Scores::kBias) {
      release_k();
    }
#pragma unroll
    for (int i = kKeys / 2; i < Config::kScores; ++i) {
      scores[i] = 0.0f;
    }
  }

  /// Stores O and the log-sum-exp. With modified scores the sums are what modified_results made of them. identity: what place_of takes.
  template <typename Identity>
  __device__ __forceinline__ void finish(const Identity& identity, const Tile& tile, [[maybe_unused]] const TilePart& part, RowState& rows,
                                         float (&o)[Config::kOutputs], float (&inverse_sum)[2], float (&sum)[2]) {
    const int row = thread_row(tile);
    const bool stores = join_parts<Config>(params_, part, rows, o);
    // With kStagesInQ all warps of the warpgroup meet below. As a condition of the stores, ptxas 12.4 takes the loops for divergent at d=64 (32 R2UR a step).
    if (!Config::kStagesInQ && !stores) {
      return;
    }
    if constexpr (kModified) {
      remove_masked_values<Config>(params_, tile, first_row(tile), row, rows, o);
    } else {
      if (params_.causal) {
        const int end = key_tiles<Config::kTileKv>(params_, first_row(tile), 64).end * Config::kTileKv;
        remove_masked_values<Element>(params_, place_of(params_, tile), row - ptx::thread_index_anew() % 32 / 4, row, end, rows, o);
      }
      total_sums(params_, row, rows, sum, inverse_sum);
    }
    // TMA does not know where a sequence ends.
    const TilePlace place = place_of(params_, identity);
    const bool by_tma = stores && (!kModified || __all_sync(0xFFFFFFFF, row + 8 < place.queries));
    if constexpr (Config::kOverlapTiles) {
      if (by_tma) {
        store_output_by_tma<Config>(params_, smem_.o(), place, tile.first_row, warpgroup_, o, inverse_sum);
      }
    }
    if constexpr (Config::kStagesInQ) {
      ptx::named_barrier_sync(Config::kBarrierOutput + warpgroup_, 128);  // all of the warpgroup have formed their last scores
      if (by_tma) {
        store_output_by_tma<Config>(params_, smem_.q(q_cursor_.stage()), place, tile.first_row, warpgroup_, o, inverse_sum);
      }
      q_cursor_.advance();
      staged_ = true;
    }
    if (stores && (!Config::kStoresByTma || !by_tma)) {
      store_output_from_registers<Config>(params_, place, row, o, inverse_sum);
    }
    if (stores) {
      store_log_sum_exp<kModified>(params_, place, row, rows, sum);
    }
  }

  /// One key tile: S of tile n and O += P V of tile n + 1 are in flight together; the exponentials of tile n run while the second product does.
  template <TileKind kKind>
  __device__ __forceinline__ void step(float (&s)[Config::kScores], uint32_t (&p)[Config::kScores / 2], float (&o)[Config::kOutputs], RowState& rows,
                                       const Tile& tile, int n) {
    using namespace ptx;
    ListedPairs<Config> pairs;
    mbarrier_wait(&smem_.k_full[k_cursor_.stage()], k_cursor_.phase());
    const BiasFragment<Config> bias = read_bias<Config>(smem_, k_cursor_.stage());
    pairs.read(params_, smem_, k_cursor_.stage(), warpgroup_, kKind == TileKind::kExact);
    if constexpr (Scores::kMask && kKind == TileKind::kExact) {
      if (pairs.hidden(warpgroup_)) {
        hidden_step(p, o);
        return;
      }
      weighs_nothing_ = false;
    }
    await_turn();
    wgmma_fence();
    multiply_keys(s);
    mbarrier_wait(&smem_.v_full[v_cursor_.stage()], v_cursor_.phase());
    // Behind the wait's loop ptxas puts this fence itself, but 13.0 does so too late for its analysis at d = 192 and 256 and serialises every wgmma (C7520).
    wgmma_fence();
    multiply_values(o, p);
    pass_turn();

    wgmma_wait_group<1>();
    pin_registers(s);
    Rescale rescale;
    const auto recompute = [&](float(&scores)[Config::kScores]) {
      recompute_scores<Config>(scores, smem_.q(q_cursor_.stage()), smem_.k[k_cursor_.stage()], 64 * warpgroup_ + ptx::thread_index_anew() % 128 / 32 * 16);
    };
    if constexpr (Scores::kMask && kKind == TileKind::kExact) {
      // Not the exact step, which would not overlap with the product: with masks such tiles are many.
      pairs.hide(s, params_, tile, first_row(tile), thread_row(tile));
      lazy_step(s, rows, rescale, params_.scale_log2, &smem_.sink);
    } else if constexpr (kModified) {
      modified_step<kKind>(s, rows, rescale, tile, n, bias, recompute);
    } else if constexpr (kKind == TileKind::kExact && Config::kAscending) {
      // Every query tile ends with one: the exact step would not overlap with the product.
      hide_keys(params_, s, first_row(tile), thread_row(tile), n * Config::kTileKv);
      lazy_step(s, rows, rescale, params_.scale_log2, &smem_.sink);
    } else if constexpr (kKind == TileKind::kExact) {
      hide_keys(params_, s, first_row(tile), thread_row(tile), n * Config::kTileKv);
      exact_step(s, rows, rescale, params_.scale_log2);
    } else if constexpr (kKind == TileKind::kFollowing) {
      following_step<true>(s, rows, rescale, params_.scale_log2, recompute);
    } else if constexpr (Config::kSoftmax == Sm90Softmax::kOptimisticMaximum) {
      optimistic_step<true>(s, rows, rescale, params_.scale_log2, recompute);
    } else {
      lazy_step(s, rows, rescale, params_.scale_log2, &smem_.sink);
    }
    release_k();

    wgmma_wait_group<0>();
    pin_registers(o);
    pin_registers(s);
    release_v();
    rescale_output(o, rescale);
    to_operand<Element>(p, s);
  }

  /// A step of kind kLowerEdge for the last key tile n of which no row sees the lower half: only the upper half's weights are formed, in the first half of p.
  __device__ __forceinline__ void last_half_step(float (&scores)[Config::kScores], uint32_t (&p)[Config::kScores / 2], float (&o)[Config::kOutputs],
                                                 RowState& rows, const Tile& tile, int n) {
    using namespace ptx;
    constexpr int kHalf = Config::kTileKv / 2;
    float(&s)[kHalf / 2] = reinterpret_cast<float(&)[kHalf / 2]>(scores);
    mbarrier_wait(&smem_.k_full[k_cursor_.stage()], k_cursor_.phase());
    await_turn();
    wgmma_fence();
    multiply_keys<kHalf>(s);
    mbarrier_wait(&smem_.v_full[v_cursor_.stage()], v_cursor_.phase());
    wgmma_fence();
    multiply_values(o, p);
    pass_turn();

    wgmma_wait_group<1>();
    pin_registers(s);
    Rescale rescale;
    const auto recompute = [&](float(&again)[kHalf / 2]) {
      recompute_scores<Config>(again, smem_.q(q_cursor_.stage()), smem_.k[k_cursor_.stage()][0][kHalf],
                               64 * warpgroup_ + ptx::thread_index_anew() % 128 / 32 * 16);
    };
    const ScoreModifier<Config> modifier(params_, tile, slope_);
    modifier.template optimistic<true>(s, rows, rescale, first_row(tile), thread_row(tile), n * Config::kTileKv + kHalf, recompute);
    release_k();

    wgmma_wait_group<0>();
    pin_registers(o);
    pin_registers(s);
    release_v();
    rescale_output(o, rescale);
    to_operand<Element>(reinterpret_cast<uint32_t(&)[kHalf / 4]>(p), s);
  }

  /// A listed key tile that masks hide from this warpgroup alone: only the product of the tile before, unless hidden too. What follows takes zeros for weights.
  __device__ __forceinline__ void hidden_step(uint32_t (&p)[Config::kScores / 2], float (&o)[Config::kOutputs]) {
    using namespace ptx;
    release_k();
    mbarrier_wait(&smem_.v_full[v_cursor_.stage()], v_cursor_.phase());
    await_turn();
    if (!weighs_nothing_) {
      wgmma_fence();
      multiply_values(o, p);
      pass_turn();
      wgmma_wait_group<0>();
      pin_registers(o);
    } else {
      pass_turn();
    }
    release_v();
#pragma unroll
    for (int i = 0; i < Config::kScores / 2; ++i) {
      p[i] = 0;
    }
    weighs_nothing_ = true;
  }

  /// Modified scores: the exact step of any tile.
  template <int kScores>
  __device__ __forceinline__ void exact_modified_step(float (&s)[kScores], RowState& rows, Rescale& rescale, const Tile& tile, int n, const HiddenKeys& hidden,
                                                      const BiasFragment<Config>& bias) {
    const ScoreModifier<Config> modifier(params_, tile, slope_, bias);
    modifier.modify(s, thread_row(tile), n * Config::kTileKv);
    modifier.mask(s, hidden);
    exact_step(s, rows, rescale, modifier.unit_log2(params_));
  }

  /// Modified scores: the softmax of a step. Where every tile's maximum is looked at anyway, all tiles but those of kExact take the lazy step.
  template <TileKind kKind, typename Recompute>
  __device__ __forceinline__ void modified_step(float (&s)[Config::kScores], RowState& rows, Rescale& rescale, const Tile& tile, int n,
                                                const BiasFragment<Config>& bias, const Recompute& recompute) {
    constexpr bool kLowerEdge = kKind == TileKind::kLowerEdge;
    if constexpr (kKind == TileKind::kFollowing) {
      static_assert(!Scores::kChangesScores && !Scores::kMask);
      following_step(s, rows, rescale, params_.scale_log2, recompute);
    } else if constexpr (kKind == TileKind::kExact || (kLowerEdge && Scores::kSoftcap)) {
      const HiddenKeys hidden =
          ScoreModifier<Config>(params_, tile, slope_).template hidden_keys<Config::kScores>(first_row(tile), thread_row(tile), n * Config::kTileKv);
      exact_modified_step(s, rows, rescale, tile, n, hidden, bias);
    } else {
      const ScoreModifier<Config> modifier(params_, tile, slope_, bias);
      const int row = thread_row(tile), first_key = n * Config::kTileKv;
      if constexpr (Config::kSoftmax == Sm90Softmax::kOptimisticMaximum) {
        modifier.template optimistic<kLowerEdge>(s, rows, rescale, first_row(tile), row, first_key, recompute);
      } else {
        modifier.modify(s, row, first_key);
        if constexpr (kLowerEdge) {
          modifier.mask(s, first_row(tile), row, first_key);
        }
        lazy_step(s, rows, rescale, modifier.unit_log2(params_), &smem_.sink);
      }
    }
  }

  /// Issues S = Q K^T of the current k tile as one group: of its keys from kFirstKey on, as many as s has room for.
  template <int kFirstKey = 0, int kScores>
  __device__ __forceinline__ void multiply_keys(float (&s)[kScores]) {
    constexpr uint32_t kFirstStep = kFirstKey * tile::kPanelRowBytes / 16;
    const uint32_t q_stage = q_cursor_.stage() * kQStageStep, k_stage = k_cursor_.stage() * kStageStep;
#pragma unroll
    for (int k = 0; k < Config::kHeadDim / 16; ++k) {
      ptx::Wgmma<Element, 2 * kScores>::ss(s, desc_q_.at(q_stage + tile::k_major_step(k, Config::kTileQ)),
                                           desc_k_.at(k_stage + kFirstStep + tile::k_major_step(k, Config::kTileKv)), k != 0);
    }
    ptx::wgmma_commit_group();
  }

  /// Issues O += P V of the current v tile as one group: of its last kKeys keys, whose weights lie at the beginning of p.
  template <int kKeys = Config::kTileKv>
  __device__ __forceinline__ void multiply_values(float (&o)[Config::kOutputs], const uint32_t (&p)[Config::kScores / 2]) {
    constexpr int kFirstStep = (Config::kTileKv - kKeys) / 16;
    const uint32_t stage = v_cursor_.stage() * kStageStep;
#pragma unroll
    for (int k = 0; k < kKeys / 16; ++k) {
      ptx::Wgmma<Element, Config::kHeadDim>::rs(o, p[4 * k], p[4 * k + 1], p[4 * k + 2], p[4 * k + 3], desc_v_.at(stage + tile::mn_major_step(kFirstStep + k)),
                                                1);
    }
    ptx::wgmma_commit_group();
  }

  /// From one ring buffer to the next, in units of a descriptor's address.
  static constexpr uint32_t kStageStep = Config::kTile.kv_tile_bytes() / 16;
  static constexpr uint32_t kQStageStep = Config::kTile.q_bytes() / 16;

  const Params& params_;
  const tile::Descriptor desc_q_;
  const tile::Descriptor desc_k_;
  const tile::Descriptor desc_v_;
  float slope_ = 0.0f;           ///< ALiBi; with modified scores
  bool weighs_nothing_ = false;  ///< with lists of tiles: all of p is 0
};

}  // namespace fa::sm90
