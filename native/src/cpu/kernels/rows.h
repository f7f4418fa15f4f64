// Moving rows between the caller's tensors (fp32, fp16, bf16; any row stride) and fp32 scratch.
#pragma once

#include "cpu/kernels/kernels.h"
#include "cpu/kernels/vec.h"

namespace fa::cpu::FA_CPU_TARGET {

template <Element kElement>
FA_INLINE Vec load_elements(const char* source) {
  if constexpr (kElement == Element::kFloat32) return load(reinterpret_cast<const float*>(source));
  if constexpr (kElement == Element::kFloat16) return load_f16(reinterpret_cast<const uint16_t*>(source));
  if constexpr (kElement == Element::kBFloat16) return load_bf16(reinterpret_cast<const uint16_t*>(source));
}

template <Element kElement>
FA_INLINE void store_elements(char* target, Vec value) {
  if constexpr (kElement == Element::kFloat32) store(reinterpret_cast<float*>(target), value);
  if constexpr (kElement == Element::kFloat16) store_f16(reinterpret_cast<uint16_t*>(target), value);
  if constexpr (kElement == Element::kBFloat16) store_bf16(reinterpret_cast<uint16_t*>(target), value);
}

template <Element kElement>
inline constexpr int kElementBytes = kElement == Element::kFloat32 ? 4 : 2;

/// Rows of one head lie heads * head_dim apart, often each on a page of its own, where hardware prefetchers do not follow: reading asks for this many rows
/// ahead.
inline constexpr int kRowsAhead = 8;

template <Element kElement>
void read_rows_of(Rows source, int64_t first, int rows, int width, float* target, int ld) {
  constexpr int kBytes = kElementBytes<kElement>;
  const int whole = width / kLanes * kLanes;
  for (int r = 0; r < rows; ++r) {
    const char* from = source.data + (first + r) * source.stride_bytes;
    float* to = target + static_cast<int64_t>(r) * ld;
    if (r + kRowsAhead < rows) {
      const char* const ahead = from + kRowsAhead * source.stride_bytes;
      for (int offset = 0; offset < width * kBytes; offset += 64) prefetch(ahead + offset);
    }
    int c = 0;
    for (; c < whole; c += kLanes) store(to + c, load_elements<kElement>(from + c * kBytes));
    if (c < width) {
      char last[kLanes * 4] = {};
      memcpy(last, from + c * kBytes, static_cast<size_t>((width - c) * kBytes));
      store(to + c, load_elements<kElement>(last));
    }
  }
}

/// Rows [first, first + rows) of `source`, widened to fp32; columns from width to the next multiple of kLanes become 0.
inline void read_rows(Element element, Rows source, int64_t first, int rows, int width, float* target, int ld) {
  switch (element) {
    case Element::kFloat32:
      return read_rows_of<Element::kFloat32>(source, first, rows, width, target, ld);
    case Element::kFloat16:
      return read_rows_of<Element::kFloat16>(source, first, rows, width, target, ld);
    case Element::kBFloat16:
      return read_rows_of<Element::kBFloat16>(source, first, rows, width, target, ld);
  }
}

template <Element kElement>
void write_rows_of(OutputRows target, const float* source, int64_t ld, int64_t rows, int width, float factor) {
  constexpr int kBytes = kElementBytes<kElement>;
  const int whole = width / kLanes * kLanes;
  const Vec factor_vec = set1(factor);
  for (int64_t r = 0; r < rows; ++r) {
    const float* from = source == nullptr ? nullptr : source + r * ld;
    char* to = target.data + r * target.stride_bytes;
    int c = 0;
    for (; c < whole; c += kLanes) store_elements<kElement>(to + c * kBytes, from == nullptr ? zero() : mul(load(from + c), factor_vec));
    if (c < width) {
      char last[kLanes * 4];
      store_elements<kElement>(last, from == nullptr ? zero() : mul(load(from + c), factor_vec));
      memcpy(to + c * kBytes, last, static_cast<size_t>((width - c) * kBytes));
    }
  }
}

inline void write_rows(Element element, OutputRows target, const float* source, int64_t ld, int64_t rows, int width, float factor) {
  switch (element) {
    case Element::kFloat32:
      return write_rows_of<Element::kFloat32>(target, source, ld, rows, width, factor);
    case Element::kFloat16:
      return write_rows_of<Element::kFloat16>(target, source, ld, rows, width, factor);
    case Element::kBFloat16:
      return write_rows_of<Element::kBFloat16>(target, source, ld, rows, width, factor);
  }
}

/// panel[c][lane] = rows[lane][c] for kPanel rows of `ld` floats; c up to width rounded up to kLanes.
inline void rows_to_panel(const float* rows, int ld, int width, int panel_lanes, float* panel) {
  for (int lane = 0; lane < panel_lanes; lane += kLanes)
    for (int c = 0; c < width; c += kLanes) transpose_block(rows + static_cast<int64_t>(lane) * ld + c, ld, panel + c * panel_lanes + lane, panel_lanes);
}

/// The inverse of rows_to_panel; reads panel rows up to width rounded up to kLanes.
inline void panel_to_rows(const float* panel, int panel_lanes, int width, float* rows, int ld) {
  for (int lane = 0; lane < panel_lanes; lane += kLanes)
    for (int c = 0; c < width; c += kLanes) transpose_block(panel + c * panel_lanes + lane, panel_lanes, rows + static_cast<int64_t>(lane) * ld + c, ld);
}

inline void zero_rows(float* rows, int count, int ld) {
  memset(rows, 0, sizeof(float) * static_cast<size_t>(count) * static_cast<size_t>(ld));
}

/// False if some element is infinite or NaN: 0 * x is NaN for those and only for those. Width is rounded up to kLanes.
inline bool all_finite(const float* rows, int count, int width, int ld) {
  Vec probe = zero();
  for (int r = 0; r < count; ++r)
    for (int c = 0; c < width; c += kLanes) probe = fma(load(rows + static_cast<int64_t>(r) * ld + c), zero(), probe);
  float lanes[kLanes];
  store(lanes, probe);
  for (int i = 0; i < kLanes; ++i)
    if (!(lanes[i] == 0.0f)) return false;
  return true;
}

}  // namespace fa::cpu::FA_CPU_TARGET
