// Grid arithmetic of the passes around the main kernel.
#pragma once

namespace fa::sm80 {

inline constexpr int kPassThreads = 256;

/// Prepare kernel: lanes that share a row of up to padded_dim elements, 8 each at a time.
constexpr int lanes_per_row(int padded_dim) {
  return padded_dim <= 64 ? 8 : padded_dim <= 128 ? 16 : 32;
}

}  // namespace fa::sm80
