// Philox4x32-10 (Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as 1, 2, 3; SC 2011), several counters at once.
#pragma once

#include "cpu/kernels/vec.h"

namespace fa::cpu::FA_CPU_TARGET {

inline constexpr int kPhiloxLanes = kBlockVecs * kLanes;

/// kPhiloxLanes counters of four words, replaced by as many random words.
struct PhiloxBlock {
  uint32_t word[4][kPhiloxLanes];
};

/// The loop over lanes is the outer one: with the rounds unrolled inside, compilers make vector code of it (with the rounds outside, GCC 12 unrolls the lanes
/// and takes four times as long).
FA_INLINE void philox(PhiloxBlock* block, uint64_t seed) {
  const uint32_t seed0 = static_cast<uint32_t>(seed), seed1 = static_cast<uint32_t>(seed >> 32);
  for (int lane = 0; lane < kPhiloxLanes; ++lane) {
    uint32_t c0 = block->word[0][lane], c1 = block->word[1][lane], c2 = block->word[2][lane], c3 = block->word[3][lane];
    uint32_t key0 = seed0, key1 = seed1;
    for (int round = 0; round < 10; ++round) {
      const uint64_t product0 = uint64_t{0xD2511F53u} * c0, product1 = uint64_t{0xCD9E8D57u} * c2;
      c0 = static_cast<uint32_t>(product1 >> 32) ^ c1 ^ key0;
      c1 = static_cast<uint32_t>(product1);
      c2 = static_cast<uint32_t>(product0 >> 32) ^ c3 ^ key1;
      c3 = static_cast<uint32_t>(product0);
      key0 += 0x9E3779B9u;
      key1 += 0xBB67AE85u;
    }
    block->word[0][lane] = c0;
    block->word[1][lane] = c1;
    block->word[2][lane] = c2;
    block->word[3][lane] = c3;
  }
}

}  // namespace fa::cpu::FA_CPU_TARGET
