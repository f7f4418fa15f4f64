// The closed form of the number of visible (query, key) pairs against counting.
#include <gtest/gtest.h>

#include "plan/problem.h"

namespace {

TEST(VisiblePairs, AgreeWithCounting) {
  for (const fa::Mask mask : {fa::Mask::kNone, fa::Mask::kCausalTopLeft, fa::Mask::kCausalBottomRight}) {
    for (int64_t len_q = 0; len_q <= 9; ++len_q) {
      for (int64_t len_kv = 0; len_kv <= 9; ++len_kv) {
        fa::Problem problem;
        problem.mask = mask;
        problem.len_q = len_q;
        problem.len_kv = len_kv;
        int64_t counted = 0;
        for (int64_t i = 0; i < len_q; ++i) {
          for (int64_t j = 0; j < len_kv; ++j) {
            counted += mask == fa::Mask::kNone || j <= i + (mask == fa::Mask::kCausalBottomRight ? len_kv - len_q : 0);
          }
        }
        EXPECT_EQ(problem.visible_pairs_per_head(), static_cast<double>(counted)) << fa::mask_name(mask) << " " << len_q << " x " << len_kv;
      }
    }
  }
}

}  // namespace
