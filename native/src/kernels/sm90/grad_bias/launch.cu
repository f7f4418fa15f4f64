#include <algorithm>

#include "attention/score_params.h"
#include "kernels/sm90/grad_bias/config.h"
#include "kernels/sm90/grad_bias/launch.h"
#include "kernels/sm90/tensor_map.h"
#include "runtime/cuda_check.h"

namespace fa::sm90 {

namespace {

using Launcher = void (*)(const SharedGradBiasParams&, int blocks, cudaStream_t);

template <typename Element, int kTileIndex>
constexpr Launcher kLauncher = launch_shared_grad_bias<SharedGradBiasConfig<Element, kTileIndex>>;

/// [tile][0: fp16, 1: bf16], in the order of kSm90GradBiasTiles.
constexpr Launcher kLaunchers[][2] = {{kLauncher<__half, 0>, kLauncher<__nv_bfloat16, 0>}, {kLauncher<__half, 1>, kLauncher<__nv_bfloat16, 1>}};
static_assert(sizeof(kLaunchers) / sizeof(kLaunchers[0]) == sizeof(kSm90GradBiasTiles) / sizeof(kSm90GradBiasTiles[0]), "one row per tile");

CUtensorMap encode_pairs(const PairTensor& pairs, const Problem& problem, const char* argument) {
  const Tensor as_tensor{pairs.data, {pairs.batch_stride, pairs.row_stride, pairs.head_stride}};
  return encode_tensor_map(as_tensor, {pairs.batches, pairs.rows, pairs.heads, problem.len_kv}, problem.dtype, 64, argument);
}

}  // namespace

void launch_shared_grad_bias(const BackwardArgs& args, const float* shift, const float* delta, int64_t padded_rows) {
  const Problem& problem = args.problem;
  if (problem.batch == 0 || problem.len_q == 0 || problem.len_kv == 0) {
    return;
  }
  constexpr int kRows = Sm90GradBiasTile::kRows;
  const PairTensor& bias = args.variants.bias;
  const TensorShape q_shape{problem.batch, problem.len_q, problem.heads_q, problem.head_dim};
  const TensorShape o_shape{problem.batch, problem.len_q, problem.heads_q, problem.head_dim_v};
  const TensorShape k_shape{problem.batch, problem.len_kv, problem.heads_kv, problem.head_dim};
  const TensorShape v_shape{problem.batch, problem.len_kv, problem.heads_kv, problem.head_dim_v};
  SharedGradBiasParams params{};
  params.map_q = encode_tensor_map(args.q, q_shape, problem.dtype, kRows, "params.q");
  params.map_k = encode_tensor_map(args.k, k_shape, problem.dtype, kRows, "params.k");
  params.map_v = encode_tensor_map(args.v, v_shape, problem.dtype, kRows, "params.v");
  params.map_grad_o = encode_tensor_map(args.grad_o, o_shape, problem.dtype, kRows, "params.grad_o");
  params.map_bias = encode_pairs(bias, problem, "params.bias");
  params.map_grad_bias = encode_pairs(args.grad_bias, problem, "params.grad_bias");
  params.shift = shift;
  params.delta = delta;
  params.padded_rows = padded_rows;
  params.range = pair_range_of(problem);
  params.scale_log2 = problem.scale * kScoreLog2E;
  params.heads_q = static_cast<int>(problem.heads_q);
  params.group_size = static_cast<int>(problem.group_size());
  params.bias_heads = static_cast<int>(bias.heads);
  params.bias_batches = static_cast<int>(bias.batches);
  params.shared_heads = static_cast<int>(problem.heads_q / bias.heads);
  params.shared_batches = static_cast<int>(problem.batch / bias.batches);
  params.row_tiles = static_cast<int>((problem.len_q + kRows - 1) / kRows);
  params.key_tiles = static_cast<int>((problem.len_kv + kRows - 1) / kRows);
  params.num_tiles = static_cast<int>(sm90_grad_bias_tiles(problem));

  int multiprocessors = 0;
  cuda_check(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, args.device.index), "number of multiprocessors");
  const int tile = std::max(problem.head_dim, problem.head_dim_v) <= kSm90GradBiasTiles[0].head_dim ? 0 : 1;
  kLaunchers[tile][problem.dtype == DType::kFloat16 ? 0 : 1](params, std::min(params.num_tiles, multiprocessors), static_cast<cudaStream_t>(args.stream));
}

}  // namespace fa::sm90
