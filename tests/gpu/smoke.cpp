// A small self-checking program for compute-sanitizer: every CUDA kernel family of the library against its CPU backend, through the C ABI alone.
//
//   smoke [--repeat N] [--kernel sm80|sm90] [--largest-dim N] [--part I/N]
//
// prints a line per problem; exit code 1 if one differs or if there are none, 2 for a wrong command line. --part: of the shapes, every N-th from the I-th on
// (counted from 1), so that slow tools can share them out.
//
// Each problem runs forward and backward (default and deterministic) on cuda:0 and on the CPU from the same random inputs. The backends share no kernel code.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "flash_attention/flash_attention.h"

namespace {

constexpr fa_device kCpu{FA_DEVICE_CPU, 0}, kCuda{FA_DEVICE_CUDA, 0};

void check(fa_status status) {
  if (status != FA_STATUS_OK) {
    std::fprintf(stderr, "%s: %s\n", fa_status_name(status), fa_last_error_message());
    std::exit(2);
  }
}

/// Modifications of the scores; see fa_attention_options.
struct Variant {
  const char* name = "";
  int64_t window_left = 0, window_right = 0, chunk = 0;
  float softcap = 0, dropout = 0;
  bool alibi = false, bias = false, visible = false, block_mask = false, sinks = false;
  bool bias16 = false;  ///< a bias of 16 bits instead of 32
  int sequences = 0;    ///< 1: lengths of batch entries, 2: the same, left-padded, 3: packed
};

struct Shape {
  int64_t batch, len_q, len_kv, heads_q, heads_kv, dim, dim_v;
  fa_mask mask;
  Variant variant{};
};

/// bfloat16 bits of a float and back: conversions that need no library.
uint16_t to_bfloat16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return static_cast<uint16_t>((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

float from_bfloat16(uint16_t value) {
  const uint32_t bits = static_cast<uint32_t>(value) << 16;
  float result;
  std::memcpy(&result, &bits, sizeof(result));
  return result;
}

/// Memory on one device, freed at the end of its scope.
class Buffer {
 public:
  Buffer(fa_device device, uint64_t bytes) : device_(device), bytes_(bytes) {
    check(fa_memory_allocate(device, bytes, &data_));
    check(fa_memory_set(device, data_, 0xFF, bytes, nullptr));  // NaN in every format
  }
  ~Buffer() { fa_memory_free(device_, data_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  void* data() const { return data_; }
  uint64_t bytes() const { return bytes_; }
  void write(const void* source) { check(fa_memory_copy(device_, data_, kCpu, source, bytes_, nullptr)); }
  void read(void* destination) const {
    check(fa_memory_copy(kCpu, destination, device_, data_, bytes_, nullptr));
    check(fa_device_synchronize(device_));
  }

 private:
  fa_device device_;
  uint64_t bytes_;
  void* data_ = nullptr;
};

fa_tensor tensor(const Buffer& buffer, int64_t batch, int64_t length, int64_t heads, int64_t dim) {
  fa_tensor t{};
  t.data = buffer.data();
  t.dtype = FA_DTYPE_BFLOAT16;
  const int64_t sizes[] = {batch, length, heads, dim}, strides[] = {length * heads * dim, heads * dim, dim, 1};
  std::memcpy(t.sizes, sizes, sizeof(sizes));
  std::memcpy(t.strides, strides, sizeof(strides));
  return t;
}

/// The tensors of a variant on one device, from random values that are the same on every device.
class Modifiers {
 public:
  static constexpr int kBlockQ = 32, kBlockKv = 48;

  Modifiers(fa_device device, const Shape& s)
      : variant_(s.variant),
        heads_(s.heads_q),
        slopes_(device, 4 * static_cast<uint64_t>(s.heads_q)),
        sinks_(device, 4 * static_cast<uint64_t>(s.heads_q)),
        grad_sinks_(device, 4 * static_cast<uint64_t>(s.heads_q)),
        bias_data_(device, 4 * count(s.heads_q, s.len_q, s.len_kv)),
        grad_bias_data_(device, 4 * count(s.heads_q, s.len_q, s.len_kv)),
        visible_data_(device, count(s.batch, s.len_q, s.len_kv)),
        block_data_(device, count(1, s.len_q, s.len_kv)),
        lengths_{{device, 64}, {device, 64}} {
    std::mt19937 random(11);
    write<float>(slopes_, heads_, [&](int64_t) { return static_cast<float>(random() % 64) / 128.0f; });
    write<float>(sinks_, heads_, [&](int64_t) { return static_cast<float>(random() % 64) / 32.0f - 1.0f; });
    const int64_t pairs = s.len_q * s.len_kv;
    const auto draw_bias = [&](int64_t) { return random() % 16 == 0 ? -INFINITY : static_cast<float>(random() % 256) / 64.0f - 2.0f; };
    if (variant_.bias16) {
      write<uint16_t>(bias_data_, heads_ * pairs, [&](int64_t i) { return to_bfloat16(draw_bias(i)); });
    } else {
      write<float>(bias_data_, heads_ * pairs, draw_bias);
    }
    write<uint8_t>(visible_data_, s.batch * pairs, [&](int64_t) { return static_cast<uint8_t>(random() % 4 != 0); });
    const int64_t rows = (s.len_q + kBlockQ - 1) / kBlockQ, cols = (s.len_kv + kBlockKv - 1) / kBlockKv;
    write<uint8_t>(block_data_, rows * cols, [&](int64_t) { return static_cast<uint8_t>(random() % 3 != 0); });
    bias_ = pair_tensor(bias_data_, variant_.bias16 ? FA_DTYPE_BFLOAT16 : FA_DTYPE_FLOAT32, 1, heads_, s.len_q, s.len_kv);
    visible_ = pair_tensor(visible_data_, FA_DTYPE_UINT8, s.batch, 1, s.len_q, s.len_kv);
    blocks_ = pair_tensor(block_data_, FA_DTYPE_UINT8, 1, 1, rows, cols);
    make_sequences(s);
  }

  void set(fa_attention_options& options) const {
    options.window_left = variant_.window_left;
    options.window_right = variant_.window_right;
    options.chunk = variant_.chunk;
    options.softcap = variant_.softcap;
    options.dropout = variant_.dropout;
    options.dropout_seed = variant_.dropout > 0 ? 0x123456789abcdef : 0;
    options.dropout_offset = variant_.dropout > 0 ? 5 : 0;
    options.alibi_slopes = variant_.alibi ? static_cast<const float*>(slopes_.data()) : nullptr;
    options.sinks = variant_.sinks ? static_cast<const float*>(sinks_.data()) : nullptr;
    options.bias = variant_.bias ? &bias_ : nullptr;
    options.visible = variant_.visible ? &visible_ : nullptr;
    options.block_mask = variant_.block_mask ? &blocks_ : nullptr;
    options.block_q = variant_.block_mask ? kBlockQ : 0;
    options.block_kv = variant_.block_mask ? kBlockKv : 0;
    options.sequences = variant_.sequences > 0 ? &sequences_ : nullptr;
  }
  void set(fa_backward_params& params) const {
    params.grad_sinks = variant_.sinks ? static_cast<float*>(grad_sinks_.data()) : nullptr;
    if (variant_.bias) {
      params.grad_bias = bias_;
      params.grad_bias.data = grad_bias_data_.data();
    }
  }
  /// Gradients of what set() asked for.
  std::vector<float> gradients() const {
    std::vector<float> values(static_cast<size_t>(variant_.sinks ? heads_ : 0));
    if (variant_.sinks) {
      grad_sinks_.read(values.data());
    }
    if (variant_.bias) {
      std::vector<uint16_t> bits(grad_bias_data_.bytes() / sizeof(uint16_t));
      grad_bias_data_.read(bits.data());
      for (int64_t i = 0; i < bias_.sizes[0] * bias_.strides[0]; ++i) {
        float value;
        std::memcpy(&value, &bits[static_cast<size_t>(variant_.bias16 ? 0 : 2 * i)], sizeof(value));
        values.push_back(variant_.bias16 ? from_bfloat16(bits[static_cast<size_t>(i)]) : value);
      }
    }
    return values;
  }

 private:
  /// Packed: four sequences, one of them without queries, one without keys, and unused places at the end. Else: shorter by 0, 70, 140 … elements.
  void make_sequences(const Shape& s) {
    const bool packed = variant_.sequences == 3;
    for (int i = 0; i < 2; ++i) {
      const int64_t length = i == 0 ? s.len_q : s.len_kv;
      write<int32_t>(lengths_[i], 8, [&](int64_t b) {
        const int64_t ends[] = {0, length / 2, length / 2 + (i == 0 ? 0 : 9), length - 10 - (i == 0 ? 20 : 0), length - 10};
        return static_cast<int32_t>(packed ? ends[b < 4 ? b : 4] : length > 70 * b ? length - 70 * b : 0);
      });
    }
    const int32_t* const lengths[] = {static_cast<const int32_t*>(lengths_[0].data()), static_cast<const int32_t*>(lengths_[1].data())};
    sequences_.struct_size = sizeof(sequences_);
    sequences_.left_padded = variant_.sequences == 2;
    sequences_.count = packed ? 4 : s.batch;
    (packed ? sequences_.cu_seqlens_q : sequences_.seqused_q) = lengths[0];
    (packed ? sequences_.cu_seqlens_kv : sequences_.seqused_kv) = lengths[1];
    sequences_.max_len_q = s.len_q;
    sequences_.max_len_kv = s.len_kv;
  }

  static uint64_t count(int64_t heads, int64_t rows, int64_t cols) { return static_cast<uint64_t>(heads * rows * cols) + 16; }
  template <class T, class Draw>
  static void write(Buffer& buffer, int64_t count, Draw&& draw) {
    std::vector<T> values(buffer.bytes() / sizeof(T));
    for (int64_t i = 0; i < count; ++i) {
      values[static_cast<size_t>(i)] = draw(i);
    }
    buffer.write(values.data());
  }
  static fa_tensor pair_tensor(const Buffer& buffer, fa_dtype dtype, int64_t batches, int64_t heads, int64_t rows, int64_t cols) {
    fa_tensor t{};
    t.data = buffer.data();
    t.dtype = dtype;
    const int64_t sizes[] = {batches, heads, rows, cols}, strides[] = {heads * rows * cols, rows * cols, cols, 1};
    std::memcpy(t.sizes, sizes, sizeof(sizes));
    std::memcpy(t.strides, strides, sizeof(strides));
    return t;
  }

  const Variant& variant_;
  const int64_t heads_;
  Buffer slopes_, sinks_, grad_sinks_, bias_data_, grad_bias_data_, visible_data_, block_data_, lengths_[2];
  fa_sequences sequences_{};
  fa_tensor bias_{}, visible_{}, blocks_{};
};

/// o, grad_q, grad_k, grad_v as floats, gradients of modifiers, and lse.
struct Results {
  std::vector<float> values[5];
  std::vector<float> lse;
};

Results run(fa_device device, const Shape& s, fa_kernel kernel, bool deterministic, const std::vector<uint16_t> (&inputs)[4]) {
  const uint64_t q_count = static_cast<uint64_t>(s.batch * s.len_q * s.heads_q * s.dim),
                 k_count = static_cast<uint64_t>(s.batch * s.len_kv * s.heads_kv * s.dim);
  const uint64_t v_count = static_cast<uint64_t>(s.batch * s.len_kv * s.heads_kv * s.dim_v),
                 o_count = static_cast<uint64_t>(s.batch * s.len_q * s.heads_q * s.dim_v);
  const uint64_t rows = static_cast<uint64_t>(s.batch * s.heads_q * s.len_q);
  Buffer q(device, 2 * q_count), k(device, 2 * k_count), v(device, 2 * v_count), grad_o(device, 2 * o_count), o(device, 2 * o_count), lse(device, 4 * rows);
  Buffer grad_q(device, 2 * q_count), grad_k(device, 2 * k_count), grad_v(device, 2 * v_count);
  Buffer* const sources[] = {&q, &k, &v, &grad_o};
  for (int i = 0; i < 4; ++i) {
    sources[i]->write(inputs[i].data());
  }
  fa_attention_options options{};
  options.struct_size = sizeof(options);
  options.mask = s.mask;
  options.deterministic = deterministic;
  options.kernel = kernel;
  const Modifiers modifiers(device, s);
  modifiers.set(options);

  fa_forward_params forward{};
  forward.struct_size = sizeof(forward);
  forward.device = device;
  forward.q = tensor(q, s.batch, s.len_q, s.heads_q, s.dim);
  forward.k = tensor(k, s.batch, s.len_kv, s.heads_kv, s.dim);
  forward.v = tensor(v, s.batch, s.len_kv, s.heads_kv, s.dim_v);
  forward.o = tensor(o, s.batch, s.len_q, s.heads_q, s.dim_v);
  forward.lse = static_cast<float*>(lse.data());
  forward.options = &options;
  uint64_t bytes = 0;
  check(fa_attention_forward_workspace_size(&forward, &bytes));
  Buffer forward_workspace(device, bytes + 16);
  forward.workspace = forward_workspace.data();
  forward.workspace_bytes = bytes;
  check(fa_attention_forward(&forward));

  fa_backward_params backward{};
  backward.struct_size = sizeof(backward);
  backward.device = device;
  backward.q = forward.q;
  backward.k = forward.k;
  backward.v = forward.v;
  backward.o = forward.o;
  backward.grad_o = tensor(grad_o, s.batch, s.len_q, s.heads_q, s.dim_v);
  backward.grad_q = tensor(grad_q, s.batch, s.len_q, s.heads_q, s.dim);
  backward.grad_k = tensor(grad_k, s.batch, s.len_kv, s.heads_kv, s.dim);
  backward.grad_v = tensor(grad_v, s.batch, s.len_kv, s.heads_kv, s.dim_v);
  backward.lse = forward.lse;
  backward.options = &options;
  modifiers.set(backward);
  check(fa_attention_backward_workspace_size(&backward, &bytes));
  Buffer backward_workspace(device, bytes + 16);
  backward.workspace = backward_workspace.data();
  backward.workspace_bytes = bytes;
  check(fa_attention_backward(&backward));

  Results results;
  const Buffer* const outputs[] = {&o, &grad_q, &grad_k, &grad_v};
  const uint64_t counts[] = {o_count, q_count, k_count, v_count};
  for (int i = 0; i < 4; ++i) {
    std::vector<uint16_t> bits(counts[i]);
    outputs[i]->read(bits.data());
    for (const uint16_t value : bits) {
      results.values[i].push_back(from_bfloat16(value));
    }
  }
  results.values[4] = modifiers.gradients();
  results.lse.resize(rows);
  lse.read(results.lse.data());
  return results;
}

/// Largest difference over the largest expected value; NaN counts as infinite.
double difference(const std::vector<float>& actual, const std::vector<float>& expected) {
  double worst = 0, scale = 1e-3;
  for (size_t i = 0; i < expected.size(); ++i) {
    if (std::isinf(expected[i]) && actual[i] == expected[i]) {
      continue;
    }
    const double error = std::fabs(static_cast<double>(actual[i]) - expected[i]);
    worst = !(error <= worst) ? (std::isnan(error) ? INFINITY : error) : worst;
    scale = std::fmax(scale, std::fabs(expected[i]));
  }
  return worst / scale;
}

/// True if the family computes the pass of this shape on cuda:0.
bool computes(const Shape& s, fa_kernel kernel, fa_pass pass) {
  fa_describe_params params{};
  params.struct_size = sizeof(params);
  params.pass = pass;
  params.device = kCuda;
  fa_attention_options options{};
  options.struct_size = sizeof(options);
  options.mask = s.mask;
  options.kernel = kernel;
  const Modifiers modifiers(kCpu, s);
  modifiers.set(options);
  params.options = &options;
  const int64_t sizes[3][4] = {{s.batch, s.len_q, s.heads_q, s.dim}, {s.batch, s.len_kv, s.heads_kv, s.dim}, {s.batch, s.len_kv, s.heads_kv, s.dim_v}};
  fa_tensor* const tensors[] = {&params.q, &params.k, &params.v};
  for (int i = 0; i < 3; ++i) {
    const int64_t* n = sizes[i];
    const int64_t strides[] = {n[1] * n[2] * n[3], n[2] * n[3], n[3], 1};
    std::memcpy(tensors[i]->sizes, n, sizeof(sizes[i]));
    std::memcpy(tensors[i]->strides, strides, sizeof(strides));
    tensors[i]->dtype = FA_DTYPE_BFLOAT16;
  }
  fa_plan_description description{};
  description.struct_size = sizeof(description);
  return fa_attention_describe(&params, &description) == FA_STATUS_OK;
}

Variant window() {
  Variant v;
  v.name = " window, chunk, softcap";
  v.window_left = 60;
  v.window_right = 3;
  v.chunk = 90;
  v.softcap = 5;
  return v;
}

Variant scores() {
  Variant v;
  v.name = " ALiBi, bias, sinks";
  v.alibi = v.bias = v.sinks = true;
  return v;
}

/// 1: lengths of batch entries, 2: the same, left-padded, 3: packed.
Variant sequences(int kind) {
  constexpr const char* kNames[] = {"", " padded", " left-padded, ALiBi, sinks", " packed"};
  Variant v;
  v.name = kNames[kind];
  v.sequences = kind;
  v.alibi = v.sinks = kind == 2;
  return v;
}

Variant bias16() {
  Variant v;
  v.name = " bias of 16 bits";
  v.bias = v.bias16 = true;
  return v;
}

Variant masks(float dropout) {
  Variant v;
  v.name = dropout > 0 ? " boolean and block mask, dropout" : " boolean and block mask";
  v.visible = v.block_mask = true;
  v.dropout = dropout;
  return v;
}

Variant softcap() {
  Variant v;
  v.name = " softcap";
  v.softcap = 5;
  return v;
}

Variant alibi() {
  Variant v;
  v.name = " ALiBi";
  v.alibi = true;
  return v;
}

/// The command line; ends the program if it is wrong.
struct Arguments {
  int repeat = 1, part = 0, parts = 1;
  int64_t largest_dim = 512;
  std::vector<fa_kernel> kernels{FA_KERNEL_SM80, FA_KERNEL_SM90};

  Arguments(int argc, char** argv) {
    for (int i = 1; i < argc; i += 2) {
      if (i + 1 == argc || !take(argv[i], argv[i + 1])) {
        std::fprintf(stderr, "smoke: wrong argument '%s%s%s'; see the head of smoke.cpp\n", argv[i], i + 1 < argc ? " " : "", i + 1 < argc ? argv[i + 1] : "");
        std::exit(2);
      }
    }
  }

 private:
  bool take(const std::string& name, const std::string& value) {
    if (name == "--repeat") return (repeat = std::atoi(value.c_str())) > 0;
    if (name == "--largest-dim") return (largest_dim = std::atoi(value.c_str())) > 0;
    if (name == "--part") return std::sscanf(value.c_str(), "%d/%d", &part, &parts) == 2 && --part >= 0 && part < parts;
    if (name != "--kernel" || (value != "sm80" && value != "sm90")) return false;
    kernels = {value == "sm80" ? FA_KERNEL_SM80 : FA_KERNEL_SM90};
    return true;
  }
};

}  // namespace

int main(int argc, char** argv) {
  const Arguments arguments(argc, argv);
  std::setvbuf(stdout, nullptr, _IOLBF, 0);  // what was done before a time limit is to be seen
  constexpr double kTolerance = 0.03;        // bfloat16 steps are 2^-8; P and dS are rounded once more on tensor cores
  const Shape shapes[] = {
      {1, 130, 200, 2, 2, 64, 64, FA_MASK_NONE},
      {2, 200, 130, 4, 2, 64, 64, FA_MASK_CAUSAL_BOTTOM_RIGHT},
      {1, 257, 257, 2, 1, 128, 128, FA_MASK_CAUSAL_TOP_LEFT},
      {1, 129, 300, 2, 2, 128, 128, FA_MASK_NONE},
      {1, 96, 160, 2, 2, 96, 96, FA_MASK_CAUSAL_BOTTOM_RIGHT},
      {1, 140, 140, 1, 1, 192, 128, FA_MASK_NONE},
      {1, 150, 170, 2, 1, 256, 256, FA_MASK_CAUSAL_BOTTOM_RIGHT},
      {1, 70, 65, 3, 3, 40, 72, FA_MASK_NONE},
      {1, 64, 0, 1, 1, 64, 64, FA_MASK_NONE},
      {1, 150, 170, 2, 1, 64, 64, FA_MASK_WINDOW_BOTTOM_RIGHT, window()},
      {2, 150, 200, 2, 2, 64, 64, FA_MASK_CAUSAL_BOTTOM_RIGHT, scores()},
      {1, 150, 200, 2, 1, 64, 64, FA_MASK_NONE, masks(0.2f)},
      {2, 150, 140, 2, 1, 128, 128, FA_MASK_WINDOW_TOP_LEFT, window()},
      {1, 200, 150, 2, 2, 128, 128, FA_MASK_NONE, scores()},
      {2, 150, 200, 2, 1, 128, 128, FA_MASK_CAUSAL_TOP_LEFT, masks(0.2f)},
      {1, 100, 140, 2, 1, 192, 128, FA_MASK_NONE, masks(0.2f)},
      {1, 130, 100, 2, 2, 256, 256, FA_MASK_CAUSAL_BOTTOM_RIGHT, scores()},
      {2, 150, 200, 2, 2, 64, 64, FA_MASK_CAUSAL_BOTTOM_RIGHT, masks(0)},
      {1, 200, 260, 2, 1, 128, 128, FA_MASK_NONE, masks(0)},
      {1, 150, 200, 2, 1, 128, 128, FA_MASK_CAUSAL_BOTTOM_RIGHT, softcap()},
      {1, 200, 150, 2, 2, 128, 128, FA_MASK_CAUSAL_TOP_LEFT, alibi()},
      {1, 130, 72, 2, 2, 64, 64, FA_MASK_CAUSAL_BOTTOM_RIGHT, bias16()},
      {1, 150, 200, 2, 1, 128, 128, FA_MASK_NONE, bias16()},
      {2, 90, 136, 2, 2, 256, 256, FA_MASK_NONE, bias16()},
      {3, 150, 200, 2, 1, 64, 64, FA_MASK_NONE, sequences(1)},
      {3, 150, 140, 2, 2, 128, 128, FA_MASK_CAUSAL_BOTTOM_RIGHT, sequences(2)},
      {1, 350, 400, 2, 1, 64, 64, FA_MASK_CAUSAL_BOTTOM_RIGHT, sequences(3)},
      {1, 350, 300, 2, 1, 128, 128, FA_MASK_NONE, sequences(3)},
      {1, 300, 350, 2, 1, 256, 256, FA_MASK_CAUSAL_TOP_LEFT, sequences(3)},
      {1, 2060, 200, 1, 1, 128, 128, FA_MASK_NONE},  // long enough for additions in bulk
      {1, 1030, 200, 1, 1, 64, 64, FA_MASK_CAUSAL_TOP_LEFT},
      {2, 100, 140, 2, 1, 512, 512, FA_MASK_CAUSAL_BOTTOM_RIGHT},
      {1, 70, 65, 2, 2, 320, 264, FA_MASK_NONE},
  };
  int failures = 0, problems = 0, index = 0;
  for (const Shape& s : shapes) {
    if (index++ % arguments.parts != arguments.part || s.dim > arguments.largest_dim || s.dim_v > arguments.largest_dim) continue;
    std::mt19937 random(7);
    std::normal_distribution<float> normal;
    std::vector<uint16_t> inputs[4];
    const int64_t counts[] = {s.batch * s.len_q * s.heads_q * s.dim, s.batch * s.len_kv * s.heads_kv * s.dim, s.batch * s.len_kv * s.heads_kv * s.dim_v,
                              s.batch * s.len_q * s.heads_q * s.dim_v};
    for (int i = 0; i < 4; ++i) {
      for (int64_t j = 0; j < counts[i]; ++j) {
        inputs[i].push_back(to_bfloat16(normal(random)));
      }
    }
    const Results expected = run(kCpu, s, FA_KERNEL_AUTO, false, inputs);
    for (const fa_kernel kernel : arguments.kernels) {
      if (!computes(s, kernel, FA_PASS_FORWARD) || !computes(s, kernel, FA_PASS_BACKWARD)) {
        // A family without one of the passes is reached through the planner's own choice.
        if (kernel == FA_KERNEL_SM80) {
          std::printf("sm80 refuses d=%lld/%lld: %s\n", static_cast<long long>(s.dim), static_cast<long long>(s.dim_v), fa_last_error_message());
          ++problems;
          ++failures;
          continue;
        }
        if (!computes(s, kernel, FA_PASS_FORWARD) && !computes(s, kernel, FA_PASS_BACKWARD)) {
          continue;
        }
      }
      const bool whole = computes(s, kernel, FA_PASS_BACKWARD) && computes(s, kernel, FA_PASS_FORWARD);
      for (int i = 0; i < 2 * arguments.repeat; ++i) {
        const bool deterministic = i % 2 == 1;
        const Results actual = run(kCuda, s, whole && !(deterministic && kernel == FA_KERNEL_SM90) ? kernel : FA_KERNEL_AUTO, deterministic, inputs);
        double worst = difference(actual.lse, expected.lse);
        for (int j = 0; j < 5; ++j) {
          worst = std::fmax(worst, difference(actual.values[j], expected.values[j]));
        }
        const bool passed = worst <= kTolerance;
        ++problems;
        failures += !passed;
        std::printf("%s b%lld q%lld kv%lld h%lld/%lld d%lld/%lld mask %d%s %s%s: %.4f\n", passed ? "ok  " : "FAIL", static_cast<long long>(s.batch),
                    static_cast<long long>(s.len_q), static_cast<long long>(s.len_kv), static_cast<long long>(s.heads_q), static_cast<long long>(s.heads_kv),
                    static_cast<long long>(s.dim), static_cast<long long>(s.dim_v), s.mask, s.variant.name,
                    whole ? (kernel == FA_KERNEL_SM80 ? "sm80" : "sm90") : "auto", deterministic ? " deterministic" : "", worst);
      }
    }
  }
  std::printf("%d passed, %d failed\n", problems - failures, failures);
  return failures == 0 && problems > 0 ? 0 : 1;
}
