#include "cpu/kernels/variant_panel.h"

#include <math.h>

#include "cpu/kernels/philox.h"
#include "cpu/kernels/rows.h"

namespace fa::cpu::FA_CPU_TARGET {
namespace {

constexpr int kPanel = kBlockVecs * kLanes;

enum class Blocks { kHidden, kMixed, kVisible };

int row_in_tile(KeyTile keys, int64_t key) {
  return static_cast<int>(max_int64(0, min_int64(keys.count, key - keys.begin)));
}

/// What the block mask says of queries [first, first + count) of the sequence and keys [key_begin, key_end).
Blocks blocks_of(const VariantTile& v, int64_t first, int count, int64_t key_begin, int64_t key_end) {
  if (v.blocks.data == nullptr) return Blocks::kVisible;
  bool hidden = false, visible = false;
  for (int64_t row = first / v.block_q; row <= (first + count - 1) / v.block_q; ++row)
    for (int64_t column = key_begin / v.block_kv; column <= (key_end - 1) / v.block_kv; ++column)
      (v.blocks.data[row * v.blocks.stride_bytes + column] != 0 ? visible : hidden) = true;
  return !visible ? Blocks::kHidden : hidden ? Blocks::kMixed : Blocks::kVisible;
}

int element_bytes(Element element) {
  return element == Element::kFloat32 ? 4 : 2;
}

/// Bias of one query at keys [key, key + count), -infinity where `visible` or the block mask hides the pair.
void fill_lane_row(const VariantTile& v, int64_t query, int64_t key, int count, bool mixed_blocks, float* row) {
  if (v.bias.data != nullptr) {
    const Rows source{v.bias.data + query * v.bias.stride_bytes + key * element_bytes(v.bias_element), 0};
    read_rows(v.bias_element, source, 0, 1, count, row, v.scratch.ld_rows);
  } else {
    for (int c = 0; c < count; ++c) row[c] = 0.0f;
  }
  if (v.visible.data != nullptr) {
    const char* const visible = v.visible.data + query * v.visible.stride_bytes + key;
    for (int c = 0; c < count; ++c) row[c] = visible[c] != 0 ? row[c] : -INFINITY;
  }
  if (mixed_blocks) {
    const char* const blocks = v.blocks.data + query / v.block_q * v.blocks.stride_bytes;
    for (int c = 0; c < count; ++c) row[c] = blocks[(key + c) / v.block_kv] != 0 ? row[c] : -INFINITY;
  }
}

/// Rows [begin, end) of `extra` from bias, visible and a mixed block mask.
void fill_from_tensors(const VariantTile& v, KeyTile keys, int first_lane, int lanes, int begin, int end, bool mixed_blocks, float* extra, int ld_extra) {
  const VariantScratch& s = v.scratch;
  const int64_t query = v.first_query + first_lane, key = keys.begin + begin;
  const bool alike = !mixed_blocks && (v.bias.data == nullptr || v.bias.stride_bytes == 0) && (v.visible.data == nullptr || v.visible.stride_bytes == 0);
  const int count = end - begin;
  if (alike) {
    fill_lane_row(v, query, key, count, false, s.lane_rows);
    for (int r = 0; r < count; ++r)
      for (int at = 0; at < kPanel; at += kLanes) store(extra + static_cast<int64_t>(begin + r) * ld_extra + at, set1(s.lane_rows[r]));
    return;
  }
  for (int lane = 0; lane < lanes; ++lane) fill_lane_row(v, query + lane, key, count, mixed_blocks, s.lane_rows + static_cast<int64_t>(lane) * s.ld_rows);
  for (int lane = 0; lane < kPanel; lane += kLanes)
    for (int c = 0; c < count; c += kLanes) {
      const float* const source = s.lane_rows + static_cast<int64_t>(lane) * s.ld_rows + c;
      transpose_block(source, s.ld_rows, extra + static_cast<int64_t>(begin + c) * ld_extra + lane, ld_extra);
    }
}

void add_alibi(const VariantTile& v, KeyTile keys, int first_lane, int begin, int end, float* extra, int ld_extra) {
  const Vec slope = set1(v.slope), hidden = set1(-INFINITY);
  for (int r = begin; r < end; ++r) {
    const float first = static_cast<float>(v.first_position + first_lane - keys.begin - r);
    for (int at = 0; at < kPanel; at += kLanes) {
      float* const p = extra + static_cast<int64_t>(r) * ld_extra + at;
      const Vec difference = add(lane_index(), set1(first + static_cast<float>(at)));
      const Vec distance = max_keep_nan(difference, sub(zero(), difference));
      const Vec old = load(p);
      store(p, select_ge(hidden, old, old, fnma(slope, distance, old)));
    }
  }
}

/// Hides the pairs of one key that window and chunk hide, and lanes from `lanes` on.
void hide_outside(const VariantTile& v, int64_t key, int64_t first_position, int lanes, float* extra) {
  int64_t first = key - v.range.reach_right - first_position, last = key + v.range.reach_left - first_position;
  if (v.range.chunk > 0) {
    const int64_t start = chunk_start(key, v.range.chunk) - first_position;
    first = max_int64(first, start);
    last = min_int64(last, start + v.range.chunk - 1);
  }
  const Vec first_lane = set1(static_cast<float>(max_int64(-1, min_int64(first, kPanel))));
  const Vec last_lane = set1(static_cast<float>(max_int64(-1, min_int64(last, lanes - 1))));
  const Vec hidden = set1(-INFINITY);
  for (int at = 0; at < kPanel; at += kLanes) {
    const Vec lane = add(lane_index(), set1(static_cast<float>(at)));
    const Vec from_first = select_ge(lane, first_lane, load(extra + at), hidden);
    store(extra + at, select_ge(last_lane, lane, from_first, hidden));
  }
}

bool any_visible(int begin, int end, const float* extra, int ld_extra) {
  Vec largest = set1(-INFINITY);
  for (int r = begin; r < end; ++r)
    for (int at = 0; at < kPanel; at += kLanes) largest = max_keep_nan(load(extra + static_cast<int64_t>(r) * ld_extra + at), largest);
  float lanes[kLanes];
  store(lanes, largest);
  for (int i = 0; i < kLanes; ++i)
    if (!(lanes[i] == -INFINITY)) return true;
  return false;
}

}  // namespace

bool blocks_visible(const VariantTile& v, KeyTile keys, int num_queries) {
  return blocks_of(v, v.first_query, num_queries, keys.begin, keys.begin + keys.count) != Blocks::kHidden;
}

PanelView prepare_panel(const VariantTile& v, KeyTile keys, int first_lane, int lanes, float* extra, int ld_extra) {
  constexpr PanelView kNothing{0, 0, false};
  const int64_t first_position = v.first_position + first_lane, last_position = first_position + lanes - 1;
  const int begin = row_in_tile(keys, visible_begin(v.range, first_position)), end = row_in_tile(keys, visible_end(v.range, last_position));
  if (begin >= end) return kNothing;
  const Blocks blocks = blocks_of(v, v.first_query + first_lane, lanes, keys.begin + begin, keys.begin + end);
  if (blocks == Blocks::kHidden) return kNothing;
  // Every query of the panel sees rows [full_begin, full_end) as far as window and chunk go.
  const int full_begin = row_in_tile(keys, visible_begin(v.range, last_position)), full_end = row_in_tile(keys, visible_end(v.range, first_position));
  const bool mixed_blocks = blocks == Blocks::kMixed;
  const bool from_tensors = v.bias.data != nullptr || v.visible.data != nullptr || mixed_blocks;
  const bool cut = full_begin > begin || full_end < end;
  if (!from_tensors && !cut && v.slope == 0.0f) return {begin, end, false};

  if (from_tensors) {
    fill_from_tensors(v, keys, first_lane, lanes, begin, end, mixed_blocks, extra, ld_extra);
  } else {
    for (int r = begin; r < end; ++r)
      for (int at = 0; at < kPanel; at += kLanes) store(extra + static_cast<int64_t>(r) * ld_extra + at, zero());
  }
  if (v.slope != 0.0f) add_alibi(v, keys, first_lane, begin, end, extra, ld_extra);
  for (int r = begin; r < end; ++r)
    if (r < full_begin || r >= full_end || lanes < kPanel) hide_outside(v, keys.begin + r, first_position, lanes, extra + static_cast<int64_t>(r) * ld_extra);
  if (from_tensors && !any_visible(begin, end, extra, ld_extra)) return kNothing;
  return {begin, end, true};
}

void prepare_keep(const VariantTile& v, KeyTile keys, int first_lane, PanelView view) {
  const uint32_t threshold = v.dropout.threshold;
  const float keep_scale = v.dropout.keep_scale;
  for (int r = view.begin / 4 * 4; r < view.end; r += 4) {
    PhiloxBlock block;
    for (int lane = 0; lane < kPanel; ++lane) {
      block.word[0][lane] = static_cast<uint32_t>((keys.begin + r) / 4);
      block.word[1][lane] = static_cast<uint32_t>(v.first_query + first_lane + lane);
      block.word[2][lane] = v.dropout.head;
      block.word[3][lane] = v.dropout.offset;
    }
    philox(&block, v.dropout.seed);
    for (int word = 0; word < 4; ++word) {
      float* const keep = v.scratch.keep + (r + word) * kPanel;
      for (int lane = 0; lane < kPanel; ++lane) keep[lane] = block.word[word][lane] >= threshold ? keep_scale : 0.0f;
    }
  }
}

}  // namespace fa::cpu::FA_CPU_TARGET
