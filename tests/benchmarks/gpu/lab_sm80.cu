// One configuration of a portable kernel as a shared object for lab_sm80.py. The including file defines LAB_FORWARD or LAB_BACKWARD, the initialiser of a
// ForwardVariant or BackwardVariant; fp16, (batch, length, heads, head_dim) contiguous, heads_q == heads_kv.
#include <cuda_runtime.h>

#include <cstdio>

#ifdef LAB_FORWARD
#include "kernels/sm80/forward/kernel.cuh"
#else
#include "kernels/sm80/backward/kernel.cuh"
#endif

namespace {

using namespace fa::sm80;

fa::Problem problem_of(int64_t batch, int64_t length, int64_t heads, int64_t dim, int causal) {
  fa::Problem problem;
  problem.batch = batch;
  problem.len_q = problem.len_kv = length;
  problem.heads_q = problem.heads_kv = heads;
  problem.head_dim = problem.head_dim_v = dim;
  problem.mask = causal ? fa::Mask::kCausalBottomRight : fa::Mask::kNone;
  problem.scale = 1.0f / sqrtf(static_cast<float>(dim));
  problem.aligned_16_bytes = true;
  return problem;
}

template <class Params>
int launch(void (*kernel)(Params), int64_t blocks, int threads, int shared_bytes, Params params, cudaStream_t stream) {
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes);
  kernel<<<static_cast<unsigned>(blocks), threads, shared_bytes, stream>>>(params);
  return cudaGetLastError();
}

}  // namespace

#ifdef LAB_FORWARD
struct LabRow {
  static constexpr ForwardVariant kVariant = LAB_FORWARD;
};

extern "C" int lab_forward(void* q, void* k, void* v, void* o, float* lse, int64_t batch, int64_t length, int64_t heads, int64_t dim, int causal,
                           void* stream) {
  using Config = ForwardConfig<__half, LabRow>;
  const fa::Problem problem = problem_of(batch, length, heads, dim, causal);
  ForwardParams params{};
  params.q = static_cast<uint16_t*>(q);
  params.k = static_cast<uint16_t*>(k);
  params.v = static_cast<uint16_t*>(v);
  params.o = static_cast<uint16_t*>(o);
  params.lse = lse;
  params.q_strides = params.k_strides = params.v_strides = params.o_strides = {length * heads * dim, heads * dim, dim};
  params.shape = shape_of(problem);
  params.order = {ceil_div(length, Config::kTileQ), batch, heads, fa::TileOrder::even_section(batch * heads, 8), causal != 0};
  return launch(forward_kernel<Config>, params.order.num_tiles * batch * heads, Config::kThreads, sizeof(Config::Shared), params,
                static_cast<cudaStream_t>(stream));
}
#else
struct LabRow {
  static constexpr BackwardVariant kVariant = LAB_BACKWARD;
};

extern "C" int lab_backward(void* q, void* k, void* v, void* grad_o, void* grad_k, void* grad_v, float* lse_log2, float* delta, float* accumulator,
                            int64_t batch, int64_t length, int64_t heads, int64_t dim, int causal, void* stream) {
  using Config = BackwardConfig<__half, LabRow>;
  const fa::Problem problem = problem_of(batch, length, heads, dim, causal);
  BackwardParams params{};
  params.q = static_cast<uint16_t*>(q);
  params.k = static_cast<uint16_t*>(k);
  params.v = static_cast<uint16_t*>(v);
  params.grad_o = static_cast<uint16_t*>(grad_o);
  params.grad_k = static_cast<uint16_t*>(grad_k);
  params.grad_v = static_cast<uint16_t*>(grad_v);
  const fa::Strides strides{length * heads * dim, heads * dim, dim};
  params.q_strides = params.k_strides = params.v_strides = params.grad_o_strides = params.grad_k_strides = params.grad_v_strides = strides;
  params.lse_log2 = lse_log2;
  params.delta = delta;
  params.grad_q_accumulator = accumulator;
  params.padded_rows = length;
  params.padded_dim = Config::kDim;
  params.shape = shape_of(problem);
  params.num_q_tiles = static_cast<int>(ceil_div(length, Config::kTileQ));
  const int section = fa::TileOrder::even_section(batch * heads, fa::TileOrder::choose_section(batch * heads, 8 * length * dim, int64_t{50} << 20));
  params.order = {ceil_div(length, Config::kTileKV), batch, heads, section};
  return launch(backward_kernel<Config>, params.order.num_tiles * batch * heads, Config::kThreads, sizeof(Config::Shared), params,
                static_cast<cudaStream_t>(stream));
}
#endif
