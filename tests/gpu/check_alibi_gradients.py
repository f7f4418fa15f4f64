#!/usr/bin/env python3
"""Checks gradients with ALiBi slopes on the GPU against attention written out in float64: also rows whose visible keys are all far away.

usage: FLASH_ATTENTION_LIBRARY=…/libflash_attention.so python3 check_alibi_gradients.py [--kernel auto|sm90|sm80]
"""
import argparse
import itertools
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
from fa_ctypes import Library  # noqa: E402

EPS = {torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}
# batch, len_q, len_kv, heads_q, heads_kv, head_dim
SHAPES = ((2, 300, 300, 4, 2, 128), (1, 700, 650, 3, 3, 128), (1, 129, 1000, 2, 1, 128), (1, 4000, 100, 4, 2, 128), (1, 2500, 130, 2, 2, 96),
          (1, 900, 200, 2, 2, 64))


def reference(q, k, v, grad_o, slopes, mask, scale):
    """o, lse, grad_q, grad_k, grad_v in float64; o rounded to the inputs' type before the gradients."""
    dtype, group = q.dtype, q.shape[2] // k.shape[2]
    q, k, v, grad_o = (t.double().transpose(1, 2) for t in (q, k, v, grad_o))
    keys, values = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    position = torch.arange(q.shape[2], device=q.device)[:, None] + (k.shape[2] - q.shape[2] if mask == "bottom_right" else 0)
    column = torch.arange(k.shape[2], device=q.device)[None]
    s = q @ keys.transpose(-1, -2) * scale - slopes.double()[None, :, None, None] * (position - column).abs()
    if mask != "none":
        s = s.masked_fill(column > position, -torch.inf)
    lse = torch.logsumexp(s, -1, keepdim=True)
    p = torch.exp(s - lse).nan_to_num(0.0)
    o = (p @ values).to(dtype)
    ds = p * (grad_o @ values.transpose(-1, -2) - (o.double() * grad_o).sum(-1, keepdim=True))
    summed = lambda t: t.unflatten(1, (-1, group)).sum(2).transpose(1, 2)
    grads = (ds @ keys * scale).transpose(1, 2), summed(ds.transpose(-1, -2) @ q * scale), summed(p.transpose(-1, -2) @ grad_o)
    return o.transpose(1, 2), lse[..., 0].float(), *grads


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--kernel", default="auto")
    a = parser.parse_args()
    library, cases, wrong = Library(), 0, {}
    for (b, len_q, len_kv, heads, heads_kv, dim), mask, dtype in itertools.product(SHAPES, ("none", "top_left", "bottom_right"), EPS):
        torch.manual_seed(cases)
        make = lambda n, h: torch.randn(b, n, h, dim, device="cuda").to(dtype)
        q, k, v, grad_o = make(len_q, heads), make(len_kv, heads_kv), make(len_kv, heads_kv), make(len_q, heads)
        slopes = 2.0 ** -(torch.rand(heads, device="cuda") * 6 + 1)
        o, lse, *want = reference(q, k, v, grad_o, slopes, mask, dim**-0.5)
        got = [torch.full_like(t, float("nan")) for t in (q, k, v)]
        library.backward_call(q, k, v, o.contiguous(), grad_o, lse.contiguous(), *got, mask=mask, kernel=a.kernel, alibi_slopes=slopes)()
        torch.cuda.synchronize()
        cases += 1
        # Twice what rounding P and dS costs, and the rounding of the largest score in fp32.
        allowed = 2.0 * EPS[dtype] + 2.0**-22 * float(slopes.max()) * max(len_q, len_kv)
        problem = f"b{b} q{len_q} kv{len_kv} h{heads}/{heads_kv} d{dim} {mask} {str(dtype)[6:]}"
        for name, found, exact in zip(("grad_q", "grad_k", "grad_v"), got, want):
            error = float((found.double() - exact).norm() / exact.norm())
            if not error <= allowed:
                wrong.setdefault(problem, []).append(f"{name} {error:.2e}, allowed {allowed:.2e}")
    print(f"gradients with ALiBi, kernel {a.kernel}: {cases - len(wrong)} of {cases} cases right")
    for problem, texts in list(wrong.items())[:10]:
        print(f"  {problem}: relative errors {'; '.join(texts)}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
