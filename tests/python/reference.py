"""Attention from the definition, in float64 with torch's autograd: the oracle of the Python tests. Also the naive form in the dtype of the inputs, for the 2x
rule."""

import torch


def visible(len_q, len_kv, causal, device):
    """Boolean (len_q, len_kv): which keys a query sees."""
    i = torch.arange(len_q, device=device)[:, None]
    j = torch.arange(len_kv, device=device)[None, :]
    if causal is None:
        return torch.ones(len_q, len_kv, dtype=torch.bool, device=device)
    return j <= i + (len_kv - len_q if causal == "bottom_right" else 0)


def attention(q, k, v, causal=None, scale=None, round_to=None):
    """(o, lse) of (batch, sequence, heads, head_dim) tensors in their own dtype; rows that see no key give 0 and -inf.

    round_to: a dtype to which every intermediate matrix (and, through autograd, its gradient) is rounded, as an unfused implementation in that dtype stores it.
    """

    def rounded(tensor):
        return tensor if round_to is None else tensor.to(round_to).to(tensor.dtype)

    group = q.shape[2] // k.shape[2]
    k = k.repeat_interleave(group, dim=2)
    v = v.repeat_interleave(group, dim=2)
    scale = q.shape[3] ** -0.5 if scale is None else scale
    scores = rounded(rounded(torch.einsum("bihd,bjhd->bhij", q, k)) * scale)
    mask = visible(q.shape[1], k.shape[1], causal, q.device)
    scores = scores.masked_fill(~mask, float("-inf"))
    empty = ~mask.any(dim=1)
    # Rows without keys go through the softmax with finite scores and are cleared afterwards, so that no NaN enters a gradient.
    scores = scores.masked_fill(empty[:, None], 0.0)
    if k.shape[1] == 0:
        lse = torch.full(scores.shape[:3], float("-inf"), dtype=scores.dtype, device=q.device)
    else:
        lse = torch.logsumexp(scores, dim=3).masked_fill(empty, float("-inf"))
    p = rounded(torch.softmax(scores, dim=3).masked_fill(empty[:, None], 0.0))
    return rounded(torch.einsum("bhij,bjhd->bihd", p, v)), lse


def gradients(q, k, v, grad_o, grad_lse=None, causal=None, scale=None, dtype=torch.float64, round_to=None):
    """(o, lse, grad_q, grad_k, grad_v), computed in dtype; round_to as in attention, applied to the gradients as well."""
    leaves = [tensor.detach().to(dtype).requires_grad_() for tensor in (q, k, v)]
    o, lse = attention(*leaves, causal, scale, round_to)
    outputs, seeds = [o], [grad_o.to(dtype)]
    if grad_lse is not None:
        finite = torch.isfinite(lse)
        outputs.append(torch.where(finite, lse, torch.zeros_like(lse)))
        seeds.append(torch.where(finite, grad_lse.to(dtype), torch.zeros_like(lse)))
    grads = torch.autograd.grad(outputs, leaves, seeds, allow_unused=True)
    grads = [torch.zeros_like(leaf) if grad is None else grad for leaf, grad in zip(leaves, grads)]
    if round_to is not None:
        grads = [grad.to(round_to).to(dtype) for grad in grads]
    return (o.detach(), lse.detach(), *grads)
