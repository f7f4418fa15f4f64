// The sets of mask and score variants that Hopper kernels are compiled for, and the choice among them. No CUDA header.
#pragma once

#include <cstdint>

#include "plan/variants.h"

namespace fa {

/// Computed beside the products at next to no cost: which key tiles a query tile goes through, masks at their edges, where a sequence
/// lies, a logit per head in the epilogue.
inline constexpr uint32_t kSm90RangeVariants = kVariantWindow | kVariantChunk | kVariantSinks | kVariantSequences;
/// One more instruction per score.
inline constexpr uint32_t kSm90AlibiVariants = kSm90RangeVariants | kVariantAlibi;
/// Two more special-function instructions per score.
inline constexpr uint32_t kSm90SoftcapVariants = kSm90RangeVariants | kVariantSoftcap;
/// A 16-bit bias of all rows, which travels to shared memory beside the keys.
inline constexpr uint32_t kSm90BiasVariants = kSm90RangeVariants | kVariantBias;
/// Boolean and block mask, from lists of visible tiles and bits of single pairs (attention/visible_tiles.h).
inline constexpr uint32_t kSm90MaskVariants = kVariantWindow | kVariantChunk | kVariantSinks | kVariantVisible | kVariantBlockMask;
/// Everything, by the portable kernels: combinations are rare, and single pairs' bias and dropout cost more there than what Hopper could save.
inline constexpr uint32_t kSm90PairVariants = kSm90AlibiVariants | kSm90SoftcapVariants | kVariantBias | kVariantVisible | kVariantBlockMask | kVariantDropout;

/// Cheapest first: a problem takes the first set that holds its variants. Index 0 is the plain kernel.
inline constexpr uint32_t kSm90ScoreSets[] = {
    0, kSm90RangeVariants, kSm90AlibiVariants, kSm90SoftcapVariants, kSm90BiasVariants, kSm90MaskVariants, kSm90PairVariants};
inline constexpr const char* kSm90ScoreNames[] = {"", "_range", "_alibi", "_softcap", "_bias", "_mask", "_pairs"};
inline constexpr int kNumSm90ScoreSets = sizeof(kSm90ScoreSets) / sizeof(kSm90ScoreSets[0]);

inline constexpr int kSm90BiasSet = kNumSm90ScoreSets - 3;
inline constexpr int kSm90MaskSet = kNumSm90ScoreSets - 2;
inline constexpr int kSm90PairSet = kNumSm90ScoreSets - 1;

/// Index of the set for these variants; -1 if none holds them.
inline constexpr int sm90_score_set_of(uint32_t variants) {
  for (int i = 0; i < kNumSm90ScoreSets; ++i) {
    if ((variants & ~kSm90ScoreSets[i]) == 0) {
      return i;
    }
  }
  return -1;
}

}  // namespace fa
