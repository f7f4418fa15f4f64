// Counter-based random bits of dropout.
#pragma once

#include <cstdint>

namespace fa {

/// The four words of a counter.
struct PhiloxWords {
  uint32_t word[4];
};

/// Philox4x32-10 (Salmon et al., 2011) as fa_attention_dropout_mask describes it: keys 4 * quad … 4 * quad + 3 of a row. head_index: batch * heads_q + head.
__device__ __forceinline__ PhiloxWords philox(uint64_t seed, uint32_t offset, uint32_t head_index, uint32_t row, uint32_t quad) {
  uint32_t c0 = quad, c1 = row, c2 = head_index, c3 = offset;
  uint32_t key0 = static_cast<uint32_t>(seed), key1 = static_cast<uint32_t>(seed >> 32);
#pragma unroll 1
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = uint64_t{0xD2511F53u} * c0, product1 = uint64_t{0xCD9E8D57u} * c2;
    c0 = static_cast<uint32_t>(product1 >> 32) ^ c1 ^ key0;
    c1 = static_cast<uint32_t>(product1);
    c2 = static_cast<uint32_t>(product0 >> 32) ^ c3 ^ key1;
    c3 = static_cast<uint32_t>(product0);
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

}  // namespace fa
