// Attention and its gradients in float64, straight from the definition.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

namespace fa_test {

/// 16-bit floats, (batch, seq, heads, dim), rows padding elements apart. Padding, and everything not yet set, is NaN.
struct HalfTensor {
  HalfTensor() = default;
  HalfTensor(int batch_size, int length, int head_count, int head_dim, int padding);

  uint16_t& at(int b, int s, int h, int d) { return bits[index(b, s, h) + static_cast<size_t>(d)]; }
  double value(int b, int s, int h, int d) const;
  /// All elements in float64, without padding.
  std::vector<double> values() const;
  size_t index(int b, int s, int h) const;

  int batch = 0, seq = 0, heads = 0, dim = 0, pitch = 0;
  std::vector<uint16_t> bits;
};

struct Reference {
  std::vector<double> o, grad_q, grad_k, grad_v;  ///< like the tensors, without padding
  std::vector<double> lse, delta;                 ///< (batch, heads_q, len_q)
  std::vector<double> grad_sinks;                 ///< (heads_q), if there are sinks
  std::vector<double> grad_addend;                ///< (batch, heads_q, len_q, len_kv), if something is added to scores
};

/// What is done to scores beyond scale and causal mask, pair by pair. Arguments: batch, query head, query, key.
struct Modifications {
  std::function<bool(int, int, int, int)> sees;      ///< all if empty
  std::function<double(int, int, int, int)> addend;  ///< to the score, after softcap; 0 if empty
  std::function<double(int, int, int, int)> keep;    ///< factor on the probability that meets v; 1 if empty
  double softcap = 0;                                ///< 0: none
  std::vector<double> sinks;                         ///< (heads_q); empty: none
};

struct ReferenceOptions {
  double scale;
  bool causal;
  int causal_offset;  ///< query i sees key j iff j <= i + causal_offset, if causal
  Modifications modifications{};
};

Reference attention_reference(const ReferenceOptions& options, const HalfTensor& q, const HalfTensor& k, const HalfTensor& v, const HalfTensor& grad_o);

}  // namespace fa_test
