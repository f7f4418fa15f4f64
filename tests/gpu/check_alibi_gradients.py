#!/usr/bin/env python3
"""Checks gradients with ALiBi slopes on the GPU against attention written out in float64: also rows whose visible keys are all far away.

usage: FLASH_ATTENTION_LIBRARY=…/libflash_attention.so python3 check_alibi_gradients.py [--kernel auto|sm90|sm80]
"""
import argparse
import itertools
import sys

import torch

from checking import EPS, distances, reference, shown_pairs
from fa_ctypes import Library

# batch, len_q, len_kv, heads_q, heads_kv, head_dim
SHAPES = ((2, 300, 300, 4, 2, 128), (1, 700, 650, 3, 3, 128), (1, 129, 1000, 2, 1, 128), (1, 4000, 100, 4, 2, 128), (1, 2500, 130, 2, 2, 96),
          (1, 900, 200, 2, 2, 64))


def expected(q, k, v, grad_o, slopes, mask):
    """o, lse and gradients of all batch entries."""
    o = {} if mask == "none" else {"causal": mask}
    shape = q.shape[2], q.shape[1], k.shape[1]
    bias = -slopes.double()[:, None, None] * distances(*shape[1:], o)
    entries = [reference(q[b], k[b], v[b], grad_o[b], shown_pairs(b, *shape, o), bias=bias) for b in range(q.shape[0])]
    return {n: torch.stack([entry[n] for entry in entries]) for n in ("o", "lse", "grad_q", "grad_k", "grad_v")}


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
        want = expected(q, k, v, grad_o, slopes, mask)
        got = [torch.full_like(t, float("nan")) for t in (q, k, v)]
        library.backward_call(q, k, v, want["o"], grad_o, want["lse"].float(), *got, mask=mask, kernel=a.kernel, alibi_slopes=slopes)()
        torch.cuda.synchronize()
        cases += 1
        # Twice what rounding P and dS costs, and the rounding of the largest score in fp32.
        allowed = 2.0 * EPS[dtype] + 2.0**-22 * float(slopes.max()) * max(len_q, len_kv)
        problem = f"b{b} q{len_q} kv{len_kv} h{heads}/{heads_kv} d{dim} {mask} {str(dtype)[6:]}"
        for name, found in zip(("grad_q", "grad_k", "grad_v"), got):
            error = float((found.double() - want[name]).norm() / want[name].norm())
            if not error <= allowed:
                wrong.setdefault(problem, []).append(f"{name} {error:.2e}, allowed {allowed:.2e}")
    print(f"gradients with ALiBi, kernel {a.kernel}: {cases - len(wrong)} of {cases} cases right")
    for problem, texts in list(wrong.items())[:10]:
        print(f"  {problem}: relative errors {'; '.join(texts)}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
