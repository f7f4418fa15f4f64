// One row of the dropout mask as bytes.
#include "cpu/kernels/dropout_row.h"

#include "cpu/kernels/philox.h"

namespace fa::cpu::FA_CPU_TARGET {

void dropout_row(const DropoutKey& key, uint32_t query, int64_t keys, uint8_t* kept) {
  for (int64_t begin = 0; begin < keys; begin += 4 * kPhiloxLanes) {
    PhiloxBlock block;
    for (int lane = 0; lane < kPhiloxLanes; ++lane) {
      block.word[0][lane] = static_cast<uint32_t>(begin / 4 + lane);
      block.word[1][lane] = query;
      block.word[2][lane] = key.head;
      block.word[3][lane] = key.offset;
    }
    philox(&block, key.seed);
    const int64_t count = min_int64(4 * kPhiloxLanes, keys - begin);
    for (int64_t j = 0; j < count; ++j) kept[begin + j] = block.word[j % 4][j / 4] >= key.threshold;
  }
}

}  // namespace fa::cpu::FA_CPU_TARGET
