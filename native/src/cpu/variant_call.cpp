#include "cpu/variant_call.h"

#include <algorithm>

namespace fa::cpu {
namespace {

/// First place, end of the places, first used position and used length of a sequence in one of the tensors.
struct Extent {
  int64_t place, place_end, begin, len;
};

Extent extent_of(const SequenceShape& shape, int64_t index, int64_t length, const int32_t* offsets, const int32_t* used) {
  Extent e{0, length, 0, length};
  if (shape.packed) {
    e.place = offsets[index];
    e.place_end = offsets[index + 1];
  }
  e.len = used == nullptr ? e.place_end - e.place : used[index];
  e.begin = shape.left_padded ? e.place_end - e.len : e.place;
  return e;
}

PairRows pair_rows(const PairTensor& tensor, int64_t batch, int64_t head, int bytes) {
  if (tensor.data == nullptr) return {nullptr, 0};
  return {static_cast<const char*>(tensor.data) + (batch * tensor.batch_stride + head * tensor.head_stride) * bytes, tensor.row_stride * bytes};
}

}  // namespace

Sequences read_sequences(const Problem& problem, const VariantArgs& args, const CpuTiles& tiles, int64_t heads, void* sequences, void* order) {
  CpuSequence* const by_batch = static_cast<CpuSequence*>(sequences);
  CpuSequenceTasks* const tasks = static_cast<CpuSequenceTasks*>(order);
  const SequenceShape& shape = problem.variants.sequences;
  const int64_t count = problem.num_sequences();
  int64_t key_tiles = 0;
  for (int64_t i = 0; i < count; ++i) {
    const Extent q = extent_of(shape, i, problem.len_q, args.cu_seqlens_q, args.seqused_q);
    const Extent kv = extent_of(shape, i, problem.len_kv, args.cu_seqlens_kv, args.seqused_kv);
    by_batch[i] = {shape.packed ? 0 : i, q.place, q.place_end, q.begin, q.len, kv.place, kv.place_end, kv.begin, kv.len, key_tiles};
    key_tiles += tiles_of(kv.len, tiles.tile_kv);
    tasks[i] = {i, 0};
  }
  const auto work = [&](const CpuSequenceTasks& each) {
    const CpuSequence& s = by_batch[each.sequence];
    return static_cast<double>(s.len_q) * static_cast<double>(s.len_kv);
  };
  std::sort(tasks, tasks + count, [&](const CpuSequenceTasks& a, const CpuSequenceTasks& b) {
    const double work_a = work(a), work_b = work(b);
    return work_a != work_b ? work_a > work_b : a.sequence < b.sequence;
  });
  int64_t first_task = 0;
  for (int64_t i = 0; i < count; ++i) {
    tasks[i].first_task = first_task;
    first_task += heads * tiles_of(by_batch[tasks[i].sequence].len_q, tiles.tile_q);
  }
  tasks[count] = {count, first_task};
  return {by_batch, tasks, count};
}

SequenceTask find_task(const Sequences& sequences, int64_t task) {
  const CpuSequenceTasks* const after = std::upper_bound(sequences.order, sequences.order + sequences.count, task,
                                                         [](int64_t value, const CpuSequenceTasks& each) { return value < each.first_task; });
  return {after[-1].sequence, task - after[-1].first_task};
}

VisibleRange visible_range(const Problem& problem, const CpuSequence& sequence) {
  const Variants& v = problem.variants;
  const bool window = problem.mask == Mask::kWindowTopLeft || problem.mask == Mask::kWindowBottomRight;
  VisibleRange range;
  range.reach_left = window && v.window_left >= 0 ? v.window_left : VisibleRange::kUnbounded;
  range.reach_right = problem.is_causal() ? 0 : window && v.window_right >= 0 ? v.window_right : VisibleRange::kUnbounded;
  range.chunk = v.chunk;
  range.len_kv = sequence.len_kv;
  return range;
}

VariantTile make_variant_tile(const Problem& problem, const VariantArgs& args, const Sequences& sequences, int64_t sequence, int64_t head, int64_t first_query,
                              const VariantScratch& scratch) {
  const Variants& variants = problem.variants;
  const CpuSequence& s = sequences.by_batch[sequence];
  VariantTile v;
  v.range = visible_range(problem, s);
  v.first_query = first_query;
  v.first_position = first_query + position_offset(problem, s);
  v.softcap = variants.softcap;
  v.slope = args.alibi_slopes == nullptr ? 0.0f : args.alibi_slopes[sequence * args.alibi_batch_stride + head];
  v.bias_element = element_of(variants.bias_dtype);
  v.bias = pair_rows(args.bias, sequence, head, dtype_bytes(variants.bias_dtype));
  v.visible = pair_rows(args.visible, sequence, head, 1);
  v.blocks = pair_rows(args.block_mask, sequence, head, 1);
  v.block_q = variants.block_q;
  v.block_kv = variants.block_kv;
  v.has_dropout = variants.dropout.probability > 0.0f;
  v.dropout = {variants.dropout.seed, variants.dropout.offset, static_cast<uint32_t>(sequence * problem.heads_q + head), variants.dropout.threshold(),
               variants.dropout.keep_scale()};
  v.has_sink = args.sinks != nullptr;
  v.sink = v.has_sink ? args.sinks[head] : 0.0f;
  v.bias_only = false;
  v.scratch = scratch;
  return v;
}

void clear_gap(const Tensor& tensor, DType dtype, int64_t heads, int64_t width, const Gap& gap) {
  for (int64_t head = 0; head < heads && gap.begin < gap.end; ++head) {
    const OutputRows rows = output_rows_of(tensor, dtype, gap.batch, head, gap.begin);
    kernels().write_rows(element_of(dtype), rows, nullptr, 0, gap.end - gap.begin, static_cast<int>(width), 0.0f);
  }
}

}  // namespace fa::cpu
