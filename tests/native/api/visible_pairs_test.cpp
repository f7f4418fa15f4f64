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

TEST(VisiblePairs, OfWindowsAndChunksAgreeWithCounting) {
  for (const fa::Mask mask : {fa::Mask::kNone, fa::Mask::kCausalBottomRight, fa::Mask::kWindowTopLeft, fa::Mask::kWindowBottomRight}) {
    const bool window = mask == fa::Mask::kWindowTopLeft || mask == fa::Mask::kWindowBottomRight;
    for (int64_t reach = 0; reach < (window ? 16 : 1); ++reach) {
      for (const int64_t chunk : {0, 1, 2, 3, 5, 20}) {
        for (int64_t len_q = 0; len_q <= 11; ++len_q) {
          for (int64_t len_kv = 0; len_kv <= 11; ++len_kv) {
            fa::Problem problem;
            problem.mask = mask;
            problem.len_q = len_q;
            problem.len_kv = len_kv;
            problem.variants.window_left = window ? reach % 4 * 2 - 1 : -1;
            problem.variants.window_right = window ? reach / 4 * 2 - 1 : -1;
            problem.variants.chunk = chunk;
            const int64_t left = problem.variants.window_left, right = mask == fa::Mask::kCausalBottomRight ? 0 : problem.variants.window_right;
            int64_t counted = 0;
            for (int64_t i = 0; i < len_q; ++i) {
              const int64_t position = i + (problem.bottom_right() ? len_kv - len_q : 0);
              for (int64_t j = 0; j < len_kv; ++j) {
                const bool in_window = (left < 0 || j >= position - left) && (right < 0 || j <= position + right);
                counted += in_window && (chunk == 0 || (position >= 0 && position / chunk == j / chunk));
              }
            }
            EXPECT_EQ(problem.visible_pairs_per_head(), static_cast<double>(counted))
                << fa::mask_name(mask) << " " << len_q << " x " << len_kv << " left " << left << " right " << right << " chunk " << chunk;
          }
        }
      }
    }
  }
}

}  // namespace
