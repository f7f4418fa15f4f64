// What every sm80 kernel must know of a problem, in the types it computes with.
#pragma once

#include <algorithm>
#include <cstdint>

#include "attention/fast_divisor.h"
#include "plan/problem.h"

namespace fa::sm80 {

struct Shape {
  int len_q, len_kv;
  int seen_len_kv;  ///< keys that some query sees: with a causal mask those behind the last query's are seen by none, nor by the rows that pad the last tile
  int heads_q, heads_kv;
  int group_size;  ///< query heads per key/value head
  FastDivisor by_group_size;
  int head_dim, head_dim_v;
  int causal_offset;  ///< query i sees key j iff j <= i + causal_offset, if causal
  bool causal;
  bool aligned;      ///< rows of every tensor can be moved in pieces of 16 bytes
  float scale;       ///< on q*k
  float scale_log2;  ///< scale * log2(e)
};

inline constexpr float kLog2E = 1.4426950408889634f;

inline Shape shape_of(const Problem& problem) {
  Shape shape{};
  shape.len_q = static_cast<int>(problem.len_q);
  shape.len_kv = static_cast<int>(problem.len_kv);
  shape.seen_len_kv = static_cast<int>(problem.is_causal() ? std::clamp<int64_t>(problem.len_q + problem.causal_offset(), 0, problem.len_kv) : problem.len_kv);
  shape.heads_q = static_cast<int>(problem.heads_q);
  shape.heads_kv = static_cast<int>(problem.heads_kv);
  shape.group_size = static_cast<int>(problem.group_size());
  shape.by_group_size = FastDivisor(problem.group_size());
  shape.head_dim = static_cast<int>(problem.head_dim);
  shape.head_dim_v = static_cast<int>(problem.head_dim_v);
  shape.causal_offset = static_cast<int>(problem.causal_offset());
  shape.causal = problem.is_causal();
  shape.aligned = problem.aligned_16_bytes;
  shape.scale = problem.scale;
  shape.scale_log2 = problem.scale * kLog2E;
  return shape;
}

}  // namespace fa::sm80
