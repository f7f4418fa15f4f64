// Speed of the CPU backend through the C ABI: best of several runs, forward and backward. Not a test.
// Usage: cpu_bench [batch heads_q heads_kv len_q len_kv head_dim head_dim_v f32|f16|bf16 none|causal threads repetitions]
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <random>
#include <string>
#include <vector>

#include "flash_attention/flash_attention.h"

namespace {

struct Shape {
  int64_t batch = 1, heads_q = 8, heads_kv = 8, len_q = 2048, len_kv = 2048, head_dim = 128, head_dim_v = 128;
};

void check(fa_status status) {
  if (status == FA_STATUS_OK) return;
  std::fprintf(stderr, "%s: %s\n", fa_status_name(status), fa_last_error_message());
  std::exit(1);
}

uint16_t to_half(float value, fa_dtype dtype) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  if (dtype == FA_DTYPE_BFLOAT16) return static_cast<uint16_t>(bits >> 16);
  // The values are normal deviates: flush what binary16 has only as subnormals, cut the rest.
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude < 0x38800000u) return 0;
  return static_cast<uint16_t>((bits >> 16 & 0x8000u) | (magnitude - (112u << 23)) >> 13);
}

class Buffer {
 public:
  Buffer(int64_t batch, int64_t len, int64_t heads, int64_t dim, fa_dtype dtype, unsigned seed) {
    const int64_t count = batch * len * heads * dim;
    bytes_.resize(static_cast<size_t>(count) * (dtype == FA_DTYPE_FLOAT32 ? 4 : 2));
    std::mt19937 generator(seed);
    std::normal_distribution<float> normal;
    for (int64_t i = 0; seed != 0 && i < count; ++i) {
      const float value = normal(generator);
      const uint16_t half = to_half(value, dtype);
      if (dtype == FA_DTYPE_FLOAT32) {
        std::memcpy(bytes_.data() + i * 4, &value, 4);
      } else {
        std::memcpy(bytes_.data() + i * 2, &half, 2);
      }
    }
    tensor = {bytes_.data(), {batch, len, heads, dim}, {len * heads * dim, heads * dim, dim, 1}, dtype, 0};
  }
  fa_tensor tensor;

 private:
  std::vector<char> bytes_;
};

struct Timing {
  double wall_seconds = 1e30;
  double cpu_seconds = 1e30;  ///< of all threads of the process: what a busy machine leaves comparable
};

template <class Call>
Timing best_timing(int repetitions, Call call) {
  Timing best;
  for (int i = 0; i < repetitions; ++i) {
    const std::clock_t cpu_start = std::clock();
    const auto start = std::chrono::steady_clock::now();
    call();
    best.wall_seconds = std::min(best.wall_seconds, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    best.cpu_seconds = std::min(best.cpu_seconds, static_cast<double>(std::clock() - cpu_start) / CLOCKS_PER_SEC);
  }
  return best;
}

}  // namespace

int main(int argc, char** argv) {
  Shape s;
  int64_t* const sizes[] = {&s.batch, &s.heads_q, &s.heads_kv, &s.len_q, &s.len_kv, &s.head_dim, &s.head_dim_v};
  for (int i = 0; i < 7 && i + 1 < argc; ++i) *sizes[i] = std::atoll(argv[i + 1]);
  const std::string dtype_name = argc > 8 ? argv[8] : "f16", mask_name = argc > 9 ? argv[9] : "none";
  const fa_dtype dtype = dtype_name == "f32" ? FA_DTYPE_FLOAT32 : dtype_name == "f16" ? FA_DTYPE_FLOAT16 : FA_DTYPE_BFLOAT16;
  check(fa_cpu_set_num_threads(argc > 10 ? std::atoi(argv[10]) : 0));
  const int repetitions = argc > 11 ? std::atoi(argv[11]) : 5;

  Buffer q(s.batch, s.len_q, s.heads_q, s.head_dim, dtype, 1), k(s.batch, s.len_kv, s.heads_kv, s.head_dim, dtype, 2);
  Buffer v(s.batch, s.len_kv, s.heads_kv, s.head_dim_v, dtype, 3), o(s.batch, s.len_q, s.heads_q, s.head_dim_v, dtype, 0);
  Buffer grad_o(s.batch, s.len_q, s.heads_q, s.head_dim_v, dtype, 4), grad_q = q, grad_k = k, grad_v = v;
  grad_q = Buffer(s.batch, s.len_q, s.heads_q, s.head_dim, dtype, 0);
  grad_k = Buffer(s.batch, s.len_kv, s.heads_kv, s.head_dim, dtype, 0);
  grad_v = Buffer(s.batch, s.len_kv, s.heads_kv, s.head_dim_v, dtype, 0);
  std::vector<float> lse(static_cast<size_t>(s.batch * s.heads_q * s.len_q));

  fa_attention_options options{};
  options.struct_size = sizeof(options);
  options.mask = mask_name == "causal" ? FA_MASK_CAUSAL_BOTTOM_RIGHT : FA_MASK_NONE;
  fa_forward_params forward{};
  forward.struct_size = sizeof(forward);
  forward.q = q.tensor, forward.k = k.tensor, forward.v = v.tensor, forward.o = o.tensor;
  forward.lse = lse.data();
  forward.options = &options;
  fa_backward_params backward{};
  backward.struct_size = sizeof(backward);
  backward.q = q.tensor, backward.k = k.tensor, backward.v = v.tensor, backward.o = o.tensor, backward.grad_o = grad_o.tensor;
  backward.grad_q = grad_q.tensor, backward.grad_k = grad_k.tensor, backward.grad_v = grad_v.tensor;
  backward.lse = lse.data();
  backward.options = &options;
  check(fa_attention_forward_workspace_size(&forward, &forward.workspace_bytes));
  check(fa_attention_backward_workspace_size(&backward, &backward.workspace_bytes));
  std::vector<double> workspace((forward.workspace_bytes + backward.workspace_bytes) / 8 + 8);
  void* aligned = reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(workspace.data()) + 15) / 16 * 16);
  forward.workspace = backward.workspace = aligned;

  fa_plan_description plan{};
  plan.struct_size = sizeof(plan);
  fa_describe_params describe{};
  describe.struct_size = sizeof(describe);
  describe.q = q.tensor, describe.k = k.tensor, describe.v = v.tensor;
  describe.options = &options;
  for (const fa_pass pass : {FA_PASS_FORWARD, FA_PASS_BACKWARD}) {
    describe.pass = pass;
    check(fa_attention_describe(&describe, &plan));
    const Timing time = best_timing(repetitions, [&] { check(pass == FA_PASS_FORWARD ? fa_attention_forward(&forward) : fa_attention_backward(&backward)); });
    std::printf("%-20s %s %s  %4d x %3d tiles, %2d threads, workspace %6.2f MB: %8.3f ms, %6.1f GFLOP/s (%5.1f per CPU-second)\n", plan.kernel_name,
                dtype_name.c_str(), mask_name.c_str(), plan.tile_q, plan.tile_kv, plan.threads, static_cast<double>(plan.workspace_bytes) * 1e-6,
                time.wall_seconds * 1e3, plan.flops / time.wall_seconds * 1e-9, plan.flops / time.cpu_seconds * 1e-9);
  }
  return 0;
}
