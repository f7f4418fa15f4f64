// The overlap tests against enumeration of every byte, on random small boxes and on the layouts that callers use.
#include "api/overlap.h"

#include <gtest/gtest.h>

#include <random>
#include <unordered_map>

namespace {

using fa::api::Box;

/// How often each byte is reached.
std::unordered_map<int64_t, int> bytes_of(const Box& box) {
  std::unordered_map<int64_t, int> count;
  for (int64_t i = 0; i < box.sizes[0]; ++i) {
    for (int64_t j = 0; j < box.sizes[1]; ++j) {
      for (int64_t k = 0; k < box.sizes[2]; ++k) {
        for (int64_t l = 0; l < box.sizes[3]; ++l) {
          const int64_t at =
              static_cast<int64_t>(box.base) + i * box.stride_bytes[0] + j * box.stride_bytes[1] + k * box.stride_bytes[2] + l * box.stride_bytes[3];
          for (int64_t byte = 0; byte < box.element_bytes; ++byte) {
            ++count[at + byte];
          }
        }
      }
    }
  }
  return count;
}

Box random_box(std::mt19937& random) {
  Box box;
  box.base = 1000 + 2 * (random() % 60);
  box.element_bytes = random() % 2 ? 2 : 4;
  for (int i = 0; i < Box::kRank; ++i) {
    box.sizes[i] = random() % 16 ? 1 + random() % 3 : 0;
    const int64_t stride = i == 3 ? 1 : random() % 20;
    box.stride_bytes[i] = box.sizes[i] > 1 ? stride * box.element_bytes : 0;
  }
  return box;
}

/// (batch, sequence, heads, dim) slice of a buffer whose rows hold `row` elements, starting `offset` elements into it.
Box slice(int64_t batch, int64_t seq, int64_t heads, int64_t dim, int64_t row, int64_t offset) {
  Box box;
  box.element_bytes = 2;
  box.base = static_cast<uintptr_t>(4096 + 2 * offset);
  const int64_t sizes[] = {batch, seq, heads, dim}, strides[] = {seq * row, row, dim, 1};
  for (int i = 0; i < Box::kRank; ++i) {
    box.sizes[i] = sizes[i];
    box.stride_bytes[i] = 2 * strides[i];
  }
  return box;
}

TEST(Overlap, AgreesWithEnumerationOnRandomBoxes) {
  std::mt19937 random(20240607);
  int overlapping = 0, self_overlapping = 0;
  for (int round = 0; round < 5000; ++round) {
    const Box a = random_box(random), b = random_box(random);
    const auto bytes_a = bytes_of(a), bytes_b = bytes_of(b);
    bool expected = false, expected_self = false;
    for (const auto& [byte, count] : bytes_a) {
      expected = expected || bytes_b.count(byte) != 0;
      expected_self = expected_self || count > 1;
    }
    ASSERT_EQ(fa::api::overlaps(a, b), expected) << "round " << round;
    ASSERT_EQ(fa::api::overlaps(b, a), expected) << "round " << round;
    ASSERT_EQ(fa::api::overlaps_itself(a), expected_self) << "round " << round;
    overlapping += expected;
    self_overlapping += expected_self;
  }
  // The sample must hold both answers in number.
  EXPECT_GT(overlapping, 500);
  EXPECT_LT(overlapping, 4500);
  EXPECT_GT(self_overlapping, 500);
}

TEST(Overlap, SlicesOfPackedQkvAreApart) {
  const int64_t heads = 16, dim = 64, row = 3 * heads * dim;
  const Box q = slice(4, 4096, heads, dim, row, 0), k = slice(4, 4096, heads, dim, row, heads * dim), v = slice(4, 4096, heads, dim, row, 2 * heads * dim);
  EXPECT_FALSE(fa::api::overlaps(q, k));
  EXPECT_FALSE(fa::api::overlaps(k, v));
  EXPECT_FALSE(fa::api::overlaps(q, v));
  EXPECT_FALSE(fa::api::overlaps_itself(q));
  EXPECT_TRUE(fa::api::overlaps(q, slice(4, 4096, heads, dim, row, heads * dim - 1)));
  EXPECT_TRUE(fa::api::overlaps(q, q));
}

TEST(Overlap, BroadcastOutputsReachAnElementTwice) {
  Box box = slice(2, 128, 4, 64, 256, 0);
  EXPECT_FALSE(fa::api::overlaps_itself(box));
  box.stride_bytes[0] = 0;
  EXPECT_TRUE(fa::api::overlaps_itself(box));
}

TEST(Overlap, EmptyBoxesOverlapNothing) {
  const Box full = slice(1, 8, 1, 8, 8, 0), empty = slice(1, 0, 1, 8, 8, 0);
  EXPECT_FALSE(fa::api::overlaps(full, empty));
  EXPECT_FALSE(fa::api::overlaps_itself(empty));
  EXPECT_FALSE(fa::api::overlaps(full, fa::api::byte_range(nullptr, 0)));
}

}  // namespace
