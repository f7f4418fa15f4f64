// A warpgroup's share of a tile of grad_q, 64 rows by kColumns columns over all keys of the cluster, and its way into the fp32 accumulator in global memory.
#pragma once

#include "kernels/sm90/backward_wide/block.cuh"
#include "kernels/sm90/backward_wide/config.h"
#include "ptx/mbarrier.cuh"
#include "ptx/mma_sync.cuh"
#include "ptx/reduce.cuh"
#include "ptx/wgmma.cuh"
#include "tile/wgmma_descriptor.cuh"

namespace fa::sm90 {

/// Works one step behind: in each step the product with dS of the step before, which the other block has sent meanwhile.
template <typename Config, int kWarpgroup>
class GradQShare {
  using Element = typename Config::Element;
  using SharedStorage = typename Config::SharedStorage;
  static constexpr int kColumns = kWarpgroup == 0 ? Config::kGradQColumns0 : Config::kGradQColumns1;
  using Product = ptx::Wgmma<Element, kColumns>;
  static constexpr uint32_t kDsStep = sizeof(typename SharedStorage::DsTile) / 16;

 public:
  static constexpr int kRegisters = kColumns / 2;

  __device__ __forceinline__ GradQShare(const BackwardParams& params, SharedStorage& smem, const ClusterBlock& block)
      : params_(params),
        smem_(smem),
        block_(block),
        desc_ds_(tile::k_major_descriptor(smem.ds[0])),
        desc_k_rows_(tile::mn_major_descriptor(&smem.k[grad_q_panel<Config>(block.rank, kWarpgroup)][0][grad_q_column<Config>(block.rank, kWarpgroup)],
                                               Config::kBlockKeys)),
        desc_peer_k_rows_(tile::mn_major_descriptor(&smem.peer_k[kWarpgroup][0][grad_q_column<Config>(block.rank, kWarpgroup)], Config::kBlockKeys)),
        offset_(grad_q_panel<Config>(block.rank, kWarpgroup) * kGradQBlock + grad_q_column<Config>(block.rank, kWarpgroup) * 64 + 4 * (threadIdx.x % 128)) {}

  /// Issues grad_q = dS K, own keys first. In the first step, where there is no dS yet, the result is meaningless and not to be added.
  __device__ __forceinline__ void multiply(float (&grad_q)[kRegisters]) {
    const uint32_t stage_step = cursor_.stage * kDsStep;
    if (has_step()) {
      ptx::mbarrier_wait(&smem_.ds_full[cursor_.stage], cursor_.phase);
      ptx::mbarrier_wait(&smem_.peer_ds_full[cursor_.stage], cursor_.phase);
    }
    ptx::wgmma_fence();
#pragma unroll
    for (int k = 0; k < Config::kBlockKeys / 16; ++k) {
      Product::ss_mn(grad_q, desc_ds_.at(stage_step + tile::k_major_step(k, Config::kTileQ)), desc_k_rows_.at(tile::mn_major_step(k)), k != 0);
    }
#pragma unroll
    for (int k = 0; k < Config::kBlockKeys / 16; ++k) {
      Product::ss_mn(grad_q, desc_ds_.at(kToPeerDs + stage_step + tile::k_major_step(k, Config::kTileQ)), desc_peer_k_rows_.at(tile::mn_major_step(k)), 1);
    }
  }

  /// Behind the wait for the product: gives both tiles of dS back to both blocks. Called by all threads of a warp.
  __device__ __forceinline__ void release() {
    if (has_step() && threadIdx.x % 32 < Config::kClusterSize) {
      ptx::mbarrier_arrive_cluster(ptx::cluster_address(&smem_.ds_empty[cursor_.stage], threadIdx.x % 32));
    }
  }

  /// Adds the result where the step before belongs.
  __device__ __forceinline__ void add(const float (&grad_q)[kRegisters]) {
    if (!has_step()) {
      return;
    }
    if constexpr (Config::kDeterministic) {
      add_in_turn(grad_q);
    } else {
      reduce(grad_q);
    }
  }

  /// place: of the query tile whose dS comes next.
  __device__ __forceinline__ void advance(const QueryTile& place) {
    place_ = place;
    place_.g_tile += offset_;
    cursor_.advance();
  }

 private:
  /// Accumulator pieces that finish() has in flight, as registers allow: at 256 columns warpgroup 1 holds dP at that time.
  static constexpr int kLoadsAhead = kWarpgroup == 0 || Config::kPanels == 3 ? kRegisters / 4 : 4;
  static constexpr uint32_t kToPeerDs = Config::kDsStages * kDsStep;

  __device__ __forceinline__ bool has_step() const {
    return place_.g_tile != nullptr;
  }

  __device__ __forceinline__ void reduce(const float (&grad_q)[kRegisters]) const {
#pragma unroll
    for (int j = 0; j < kRegisters / 4; ++j) {
      ptx::reduce_add_v4(place_.g_tile + 512 * j, grad_q[4 * j], grad_q[4 * j + 1], grad_q[4 * j + 2], grad_q[4 * j + 3]);
    }
  }

  __device__ __forceinline__ void store(const float (&grad_q)[kRegisters]) const {
#pragma unroll
    for (int j = 0; j < kRegisters / 4; ++j) {
      *reinterpret_cast<float4*>(place_.g_tile + 512 * j) = make_float4(grad_q[4 * j], grad_q[4 * j + 1], grad_q[4 * j + 2], grad_q[4 * j + 3]);
    }
  }

  /// When it is the block's turn. The first key tile need not add to anything; the last one has the whole sum, which it writes to grad_q.
  __device__ __forceinline__ void add_in_turn(const float (&grad_q)[kRegisters]) {
    const int turn = block_.tile.first_key / Config::kTileKv;
    const bool last = turn == num_visitors<Config>(params_, place_.query_tile) - 1;
    ptx::mbarrier_wait(&smem_.grad_q_open[turn_cursor_.stage], turn_cursor_.phase);
    if (last) {
      finish(grad_q, turn != 0);
    } else if (turn == 0) {
      store(grad_q);
    } else {
      reduce(grad_q);
    }
    __syncwarp();
    if (threadIdx.x % 32 == 0) {
      ptx::mbarrier_arrive(&smem_.grad_q_added[turn_cursor_.stage]);
    }
    turn_cursor_.advance();
  }

  /// grad_q = scale * (what has been added so far, if anything, + the block's own part). Lanes of four exchange pairs of columns, so that each stores eight
  /// columns of two rows at a time.
  __device__ __forceinline__ void finish(const float (&grad_q)[kRegisters], bool add_accumulator) {
    const int lane = threadIdx.x % 32, quarter = lane % 4;
    const int row = place_.query_tile * Config::kTileQ + threadIdx.x % 128 / 32 * 16 + lane / 4;
    const int first_column = 64 * grad_q_panel<Config>(block_.rank, kWarpgroup) + grad_q_column<Config>(block_.rank, kWarpgroup) + 8 * quarter;
    uint16_t* g_row = params_.grad_q + block_.tile.batch * params_.grad_q_strides.batch +
                      (block_.tile.kv_head * params_.group_size + place_.group_head) * params_.grad_q_strides.head + row * params_.grad_q_strides.seq;
#pragma unroll
    for (int first = 0; first < kRegisters / 4; first += kLoadsAhead) {
      float4 sums[kLoadsAhead];
#pragma unroll
      for (int i = 0; i < kLoadsAhead; ++i) {
        sums[i] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        if (add_accumulator) {
          ptx::load_v4(place_.g_tile + 512 * (first + i), sums[i].x, sums[i].y, sums[i].z, sums[i].w);
        }
      }
#pragma unroll
      for (int i = 0; i < kLoadsAhead; i += 4) {
        uint32_t upper[4], lower[4];
#pragma unroll
        for (int c = 0; c < 4; ++c) {
          const float4& sum = sums[i + c];
          const float* part = grad_q + 4 * (first + i + c);
          upper[c] = ptx::pack2<Element>((sum.x + part[0]) * params_.scale, (sum.y + part[1]) * params_.scale);
          lower[c] = ptx::pack2<Element>((sum.z + part[2]) * params_.scale, (sum.w + part[3]) * params_.scale);
        }
        transpose_quad(upper);
        transpose_quad(lower);
        const int column = first_column + 8 * (first + i);
        if (column < params_.head_dim) {
          if (row < params_.len_q) {
            *reinterpret_cast<uint4*>(g_row + column) = make_uint4(upper[0], upper[1], upper[2], upper[3]);
          }
          if (row + 8 < params_.len_q) {
            *reinterpret_cast<uint4*>(g_row + 8 * params_.grad_q_strides.seq + column) = make_uint4(lower[0], lower[1], lower[2], lower[3]);
          }
        }
      }
    }
  }

  /// Word c of lane q of four neighbours goes to word q of lane c.
  __device__ __forceinline__ static void transpose_quad(uint32_t (&words)[4]) {
#pragma unroll
    for (int distance = 1; distance <= 2; distance *= 2) {
      const bool second = threadIdx.x & distance;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        uint32_t& low = words[distance == 1 ? 2 * i : i];
        uint32_t& high = words[distance == 1 ? 2 * i + 1 : i + 2];
        const uint32_t received = __shfl_xor_sync(0xFFFFFFFF, second ? low : high, distance);
        low = second ? received : low;
        high = second ? high : received;
      }
    }
  }

  const BackwardParams& params_;
  SharedStorage& smem_;
  const ClusterBlock block_;
  const tile::Descriptor desc_ds_;
  const tile::Descriptor desc_k_rows_;
  const tile::Descriptor desc_peer_k_rows_;
  const int offset_;                                                // of the thread's first float in a tile of the accumulator
  QueryTile place_;                                                 // of the step before; nowhere in the first
  StepCursor<Config::kDsStages> cursor_{Config::kDsStages - 1, 1};  // of the step before
  StepCursor<Config::kTurnStages> turn_cursor_;                     // of the step before, from the first step that has one
};

}  // namespace fa::sm90
