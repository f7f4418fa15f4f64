// Gradient of a bias that batch entries or heads share: for every tile of it the sum of dS = P (dP - delta) over all that share it, in fp32 registers, always
// in the same order. README.md beside this file has the resource arithmetic.
#pragma once

#include <cmath>

#include "attention/score_params.h"
#include "kernels/sm90/backward/pairs.cuh"
#include "kernels/sm90/backward_modified/bias.cuh"
#include "kernels/sm90/grad_bias/config.h"
#include "kernels/sm90/grad_bias/params.h"
#include "ptx/bulk_copy.cuh"
#include "ptx/exp2.cuh"
#include "ptx/fence_proxy.cuh"
#include "ptx/ldmatrix.cuh"
#include "ptx/mbarrier.cuh"
#include "ptx/named_barrier.cuh"
#include "ptx/setmaxnreg.cuh"
#include "ptx/stmatrix.cuh"
#include "ptx/tma.cuh"
#include "ptx/wgmma.cuh"
#include "tile/wgmma_descriptor.cuh"

namespace fa::sm90 {

/// Position in a ring, and the parity of the barrier phase that the current round completes.
template <int kSlots>
struct SlotCursor {
  int slot = 0;
  uint32_t phase = 0;

  __device__ __forceinline__ void advance() {
    if (++slot == kSlots) {
      slot = 0;
      phase ^= 1;
    }
  }
};

/// A tile of the bias.
struct BiasPlace {
  int first_row;
  int first_key;
  int head;  ///< of the bias
  int batch;

  /// Tile `index`: of a head eight rows of tiles side by side, so that blocks at work at the same time share tiles of q and of k.
  __device__ __forceinline__ BiasPlace(const SharedGradBiasParams& p, int index) {
    constexpr int kSection = 8;
    const int per_head = p.row_tiles * p.key_tiles, flat_head = index / per_head, in_head = index - flat_head * per_head;
    const int section = in_head / (kSection * p.key_tiles), rest = in_head - section * kSection * p.key_tiles;
    const int rows_here = min(kSection, p.row_tiles - section * kSection);
    first_row = (section * kSection + rest % rows_here) * Sm90GradBiasTile::kRows;
    first_key = rest / rows_here * Sm90GradBiasTile::kRows;
    batch = flat_head / p.bias_heads;
    head = flat_head - batch * p.bias_heads;
  }
  __device__ __forceinline__ bool seen(const PairRange& range) const {
    return range.sees_some(first_row, min(first_row + Sm90GradBiasTile::kRows, range.len_q) - 1, first_key,
                           min(first_key + Sm90GradBiasTile::kRows, range.len_kv) - 1);
  }
};

/// Runs in one warp, of which one lane issues: the bias of every tile of the block, and q, k, grad_o and v of all summands.
template <typename Config>
__device__ __forceinline__ void load_summands(const SharedGradBiasParams& p, typename Config::SharedStorage& smem) {
  const bool first_lane = threadIdx.x % 32 == 0;
  SlotCursor<Config::kSlots> cursor;
  SlotCursor<Config::kBuffers> buffer;
  const auto load = [&](const CUtensorMap* map, int row, int head, int batch) {
    ptx::mbarrier_wait(&smem.empty[cursor.slot], cursor.phase ^ 1);
    if (first_lane) {
      ptx::mbarrier_arrive_expect_tx(&smem.full[cursor.slot], sizeof(smem.slots[0]));
#pragma unroll
      for (int panel = 0; panel < Config::kPanels; ++panel) {
        ptx::tma_load_4d(map, &smem.full[cursor.slot], smem.slots[cursor.slot][panel], 64 * panel, row, head, batch, ptx::L2Hint::kEvictLast);
      }
    }
    cursor.advance();
  };
#pragma unroll 1
  for (int index = static_cast<int>(blockIdx.x); index < p.num_tiles; index += static_cast<int>(gridDim.x)) {
    const BiasPlace place(p, index);
    ptx::mbarrier_wait(&smem.bias_empty[buffer.slot], buffer.phase ^ 1);
    const bool seen = place.seen(p.range);
    if (first_lane && !seen) {
      ptx::mbarrier_arrive(&smem.bias_full[buffer.slot]);
    } else if (first_lane) {
      ptx::mbarrier_arrive_expect_tx(&smem.bias_full[buffer.slot], sizeof(smem.bias[0]));
#pragma unroll
      for (int part = 0; part < 2 * Config::kBiasPanels; ++part) {
        const int panel = part / 2, row = part % 2 * 64;
        ptx::tma_load_4d(&p.map_bias, &smem.bias_full[buffer.slot], smem.bias[buffer.slot][panel][row], place.first_key + 64 * panel, place.first_row + row,
                         place.head, place.batch, ptx::L2Hint::kEvictFirst);
      }
    }
    buffer.advance();
    if (!seen) {
      continue;
    }
#pragma unroll 1
    for (int b = 0; b < p.shared_batches; ++b) {
#pragma unroll 1
      for (int h = 0; h < p.shared_heads; ++h) {
        const int batch = place.batch + b, head = place.head + h, kv_head = head / p.group_size;
        load(&p.map_q, place.first_row, head, batch);
        load(&p.map_k, place.first_key, kv_head, batch);
        load(&p.map_grad_o, place.first_row, head, batch);
        load(&p.map_v, place.first_key, kv_head, batch);
      }
    }
  }
}

/// A consumer warpgroup: 64 queries of every tile of the block.
template <typename Config>
class SharedGradBiasConsumer {
  using Element = typename Config::Element;
  using SharedStorage = typename Config::SharedStorage;
  using Product = ptx::Wgmma<Element, Config::kRows>;
  using Scores = float[Config::kScores];
  static constexpr uint32_t kSlotStep = sizeof(typename SharedStorage::Tile) / 16;

 public:
  __device__ __forceinline__ SharedGradBiasConsumer(const SharedGradBiasParams& params, SharedStorage& smem, int warpgroup)
      : p_(params),
        smem_(smem),
        warpgroup_(warpgroup),
        desc_rows_(tile::k_major_descriptor(smem.slots[0][0][64 * warpgroup])),
        desc_keys_(tile::k_major_descriptor(smem.slots[0])) {
    const int thread = threadIdx.x % 128, lane = thread % 32;
    row_ = 64 * warpgroup + thread / 32 * 16 + lane / 4;
    matrix_row_ = 64 * warpgroup + thread / 32 * 16 + lane % 16;
  }

  __device__ __forceinline__ void run() {
#pragma unroll 1
    for (int index = static_cast<int>(blockIdx.x); index < p_.num_tiles; index += static_cast<int>(gridDim.x)) {
      const BiasPlace place(p_, index);
      Scores sum;
#pragma unroll
      for (int i = 0; i < Config::kScores; ++i) {
        sum[i] = 0.0f;
      }
      const bool seen = place.seen(p_.range);
      if (!seen) {
        ptx::mbarrier_wait(&smem_.bias_full[buffer_.slot], buffer_.phase);
      } else {
#pragma unroll 1
        for (int b = 0; b < p_.shared_batches; ++b) {
#pragma unroll 1
          for (int h = 0; h < p_.shared_heads; ++h) {
            add_summand(sum, (place.batch + b) * p_.heads_q + place.head + h, place.first_row);
          }
        }
        hide(sum, place);
      }
      store(sum, place);
      buffer_.advance();
    }
    if (threadIdx.x % 128 == 0) {
      ptx::bulk_wait();  // shared memory must outlive the copies
    }
  }

 private:
  /// sum += dS of one query head of one batch entry.
  __device__ __forceinline__ void add_summand(Scores& sum, int flat_head, int first_row) {
    using namespace ptx;
    const int64_t in_workspace = flat_head * p_.padded_rows + first_row + row_;
    const float shift[2] = {__ldg(p_.shift + in_workspace), __ldg(p_.shift + in_workspace + 8)};
    const float delta[2] = {__ldg(p_.delta + in_workspace), __ldg(p_.delta + in_workspace + 8)};
    Scores s, dp;
    const SlotCursor<Config::kSlots> q = next(), k = next();
    mbarrier_wait(&smem_.full[q.slot], q.phase);
    mbarrier_wait(&smem_.full[k.slot], k.phase);
    wgmma_fence();
    multiply(s, q.slot, k.slot);
    wgmma_commit_group();
    const SlotCursor<Config::kSlots> grad_o = next(), v = next();
    mbarrier_wait(&smem_.full[grad_o.slot], grad_o.phase);
    mbarrier_wait(&smem_.full[v.slot], v.phase);
    multiply(dp, grad_o.slot, v.slot);
    wgmma_commit_group();
    mbarrier_wait(&smem_.bias_full[buffer_.slot], buffer_.phase);

    wgmma_wait_group<1>();
    pin_registers(s);
    release(q.slot, k.slot);
#pragma unroll
    for (int slice = 0; slice < Config::kRows / 16; ++slice) {  // of 16 keys
      uint32_t bias[4];                                         // rows, rows + 8 at the first eight keys, then at the others
      ldmatrix_x4(bias, s_matrix(slice));
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float2 added = unpack_pair<Element>(bias[i]);
        float* part = s + 8 * slice + 2 * i;
        part[0] = exp2_approx(fmaf(part[0], p_.scale_log2, fmaf(added.x, kScoreLog2E, -shift[i % 2])));
        part[1] = exp2_approx(fmaf(part[1], p_.scale_log2, fmaf(added.y, kScoreLog2E, -shift[i % 2])));
      }
    }
    wgmma_wait_group<0>();
    pin_registers(dp);
    release(grad_o.slot, v.slot);
#pragma unroll
    for (int i = 0; i < Config::kScores; ++i) {
      sum[i] = fmaf(s[i], dp[i] - delta[i / 2 % 2], sum[i]);
    }
  }

  /// Hidden pairs: 0, whatever was computed for them.
  __device__ __forceinline__ void hide(Scores& sum, const BiasPlace& place) const {
    const int row = place.first_row + row_, column = place.first_key + threadIdx.x % 4 * 2;
    const int begin[2] = {p_.range.begin_key(row), p_.range.begin_key(row + 8)}, end[2] = {p_.range.end_key(row), p_.range.end_key(row + 8)};
#pragma unroll
    for (int slice = 0; slice < Config::kRows / 16; ++slice) {
      uint32_t bias[4];
      ptx::ldmatrix_x4(bias, s_matrix(slice));
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float2 added = unpack_pair<Element>(bias[i]);
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int key = column + 16 * slice + i / 2 * 8 + e, r = i % 2;
          const bool hidden = key < begin[r] || key >= end[r] || (e ? added.y : added.x) == -INFINITY;
          float& element = sum[8 * slice + 2 * i + e];
          element = hidden ? 0.0f : element;
        }
      }
    }
  }

  /// The sum, rounded, into the place of the bias and from there to the gradient.
  __device__ __forceinline__ void store(const Scores& sum, const BiasPlace& place) {
    using namespace ptx;
#pragma unroll
    for (int slice = 0; slice < Config::kRows / 16; ++slice) {
      const float* part = sum + 8 * slice;
      stmatrix_x4(s_matrix(slice), pack2<Element>(part[0], part[1]), pack2<Element>(part[2], part[3]), pack2<Element>(part[4], part[5]),
                  pack2<Element>(part[6], part[7]));
    }
    fence_proxy_async_shared();
    named_barrier_sync(Config::kBarrierWarpgroup + warpgroup_, 128);
    if (threadIdx.x % 128 == 0) {
#pragma unroll
      for (int panel = 0; panel < Config::kBiasPanels; ++panel) {
        tma_store_4d(&p_.map_grad_bias, smem_.bias[buffer_.slot][panel][64 * warpgroup_], place.first_key + 64 * panel, place.first_row + 64 * warpgroup_,
                     place.head, place.batch);
      }
      bulk_commit();
      bulk_wait_read();
      mbarrier_arrive(&smem_.bias_empty[buffer_.slot]);
    }
  }

  /// product = rows of the warpgroup times all keys.
  __device__ __forceinline__ void multiply(Scores& product, int rows, int keys) {
#pragma unroll
    for (int k = 0; k < Config::kHeadDim / 16; ++k) {
      Product::ss(product, desc_rows_.at(rows * kSlotStep + tile::k_major_step(k, Config::kRows)),
                  desc_keys_.at(keys * kSlotStep + tile::k_major_step(k, Config::kRows)), k != 0);
    }
  }

  /// The lane's row of ldmatrix and stmatrix for 16 keys of the current tile of the bias.
  __device__ __forceinline__ uint32_t s_matrix(int slice) const {
    return ptx::shared_address(smem_.bias[buffer_.slot][slice / 4]) + tile::swizzled_offset_bytes(matrix_row_, slice % 4 * 2 + threadIdx.x % 32 / 16);
  }

  __device__ __forceinline__ SlotCursor<Config::kSlots> next() {
    const SlotCursor<Config::kSlots> current = cursor_;
    cursor_.advance();
    return current;
  }

  __device__ __forceinline__ void release(int first, int second) {
    if (threadIdx.x % 32 == 0) {
      ptx::mbarrier_arrive(&smem_.empty[first]);
      ptx::mbarrier_arrive(&smem_.empty[second]);
    }
  }

  const SharedGradBiasParams& p_;
  SharedStorage& smem_;
  const int warpgroup_;
  const tile::Descriptor desc_rows_;  // A: q, grad_o
  const tile::Descriptor desc_keys_;  // B: k, v
  SlotCursor<Config::kSlots> cursor_;
  SlotCursor<Config::kBuffers> buffer_;
  int row_;         // of the tile: the thread's first
  int matrix_row_;  // of the tile: the lane's row of ldmatrix
};

template <typename Config>
__global__ void __launch_bounds__(Config::kThreads, 1) shared_grad_bias_kernel(const __grid_constant__ SharedGradBiasParams params) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ __align__(1024) unsigned char s_bytes[];
  auto& smem = *reinterpret_cast<typename Config::SharedStorage*>(s_bytes);

  // "Full" barriers count the producer's arrival and its copies' bytes, empty the consumer warps, bias_empty a thread per consumer warpgroup.
  if (threadIdx.x == 0) {
    for (int slot = 0; slot < Config::kSlots; ++slot) {
      ptx::mbarrier_init(&smem.full[slot], 1);
      ptx::mbarrier_init(&smem.empty[slot], Config::kConsumerWarps);
    }
    for (int buffer = 0; buffer < Config::kBuffers; ++buffer) {
      ptx::mbarrier_init(&smem.bias_full[buffer], 1);
      ptx::mbarrier_init(&smem.bias_empty[buffer], Config::kTile.kWarpgroups);
    }
    ptx::mbarrier_init_fence();
  }
  __syncthreads();

  // Roles. The shuffle tells the compiler that the warpgroup's number, and all descriptors made from it, are the same in the whole warp.
  const int warpgroup = __shfl_sync(0xFFFFFFFF, static_cast<int>(threadIdx.x) / 128, 0);
  if (warpgroup == 0) {
    ptx::registers_release<Config::kTile.producer_registers()>();
    if (__shfl_sync(0xFFFFFFFF, static_cast<int>(threadIdx.x) / 32, 0) == 0) {
      load_summands<Config>(params, smem);
    }
  } else {
    ptx::registers_acquire<Config::kTile.consumer_registers()>();
    SharedGradBiasConsumer<Config>(params, smem, warpgroup - 1).run();
  }
#else
  // Other targets have no wgmma; the planner never chooses this kernel there.
  __trap();
#endif
}

}  // namespace fa::sm90
