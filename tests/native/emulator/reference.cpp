#include "reference.h"

#include <cuda_fp16.h>

#include <algorithm>
#include <cmath>

namespace fa_test {
namespace {

constexpr uint16_t kHalfNaN = 0x7fff;

/// Sizes, operands in float64, and what is computed from them.
struct Work {
  const ReferenceOptions& options;
  int len_q, len_kv, heads_q, heads_kv, dim, dim_v;
  std::vector<double> q, k, v, grad_o;
  Reference result;

  size_t query_row(int b, int i, int h) const { return static_cast<size_t>((b * len_q + i) * heads_q + h); }
  size_t key_row(int b, int j, int h) const { return static_cast<size_t>((b * len_kv + j) * heads_kv + h); }
};

const double* row_of(const std::vector<double>& values, size_t row, int dim) {
  return values.data() + row * static_cast<size_t>(dim);
}

double dot(const double* a, const double* b, int count) {
  double sum = 0;
  for (int i = 0; i < count; ++i) sum += a[i] * b[i];
  return sum;
}

void add_scaled(std::vector<double>* sums, size_t row, int dim, double factor, const double* values) {
  double* sum = sums->data() + row * static_cast<size_t>(dim);
  for (int d = 0; d < dim; ++d) sum[d] += factor * values[d];
}

/// A key that a query sees.
struct Seen {
  int key;
  double weight;      ///< the score, then the probability
  double derivative;  ///< of the score by scale q k
};

/// The keys that a query sees, with their scores.
std::vector<Seen> scores_of(const Work& work, int b, int h, int i) {
  const ReferenceOptions& options = work.options;
  const Modifications& mods = options.modifications;
  const int end = options.causal ? std::clamp(i + options.causal_offset + 1, 0, work.len_kv) : work.len_kv;
  const int kv_head = h / (work.heads_q / work.heads_kv);
  const double* q = row_of(work.q, work.query_row(b, i, h), work.dim);
  std::vector<Seen> seen;
  for (int j = 0; j < end; ++j) {
    if (mods.sees && !mods.sees(b, h, i, j)) continue;
    double score = options.scale * dot(q, row_of(work.k, work.key_row(b, j, kv_head), work.dim), work.dim), derivative = 1;
    if (mods.softcap > 0) {
      const double t = std::tanh(score / mods.softcap);
      score = mods.softcap * t;
      derivative = 1 - t * t;
    }
    if (mods.addend) score += mods.addend(b, h, i, j);
    seen.push_back({j, score, derivative});
  }
  return seen;
}

/// Turns scores into probabilities and returns the log-sum-exp.
double normalize(std::vector<Seen>* seen, double sink) {
  double highest = sink;
  for (const Seen& each : *seen) {
    if (!(each.weight <= highest)) highest = each.weight;  // NaN too
  }
  if (highest == -INFINITY) return highest;
  double total = std::exp(sink - highest);
  for (const Seen& each : *seen) total += std::exp(each.weight - highest);
  const double lse = highest + std::log(total);
  for (Seen& each : *seen) each.weight = std::exp(each.weight - lse);
  return lse;
}

/// Everything that one query row of one head contributes.
void attend_row(Work* work, int b, int h, int i) {
  const Modifications& mods = work->options.modifications;
  const int kv_head = h / (work->heads_q / work->heads_kv);
  const size_t row = work->query_row(b, i, h), flat_row = static_cast<size_t>((b * work->heads_q + h) * work->len_q + i);
  const double* q = row_of(work->q, row, work->dim);
  const double* grad_o = row_of(work->grad_o, row, work->dim_v);
  const double sink = mods.sinks.empty() ? -INFINITY : mods.sinks[static_cast<size_t>(h)];
  const auto keep = [&](int j) { return mods.keep ? mods.keep(b, h, i, j) : 1.0; };

  std::vector<Seen> seen = scores_of(*work, b, h, i);
  const double lse = normalize(&seen, sink);
  for (const Seen& each : seen) {
    add_scaled(&work->result.o, row, work->dim_v, keep(each.key) * each.weight, row_of(work->v, work->key_row(b, each.key, kv_head), work->dim_v));
  }
  const double delta = dot(row_of(work->result.o, row, work->dim_v), grad_o, work->dim_v);
  work->result.lse[flat_row] = lse;
  work->result.delta[flat_row] = delta;
  if (!mods.sinks.empty()) work->result.grad_sinks[static_cast<size_t>(h)] -= std::exp(sink - lse) * delta;
  for (const Seen& each : seen) {
    const size_t key = work->key_row(b, each.key, kv_head);
    const double grad_weight = keep(each.key) * dot(grad_o, row_of(work->v, key, work->dim_v), work->dim_v);
    const double grad_addend = each.weight * (grad_weight - delta);
    const double grad_score = grad_addend * each.derivative * work->options.scale;
    if (mods.addend) work->result.grad_addend[flat_row * static_cast<size_t>(work->len_kv) + static_cast<size_t>(each.key)] = grad_addend;
    add_scaled(&work->result.grad_q, row, work->dim, grad_score, row_of(work->k, key, work->dim));
    add_scaled(&work->result.grad_k, key, work->dim, grad_score, q);
    add_scaled(&work->result.grad_v, key, work->dim_v, keep(each.key) * each.weight, grad_o);
  }
}

}  // namespace

HalfTensor::HalfTensor(int batch_size, int length, int head_count, int head_dim, int padding)
    : batch(batch_size), seq(length), heads(head_count), dim(head_dim), pitch(head_dim + padding) {
  bits.assign(index(batch, 0, 0) + 8, kHalfNaN);
}

size_t HalfTensor::index(int b, int s, int h) const {
  return ((static_cast<size_t>(b) * static_cast<size_t>(seq) + static_cast<size_t>(s)) * static_cast<size_t>(heads) + static_cast<size_t>(h)) *
         static_cast<size_t>(pitch);
}

double HalfTensor::value(int b, int s, int h, int d) const {
  return __half2float({bits[index(b, s, h) + static_cast<size_t>(d)]});
}

std::vector<double> HalfTensor::values() const {
  std::vector<double> all;
  all.reserve(static_cast<size_t>(batch) * static_cast<size_t>(seq) * static_cast<size_t>(heads) * static_cast<size_t>(dim));
  for (int b = 0; b < batch; ++b) {
    for (int s = 0; s < seq; ++s) {
      for (int h = 0; h < heads; ++h) {
        for (int d = 0; d < dim; ++d) all.push_back(value(b, s, h, d));
      }
    }
  }
  return all;
}

Reference attention_reference(const ReferenceOptions& options, const HalfTensor& q, const HalfTensor& k, const HalfTensor& v, const HalfTensor& grad_o) {
  Work work{options, q.seq, k.seq, q.heads, k.heads, q.dim, v.dim, q.values(), k.values(), v.values(), grad_o.values(), {}};
  work.result.o.resize(work.grad_o.size());
  work.result.grad_q.resize(work.q.size());
  work.result.grad_k.resize(work.k.size());
  work.result.grad_v.resize(work.v.size());
  work.result.lse.resize(static_cast<size_t>(q.batch * q.heads * q.seq));
  work.result.delta.resize(work.result.lse.size());
  if (options.modifications.addend) work.result.grad_addend.resize(work.result.lse.size() * static_cast<size_t>(k.seq));
  work.result.grad_sinks.resize(options.modifications.sinks.size());
  for (int b = 0; b < q.batch; ++b) {
    for (int h = 0; h < q.heads; ++h) {
      for (int i = 0; i < q.seq; ++i) attend_row(&work, b, h, i);
    }
  }
  return work.result;
}

}  // namespace fa_test
