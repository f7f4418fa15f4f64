// What the CPU computes beside attention: the dropout mask, and the merge of partial results. Rows are independent, so results do not depend on threads.
#include <algorithm>
#include <cmath>
#include <limits>

#include "cpu/instruction_set.h"
#include "cpu/tasks.h"
#include "cpu/tensor_rows.h"
#include "dispatch/dispatch.h"
#include "runtime/backend.h"

namespace fa {
namespace {

using namespace cpu;

/// Rows that a task works on, and columns that it widens at a time: 4 KiB of stack for two blocks of rows.
constexpr int64_t kRowsPerTask = 256;
constexpr int kColumns = 512;

/// Calls row(r) for r in [0, rows) on all threads.
template <class Row>
void for_rows(int64_t rows, const Row& row) {
  const int64_t num_tasks = rows / kRowsPerTask + (rows % kRowsPerTask != 0);
  run_tasks(
      static_cast<int>(std::min<int64_t>(cpu_num_threads(), rows / kRowsPerTask + 1)), num_tasks, [](int) { return 0; },
      [&](int64_t task, int) {
        for (int64_t r = task * kRowsPerTask; r < std::min(rows, (task + 1) * kRowsPerTask); ++r) row(r);
      });
}

/// One (batch, query, head) of a merge; `lse_index` is where its lse lies.
struct MergeRow {
  int64_t batch, query, head, lse_index;
};

MergeRow merge_row(const MergeArgs& args, int64_t r) {
  const int64_t query = r % args.len_q, head = r / args.len_q % args.heads_q, batch = r / args.len_q / args.heads_q;
  return {batch, query, head, r};
}

void read_columns(const Tensor& tensor, DType dtype, const MergeRow& row, int64_t column, int count, float* target) {
  const char* const at = row_address(tensor, dtype, row.batch, row.head, row.query) + column * dtype_bytes(dtype);
  kernels().read_rows(element_of(dtype), {at, 0}, 0, 1, count, target, 0);
}

void write_columns(const Tensor& tensor, DType dtype, const MergeRow& row, int64_t column, int count, const float* source) {
  char* const at = row_address(tensor, dtype, row.batch, row.head, row.query) + column * dtype_bytes(dtype);
  kernels().write_rows(element_of(dtype), {at, 0}, source, 0, 1, count, 1.0f);
}

/// log(sum(exp(part_lse))) of a row, -infinity where all are.
double merged_lse(const MergeArgs& args, int64_t at) {
  double largest = -std::numeric_limits<double>::infinity(), sum = 0;
  bool has_nan = false;
  for (int part = 0; part < args.parts; ++part) {
    has_nan = has_nan || std::isnan(args.part_lse[part][at]);
    largest = std::max<double>(largest, args.part_lse[part][at]);
  }
  if (has_nan) return std::numeric_limits<double>::quiet_NaN();
  if (std::isinf(largest)) return largest;
  for (int part = 0; part < args.parts; ++part) sum += std::exp(args.part_lse[part][at] - largest);
  return largest + std::log(sum);
}

/// Share of a part in a row. A part without a visible key has none, and its o is not looked at.
bool part_weight(const MergeArgs& args, int part, int64_t at, double lse, double* weight) {
  const double part_lse = args.part_lse[part][at];
  *weight = std::exp(part_lse - lse);
  return !(part_lse == -std::numeric_limits<double>::infinity());
}

void merge_one(const MergeArgs& args, int64_t r) {
  const MergeRow row = merge_row(args, r);
  const double lse = merged_lse(args, r);
  args.lse[r] = static_cast<float>(lse);
  for (int64_t column = 0; column < args.head_dim_v; column += kColumns) {
    const int count = static_cast<int>(std::min<int64_t>(kColumns, args.head_dim_v - column));
    float values[kColumns];
    double sum[kColumns] = {};
    for (int part = 0; part < args.parts; ++part) {
      double weight;
      if (!part_weight(args, part, r, lse, &weight)) continue;
      read_columns(args.part_o[part], args.part_dtype, row, column, count, values);
      for (int c = 0; c < count; ++c) sum[c] += weight * static_cast<double>(values[c]);
    }
    for (int c = 0; c < count; ++c) values[c] = static_cast<float>(sum[c]);
    write_columns(args.o, args.dtype, row, column, count, values);
  }
}

/// With w = exp(part_lse - lse): grad_part_o = w grad_o and grad_part_lse = w (grad_o . (part_o - o) + grad_lse).
void differentiate_one(const MergeArgs& args, int64_t r) {
  const MergeRow row = merge_row(args, r);
  const double lse = merged_lse(args, r);
  for (int part = 0; part < args.parts; ++part) {
    double weight, dot = 0;
    const bool counts = part_weight(args, part, r, lse, &weight);
    for (int64_t column = 0; column < args.head_dim_v; column += kColumns) {
      const int count = static_cast<int>(std::min<int64_t>(kColumns, args.head_dim_v - column));
      float grad[kColumns], part_o[kColumns], o[kColumns], out[kColumns] = {};
      if (counts) {
        read_columns(args.grad_o, args.dtype, row, column, count, grad);
        read_columns(args.o, args.dtype, row, column, count, o);
        read_columns(args.part_o[part], args.part_dtype, row, column, count, part_o);
        for (int c = 0; c < count; ++c) {
          dot += static_cast<double>(grad[c]) * (static_cast<double>(part_o[c]) - static_cast<double>(o[c]));
          out[c] = static_cast<float>(weight * static_cast<double>(grad[c]));
        }
      }
      write_columns(args.grad_part_o[part], args.part_dtype, row, column, count, out);
    }
    const double grad_lse = args.grad_lse == nullptr ? 0.0 : static_cast<double>(args.grad_lse[r]);
    args.grad_part_lse[part][r] = counts ? static_cast<float>(weight * (dot + grad_lse)) : 0.0f;
  }
}

}  // namespace

void cpu_dropout_mask(const DropoutMaskArgs& args) {
  const int64_t heads = args.sizes[1], queries = args.sizes[2], keys = args.sizes[3];
  if (keys == 0) return;
  for_rows(args.sizes[0] * heads * queries, [&](int64_t r) {
    const int64_t query = r % queries, head = r / queries % heads, batch = r / queries / heads;
    const DropoutKey key{args.dropout.seed, args.dropout.offset, static_cast<uint32_t>(batch * heads + head), args.dropout.threshold(),
                         args.dropout.keep_scale()};
    uint8_t* const row = static_cast<uint8_t*>(args.out.data) + batch * args.out.batch_stride + head * args.out.head_stride + query * args.out.row_stride;
    kernels().dropout_row(key, static_cast<uint32_t>(query), keys, row);
  });
}

void cpu_merge(const MergeArgs& args) {
  for_rows(args.batch * args.heads_q * args.len_q, [&](int64_t r) { merge_one(args, r); });
}

void cpu_merge_backward(const MergeArgs& args) {
  for_rows(args.batch * args.heads_q * args.len_q, [&](int64_t r) { differentiate_one(args, r); });
}

}  // namespace fa
