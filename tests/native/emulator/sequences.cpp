// Sequences of different lengths: where their elements lie in the tensors, and the tables that the kernels read.
#include <algorithm>
#include <limits>

#include "attention_case.h"

namespace fa_test {

int AttentionCase::len_of(int b, bool of_q) const {
  if (!has_sequences()) return of_q ? options_.len_q : options_.len_kv;
  return (of_q ? options_.lens_q : options_.lens_kv)[static_cast<size_t>(b)];
}

AttentionCase::Place AttentionCase::place_of(int b, bool of_q) const {
  const int len = len_of(b, of_q);
  if (!packed()) {
    const int places = of_q ? options_.len_q : options_.len_kv;
    return {b, 0, places, options_.placement == Placement::kLeftPadded ? places - len : 0};
  }
  // Unused places: 0, 5, 10, 0, … of queries, one more of keys.
  const bool gaps = options_.placement != Placement::kPacked;
  int begin = 0;
  for (int before = 0; before < b; ++before) begin += len_of(before, of_q) + (gaps ? before % 3 * 5 + !of_q : 0);
  const int end = begin + len + (gaps ? b % 3 * 5 + !of_q : 0);
  return {0, begin, end, options_.placement == Placement::kPackedLeftPadded ? end - len : begin};
}

int AttentionCase::workspace_row(int b, int i) const {
  constexpr int kRows = fa::kSequenceRowPadding;
  const int begin = packed() ? (place_of(b, true).begin / kRows + b) * kRows : b * ((options_.len_q + kRows - 1) / kRows * kRows);
  return begin + i;
}

HalfTensor AttentionCase::placed(const HalfTensor& tensor, bool of_q) const {
  const int length = static_cast<int>(of_q ? problem_.len_q : problem_.len_kv);
  HalfTensor result(static_cast<int>(problem_.batch), length, tensor.heads, tensor.dim, tensor.pitch - tensor.dim);
  for (int b = 0; b < options_.batch; ++b) {
    for (int i = 0; i < len_of(b, of_q); ++i) {
      const uint16_t* source = &tensor.bits[tensor.index(b, i, 0)];
      std::copy(source, source + tensor.heads * tensor.pitch, &result.bits[result.index(place_of(b, of_q).batch, position_of(b, i, of_q), 0)]);
    }
  }
  return result;
}

void AttentionCase::place_sequences() {
  const auto places = [&](bool of_q) {
    std::vector<int32_t>&offsets = of_q ? cu_q_ : cu_kv_, &used = of_q ? used_q_ : used_kv_;
    offsets.push_back(0);
    const int longest = of_q ? options_.len_q : options_.len_kv;
    for (int b = 0; b < options_.batch; ++b) {
      const Place place = place_of(b, of_q);
      offsets.push_back(place.end);
      used.push_back(len_of(b, of_q));
    }
    return longest;
  };
  const int max_len_q = places(true), max_len_kv = places(false);
  const bool left = options_.placement == Placement::kLeftPadded || options_.placement == Placement::kPackedLeftPadded;
  problem_.variants.sequences = {true, packed(), left, options_.batch, max_len_q, max_len_kv};
  if (packed()) {
    const int tail = options_.placement == Placement::kPacked ? 0 : 3;
    problem_.batch = 1;
    problem_.len_q = cu_q_.back() + tail;
    problem_.len_kv = cu_kv_.back() + 2 * tail;
    variant_args_.cu_seqlens_q = cu_q_.data();
    variant_args_.cu_seqlens_kv = cu_kv_.data();
  }
  if (options_.placement != Placement::kPacked) {
    variant_args_.seqused_q = used_q_.data();
    variant_args_.seqused_kv = used_kv_.data();
  }
  for (HalfTensor* tensor : {&q_, &grad_o_}) *tensor = placed(*tensor, true);
  for (HalfTensor* tensor : {&k_, &v_}) *tensor = placed(*tensor, false);
  const auto output = [](const HalfTensor& like) { return HalfTensor(like.batch, like.seq, like.heads, like.dim, like.pitch - like.dim); };
  o_ = output(grad_o_);
  grad_q_ = output(q_);
  grad_k_ = output(k_);
  grad_v_ = output(v_);
  lse_.assign(static_cast<size_t>(problem_.batch * problem_.heads_q * problem_.len_q), std::numeric_limits<float>::quiet_NaN());
}

std::vector<double> AttentionCase::expected_at_places(const std::vector<double>& expected, const HalfTensor& output, bool of_q) const {
  if (!has_sequences()) return expected;
  const size_t row = static_cast<size_t>(output.heads * output.dim);
  const int length = of_q ? options_.len_q : options_.len_kv;
  std::vector<double> result(static_cast<size_t>(output.batch * output.seq) * row);
  for (int b = 0; b < options_.batch; ++b) {
    for (int i = 0; i < len_of(b, of_q); ++i) {
      const double* source = &expected[static_cast<size_t>(b * length + i) * row];
      std::copy(source, source + row, &result[static_cast<size_t>(place_of(b, of_q).batch * output.seq + position_of(b, i, of_q)) * row]);
    }
  }
  return result;
}

std::vector<double> AttentionCase::expected_lse() const {
  if (!has_sequences()) return expected_.lse;
  std::vector<double> result(lse_.size(), -std::numeric_limits<double>::infinity());
  for (int b = 0; b < options_.batch; ++b) {
    for (int h = 0; h < options_.heads_q; ++h) {
      for (int i = 0; i < len_of(b, true); ++i) {
        const int64_t at = (place_of(b, true).batch * options_.heads_q + h) * problem_.len_q + position_of(b, i, true);
        result[static_cast<size_t>(at)] = expected_.lse[static_cast<size_t>((b * options_.heads_q + h) * options_.len_q + i)];
      }
    }
  }
  return result;
}

fa::SequenceTableJob AttentionCase::new_table(bool of_q, int tile_rows) {
  tables_.emplace_back(fa::sequence_table_bytes(fa::sequence_tiles(problem_, of_q, tile_rows)) / sizeof(int32_t), -1);
  return fa::sequence_table_at(tables_.back().data(), problem_, of_q, tile_rows);
}

namespace {

fa::SequenceGap gap_of(HalfTensor* output, bool of_q) {
  const fa::Strides strides{static_cast<int64_t>(output->index(1, 0, 0)), static_cast<int64_t>(output->index(0, 1, 0)), output->pitch};
  return {output->bits.data(), strides, output->heads, output->dim, of_q};
}

}  // namespace

fa::SequenceJob AttentionCase::forward_job(int tile_rows) {
  fa::SequenceJob job = fa::sequence_job_of(problem_, variant_args_);
  job.tables[0] = new_table(true, tile_rows);
  job.gaps[0] = gap_of(&o_, true);
  job.lse = lse_.data();
  return job;
}

fa::SequenceJob AttentionCase::backward_job(int key_rows, int query_rows) {
  fa::SequenceJob job = fa::sequence_job_of(problem_, variant_args_);
  job.tables[0] = new_table(false, key_rows);
  job.tables[1] = new_table(true, query_rows);
  job.gaps[0] = gap_of(&grad_q_, true);
  job.gaps[1] = gap_of(&grad_k_, false);
  job.gaps[2] = gap_of(&grad_v_, false);
  return job;
}

}  // namespace fa_test
