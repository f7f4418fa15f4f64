// Philox4x32-10 (Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as 1, 2, 3; SC 2011), several counters at once.
#pragma once

#include "cpu/kernels/vec.h"

namespace fa::cpu::FA_CPU_TARGET {

inline constexpr int kPhiloxLanes = kBlockVecs * kLanes;

/// kPhiloxLanes counters of four words, replaced by as many random words.
struct PhiloxBlock {
  uint32_t word[4][kPhiloxLanes];
};

/// Plain loops over lanes: compilers make vector code of them.
FA_INLINE void philox(PhiloxBlock* block, uint64_t seed) {
  uint32_t key0 = static_cast<uint32_t>(seed), key1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    for (int lane = 0; lane < kPhiloxLanes; ++lane) {
      const uint64_t product0 = uint64_t{0xD2511F53u} * block->word[0][lane], product1 = uint64_t{0xCD9E8D57u} * block->word[2][lane];
      block->word[0][lane] = static_cast<uint32_t>(product1 >> 32) ^ block->word[1][lane] ^ key0;
      block->word[1][lane] = static_cast<uint32_t>(product1);
      block->word[2][lane] = static_cast<uint32_t>(product0 >> 32) ^ block->word[3][lane] ^ key1;
      block->word[3][lane] = static_cast<uint32_t>(product0);
    }
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
}

}  // namespace fa::cpu::FA_CPU_TARGET
