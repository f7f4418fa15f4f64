// What the parameters of the two Hopper repair passes have in common.
#pragma once

#include "plan/problem.h"

namespace fa::sm90 {

/// Tensors of a repair pass, of this kernel or of the one for modified scores.
template <typename RepairParams>
void set_repair_tensors(const BackwardArgs& args, RepairParams* params) {
  params->q = static_cast<const uint16_t*>(args.q.data);
  params->k = static_cast<const uint16_t*>(args.k.data);
  params->v = static_cast<const uint16_t*>(args.v.data);
  params->grad_o = static_cast<const uint16_t*>(args.grad_o.data);
  params->grad_q = static_cast<uint16_t*>(args.grad_q.data);
  params->grad_k = static_cast<uint16_t*>(args.grad_k.data);
  params->grad_v = static_cast<uint16_t*>(args.grad_v.data);
  params->q_strides = args.q.strides;
  params->k_strides = args.k.strides;
  params->v_strides = args.v.strides;
  params->grad_o_strides = args.grad_o.strides;
  params->grad_q_strides = args.grad_q.strides;
  params->grad_k_strides = args.grad_k.strides;
  params->grad_v_strides = args.grad_v.strides;
  params->head_dim = static_cast<int>(args.problem.head_dim);
  params->head_dim_v = static_cast<int>(args.problem.head_dim_v);
}

}  // namespace fa::sm90
