// wgmma: asynchronous matrix products of a warpgroup (four consecutive warps, the first a multiple of four). PTX ISA 8.0, sm_90a.
//
// D (64 x N, fp32, in registers) = A (64 x 16) * B (16 x N) + D. B is always in shared memory, given by a descriptor (tile/wgmma_descriptor.cuh). A is in
// shared memory (ss) or in registers (rs).
//
// Fragments of thread t of the warpgroup, w = t / 32, g = (t % 32) / 4, q = t % 4:
//   D: d[4j + {0, 1}] = row 16w + g,     columns 8j + 2q + {0, 1}
//      d[4j + {2, 3}] = row 16w + g + 8, the same columns
//   A: a[0] = row 16w + g, k = 2q + {0, 1}; a[1] = row 16w + g + 8; a[2], a[3] = the same rows, k + 8. So four neighbouring pairs of D are an A fragment.
//
// Neither D nor A's registers may be touched between the product and the wait that covers it.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace fa::ptx {

/// Orders earlier ordinary writes to the registers of D and A before the products that follow. wgmma.fence.sync.aligned
__device__ __forceinline__ void wgmma_fence() {
  asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory");
}

/// Closes a group of products. wgmma.commit_group.sync.aligned
__device__ __forceinline__ void wgmma_commit_group() {
  asm volatile("wgmma.commit_group.sync.aligned;\n" ::: "memory");
}

/// Waits until at most kPending of the latest groups are unfinished. wgmma.wait_group.sync.aligned
template <int kPending>
__device__ __forceinline__ void wgmma_wait_group() {
  static_assert(kPending >= 0 && kPending <= 7, "wgmma.wait_group counts from 0 to 7");
  asm volatile("wgmma.wait_group.sync.aligned %0;\n" ::"n"(kPending) : "memory");
}

/// Makes the compiler believe that these registers change here. A wait does not name the accumulators it waits for: without this, reads of them may be
/// scheduled in front of it.
template <int kNum>
__device__ __forceinline__ void pin_registers(float (&registers)[kNum]) {
#pragma unroll
  for (int i = 0; i < kNum; ++i) {
    asm volatile("" : "+f"(registers[i])::"memory");
  }
}

/// One k-step of a product: Wgmma<Element, N>::ss and ::rs.
template <typename Element, int kN>
struct Wgmma;

// clang-format off
#define FA_REGS_16  "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15"
#define FA_REGS_32  "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define FA_REGS_40  FA_REGS_32 ",%32,%33,%34,%35,%36,%37,%38,%39"
#define FA_REGS_48  FA_REGS_40 ",%40,%41,%42,%43,%44,%45,%46,%47"
#define FA_REGS_56  FA_REGS_48 ",%48,%49,%50,%51,%52,%53,%54,%55"
#define FA_REGS_64  FA_REGS_56 ",%56,%57,%58,%59,%60,%61,%62,%63"
#define FA_REGS_72  FA_REGS_64 ",%64,%65,%66,%67,%68,%69,%70,%71"
#define FA_REGS_80  FA_REGS_72 ",%72,%73,%74,%75,%76,%77,%78,%79"
#define FA_REGS_88  FA_REGS_80 ",%80,%81,%82,%83,%84,%85,%86,%87"
#define FA_REGS_96  FA_REGS_88 ",%88,%89,%90,%91,%92,%93,%94,%95"
#define FA_REGS_104 FA_REGS_96 ",%96,%97,%98,%99,%100,%101,%102,%103"
#define FA_REGS_112 FA_REGS_104 ",%104,%105,%106,%107,%108,%109,%110,%111"
#define FA_REGS_120 FA_REGS_112 ",%112,%113,%114,%115,%116,%117,%118,%119"
#define FA_REGS_128 FA_REGS_120 ",%120,%121,%122,%123,%124,%125,%126,%127"

#define FA_DEST_8(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
#define FA_DEST_16  FA_DEST_8(0), FA_DEST_8(8)
#define FA_DEST_32  FA_DEST_8(0), FA_DEST_8(8), FA_DEST_8(16), FA_DEST_8(24)
#define FA_DEST_40  FA_DEST_32, FA_DEST_8(32)
#define FA_DEST_48  FA_DEST_40, FA_DEST_8(40)
#define FA_DEST_56  FA_DEST_48, FA_DEST_8(48)
#define FA_DEST_64  FA_DEST_56, FA_DEST_8(56)
#define FA_DEST_72  FA_DEST_64, FA_DEST_8(64)
#define FA_DEST_80  FA_DEST_72, FA_DEST_8(72)
#define FA_DEST_88  FA_DEST_80, FA_DEST_8(80)
#define FA_DEST_96  FA_DEST_88, FA_DEST_8(88)
#define FA_DEST_104 FA_DEST_96, FA_DEST_8(96)
#define FA_DEST_112 FA_DEST_104, FA_DEST_8(104)
#define FA_DEST_120 FA_DEST_112, FA_DEST_8(112)
#define FA_DEST_128 FA_DEST_120, FA_DEST_8(120)
// clang-format on

// R0: number of accumulator registers, N / 2; R1 … R5 the next five integers, the operands' positions in the asm statement.
#define FA_DEFINE_WGMMA_OF(ELEMENT, PTX_TYPE, N, R0, R1, R2, R3, R4, R5)                                                                                    \
  template <>                                                                                                                                               \
  struct Wgmma<ELEMENT, N> {                                                                                                                                \
    /* A and B in shared memory, both K-major. accumulate 0: D = A * B. */                                                                                  \
    static __device__ __forceinline__ void ss(float (&d)[N / 2], uint64_t desc_a, uint64_t desc_b, int accumulate) {                                        \
      asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #R2 ", 0;\nwgmma.mma_async.sync.aligned.m64n" #N "k16.f32." PTX_TYPE "." PTX_TYPE " {" FA_REGS_##R0 \
                   "}, %" #R0 ", %" #R1 ", p, 1, 1, 0, 0;\n}\n"                                                                                             \
                   : FA_DEST_##R0                                                                                                                           \
                   : "l"(desc_a), "l"(desc_b), "r"(accumulate));                                                                                            \
    }                                                                                                                                                       \
    /* As ss, but B is MN-major (its N dimension is contiguous). */                                                                                         \
    static __device__ __forceinline__ void ss_mn(float (&d)[N / 2], uint64_t desc_a, uint64_t desc_b, int accumulate) {                                     \
      asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #R2 ", 0;\nwgmma.mma_async.sync.aligned.m64n" #N "k16.f32." PTX_TYPE "." PTX_TYPE " {" FA_REGS_##R0 \
                   "}, %" #R0 ", %" #R1 ", p, 1, 1, 0, 1;\n}\n"                                                                                             \
                   : FA_DEST_##R0                                                                                                                           \
                   : "l"(desc_a), "l"(desc_b), "r"(accumulate));                                                                                            \
    }                                                                                                                                                       \
    /* A in registers, B in shared memory and MN-major (its N dimension is contiguous). */                                                                  \
    static __device__ __forceinline__ void rs(float (&d)[N / 2], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint64_t desc_b, int accumulate) {     \
      asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #R5 ", 0;\nwgmma.mma_async.sync.aligned.m64n" #N "k16.f32." PTX_TYPE "." PTX_TYPE " {" FA_REGS_##R0 \
                   "}, {%" #R0 ", %" #R1 ", %" #R2 ", %" #R3 "}, %" #R4 ", p, 1, 1, 1;\n}\n"                                                                \
                   : FA_DEST_##R0                                                                                                                           \
                   : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "l"(desc_b), "r"(accumulate));                                                                     \
    }                                                                                                                                                       \
  };
#define FA_DEFINE_WGMMA(...)                     \
  FA_DEFINE_WGMMA_OF(__half, "f16", __VA_ARGS__) \
  FA_DEFINE_WGMMA_OF(__nv_bfloat16, "bf16", __VA_ARGS__)

FA_DEFINE_WGMMA(32, 16, 17, 18, 19, 20, 21)
FA_DEFINE_WGMMA(64, 32, 33, 34, 35, 36, 37)
FA_DEFINE_WGMMA(80, 40, 41, 42, 43, 44, 45)
FA_DEFINE_WGMMA(96, 48, 49, 50, 51, 52, 53)
FA_DEFINE_WGMMA(112, 56, 57, 58, 59, 60, 61)
FA_DEFINE_WGMMA(128, 64, 65, 66, 67, 68, 69)
FA_DEFINE_WGMMA(144, 72, 73, 74, 75, 76, 77)
FA_DEFINE_WGMMA(160, 80, 81, 82, 83, 84, 85)
FA_DEFINE_WGMMA(176, 88, 89, 90, 91, 92, 93)
FA_DEFINE_WGMMA(192, 96, 97, 98, 99, 100, 101)
FA_DEFINE_WGMMA(208, 104, 105, 106, 107, 108, 109)
FA_DEFINE_WGMMA(224, 112, 113, 114, 115, 116, 117)
FA_DEFINE_WGMMA(256, 128, 129, 130, 131, 132, 133)

#undef FA_DEFINE_WGMMA
#undef FA_DEFINE_WGMMA_OF

}  // namespace fa::ptx
