#include "kernels/sm90/backward/launch.h"

namespace fa::sm90 {

void run_backward(const Sm90BackwardTile& tile, const BackwardArgs& args, void (*launch_main)(const BackwardParams&, cudaStream_t), int passes) {
  const Problem& problem = args.problem;
  const auto stream = static_cast<cudaStream_t>(args.stream);
  const bool has_queries = problem.batch > 0 && problem.len_q > 0;
  const bool has_keys = problem.batch > 0 && problem.len_kv > 0;
  if (has_queries && (passes & kPassPrepare)) {
    launch_backward_prepare(make_backward_pass_params(tile, args), problem.dtype, tile.head_dim, stream);
  }
  BackwardParams params{};
  if (has_keys) {
    params = make_backward_params(tile, args);
  }
  if (has_keys && (passes & kPassMain)) {
    launch_main(params, stream);
  }
  if (has_queries && (passes & kPassFinish)) {
    if (!tile.finishes_grad_q()) {
      launch_backward_finish(make_backward_pass_params(tile, args), problem.dtype, tile.head_dim, stream);
    }
    if (has_keys && problem.is_causal()) {
      launch_backward_repair(make_backward_repair_params(tile, args, params), problem.dtype, stream);
    }
  }
}

}  // namespace fa::sm90
