// A C++17 consumer: forward and backward of a small fp32 problem on the CPU; the gradients are checked against central differences of the forward pass.
#include <flash_attention/flash_attention.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

constexpr std::int64_t kBatch = 1, kLength = 6, kHeads = 2, kDim = 8;

void check(fa_status status, const char* call) {
  if (status != FA_STATUS_OK) throw std::runtime_error(std::string(call) + ": " + fa_status_name(status) + ": " + fa_last_error_message());
}

// A (batch, sequence, heads, head_dim) tensor that owns its values.
class Tensor {
 public:
  explicit Tensor(float value = 0.0f) : values_(kBatch * kLength * kHeads * kDim, value) {}

  fa_tensor view() {
    fa_tensor t{};
    t.data = values_.data();
    t.dtype = FA_DTYPE_FLOAT32;
    const std::array<std::int64_t, FA_TENSOR_RANK> sizes{kBatch, kLength, kHeads, kDim};
    std::int64_t stride = 1;
    for (int d = FA_TENSOR_RANK - 1; d >= 0; --d) {
      t.sizes[d] = sizes[d];
      t.strides[d] = stride;
      stride *= sizes[d];
    }
    return t;
  }

  void randomize(std::mt19937& random) {
    std::normal_distribution<float> normal;
    for (float& value : values_) value = normal(random);
  }

  float& operator[](std::size_t i) { return values_[i]; }
  std::size_t size() const { return values_.size(); }

 private:
  std::vector<float> values_;
};

struct Attention {
  Tensor q, k, v, o{NAN};
  std::vector<float> lse = std::vector<float>(kBatch * kHeads * kLength, NAN);
  fa_attention_options options{};

  Attention() {
    options.struct_size = sizeof options;
    options.mask = FA_MASK_CAUSAL_TOP_LEFT;
  }

  void forward() {
    fa_forward_params params{};
    params.struct_size = sizeof params;
    params.device.type = FA_DEVICE_CPU;
    params.q = q.view();
    params.k = k.view();
    params.v = v.view();
    params.o = o.view();
    params.lse = lse.data();
    params.options = &options;
    check(fa_attention_forward_workspace_size(&params, &params.workspace_bytes), "fa_attention_forward_workspace_size");
    check(fa_memory_allocate(params.device, params.workspace_bytes, &params.workspace), "fa_memory_allocate");
    const fa_status status = fa_attention_forward(&params);
    check(fa_memory_free(params.device, params.workspace), "fa_memory_free");
    check(status, "fa_attention_forward");
  }

  void backward(Tensor& grad_o, Tensor& grad_q, Tensor& grad_k, Tensor& grad_v) {
    fa_backward_params params{};
    params.struct_size = sizeof params;
    params.device.type = FA_DEVICE_CPU;
    params.q = q.view();
    params.k = k.view();
    params.v = v.view();
    params.o = o.view();
    params.grad_o = grad_o.view();
    params.grad_q = grad_q.view();
    params.grad_k = grad_k.view();
    params.grad_v = grad_v.view();
    params.lse = lse.data();
    params.options = &options;
    check(fa_attention_backward_workspace_size(&params, &params.workspace_bytes), "fa_attention_backward_workspace_size");
    check(fa_memory_allocate(params.device, params.workspace_bytes, &params.workspace), "fa_memory_allocate");
    const fa_status status = fa_attention_backward(&params);
    check(fa_memory_free(params.device, params.workspace), "fa_memory_free");
    check(status, "fa_attention_backward");
  }

  // sum(o * weight), the scalar whose gradient backward gives for grad_o = weight.
  double loss(Tensor& weight) {
    forward();
    double sum = 0.0;
    for (std::size_t i = 0; i < weight.size(); ++i) sum += static_cast<double>(o[i]) * weight[i];
    return sum;
  }
};

// Largest difference between a gradient and central differences with step 2^-7 (error about step^2 and fp32 rounding / step).
double worst_difference(Attention& attention, Tensor& input, Tensor& gradient, Tensor& weight) {
  constexpr float kStep = 1.0f / 128.0f;
  double worst = 0.0;
  for (std::size_t i = 0; i < input.size(); ++i) {
    const float saved = input[i];
    input[i] = saved + kStep;
    const double above = attention.loss(weight);
    input[i] = saved - kStep;
    const double below = attention.loss(weight);
    input[i] = saved;
    const double difference = std::abs((above - below) / (2.0 * kStep) - gradient[i]);
    if (!(difference <= worst)) worst = std::isnan(difference) ? INFINITY : difference;
  }
  return worst;
}

}  // namespace

int main() try {
  std::mt19937 random(7);
  Attention attention;
  Tensor weight, grad_q(NAN), grad_k(NAN), grad_v(NAN);
  for (Tensor* tensor : {&attention.q, &attention.k, &attention.v, &weight}) tensor->randomize(random);
  attention.forward();
  attention.backward(weight, grad_q, grad_k, grad_v);
  const double error_q = worst_difference(attention, attention.q, grad_q, weight);
  const double error_k = worst_difference(attention, attention.k, grad_k, weight);
  const double error_v = worst_difference(attention, attention.v, grad_v, weight);
  std::printf("flash_attention %s from C++: gradients against differences: dq %.2g, dk %.2g, dv %.2g\n", fa_version(), error_q, error_k, error_v);
  return error_q <= 1e-3 && error_k <= 1e-3 && error_v <= 1e-3 ? 0 : 1;
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
