// Counter-based random bits of dropout.
#pragma once

#include <cstdint>

namespace fa {

/// Philox4x32-10 (Salmon et al., 2011) as fa_attention_dropout_mask describes it, of several counters at once: counters become words.
template <int kCount>
__device__ __forceinline__ void philox(uint32_t (&c)[kCount][4], uint64_t seed) {
  uint32_t key0 = static_cast<uint32_t>(seed), key1 = static_cast<uint32_t>(seed >> 32);
#pragma unroll 1
  for (int round = 0; round < 10; ++round) {
#pragma unroll
    for (int n = 0; n < kCount; ++n) {
      const uint64_t product0 = uint64_t{0xD2511F53u} * c[n][0], product1 = uint64_t{0xCD9E8D57u} * c[n][2];
      c[n][0] = static_cast<uint32_t>(product1 >> 32) ^ c[n][1] ^ key0;
      c[n][1] = static_cast<uint32_t>(product1);
      c[n][2] = static_cast<uint32_t>(product0 >> 32) ^ c[n][3] ^ key1;
      c[n][3] = static_cast<uint32_t>(product0);
    }
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
}

/// The four words of a counter.
struct PhiloxWords {
  uint32_t word[4];
};

/// Of keys 4 * quad … 4 * quad + 3 of a row. head_index: batch * heads_q + head.
__device__ __forceinline__ PhiloxWords philox(uint64_t seed, uint32_t offset, uint32_t head_index, uint32_t row, uint32_t quad) {
  uint32_t c[1][4] = {{quad, row, head_index, offset}};
  philox(c, seed);
  return {{c[0][0], c[0][1], c[0][2], c[0][3]}};
}

}  // namespace fa
